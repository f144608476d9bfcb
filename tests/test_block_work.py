import multiprocessing
import pickle
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kernels.prepare import Plan, make_plan
from miner import packs
from miner.block_work import BlockTask, BlockWork, in_turn
from miner.blocks import BlockSearch
from miner.codes import CodeShelf
from miner.config import JoinSettings, SelectSettings
from miner.errors import StoreError
from miner.join import join
from miner.records import Json
from miner.store import Store
from tests.lazy_runs import raw_bytes
from tests.runs import CLIP, DINO, make_store

SETTINGS = JoinSettings(clip_above=0.9, dino_below=0.6)


def search(work: BlockWork, task: BlockTask) -> str:
    work.open().commit(task)
    return task.name


def by_processes(work: BlockWork, tasks: Sequence[BlockTask]) -> Iterator[str]:
    """Blocks are handed to fresh processes, the last first."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        yield from pool.map(search, [work] * len(tasks), list(reversed(tasks)))


def run(root: Path) -> Store:
    return make_store(root, num_shards=6, rows=40)


def joined(store: Store, **options: Any) -> tuple[Json, dict[str, bytes]]:
    record = join(store, CLIP, DINO, SETTINGS, SelectSettings(), **options)
    return record, raw_bytes(store)


def test_other_processes_find_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packs, "SEGMENT_ROWS", 80)
    record, expected = joined(run(tmp_path / "one"))
    assert record["search"]["num_blocks"] == 6
    assert record["counts"]["blind"] > 100
    shared, found = joined(run(tmp_path / "many"), hand_out=by_processes)
    assert found == expected
    assert shared["counts"] == record["counts"]
    assert not (tmp_path / "many" / "packed").exists() or not any(
        (tmp_path / "many" / "packed").rglob("*.*")
    )


def test_what_was_committed_is_not_handed_out_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packs, "SEGMENT_ROWS", 80)
    expected = joined(run(tmp_path / "whole"))[1]
    store = run(tmp_path / "cut")

    def stops(work: BlockWork, tasks: Sequence[BlockTask]) -> Iterator[str]:
        yield from in_turn(work, tasks[:4])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        joined(store, hand_out=stops)
    left = []

    def counted(work: BlockWork, tasks: Sequence[BlockTask]) -> Iterator[str]:
        left.append(len(tasks))
        yield from by_processes(work, tasks)

    assert joined(store, hand_out=counted)[1] == expected
    assert left == [2]


def test_work_is_small_when_it_travels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packs, "SEGMENT_ROWS", 80)
    sizes = []

    def weighed(work: BlockWork, tasks: Sequence[BlockTask]) -> Iterator[str]:
        sizes.extend([len(pickle.dumps(work)), *(len(pickle.dumps(task)) for task in tasks)])
        yield from in_turn(work, tasks)

    joined(run(tmp_path), hand_out=weighed)
    assert len(sizes) == 7
    assert max(sizes) < 4096


def test_a_node_that_does_not_see_the_rows(tmp_path: Path) -> None:
    def elsewhere(work: BlockWork, tasks: Sequence[BlockTask]) -> Iterator[str]:
        unseen = replace(work.packs[0], folder=tmp_path / "nowhere")
        yield from in_turn(replace(work, packs=(unseen,)), tasks)

    with pytest.raises(StoreError, match="every node has to see the folder"):
        joined(run(tmp_path / "run"), hand_out=elsewhere)


def with_codes(*rows_and_above: Any, screen: str) -> Plan:
    """The plan of a machine on which codes pay, for so few rows too."""
    return make_plan(*rows_and_above, screen="int8-16" if screen == "auto" else screen)


def test_a_machine_without_exact_codes_multiplies_in_float32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The plan is another machine's; whether its products are exact is this one's matter."""
    monkeypatch.setattr(packs, "SEGMENT_ROWS", 80)
    monkeypatch.setattr("miner.blocks.make_plan", with_codes)
    expected = joined(run(tmp_path / "one"))[1]

    def elsewhere(work: BlockWork, tasks: Sequence[BlockTask]) -> Iterator[str]:
        vectors = [pack.open() for pack in work.packs]
        shelf = CodeShelf(work.packs[0].folder / "codes")
        assert BlockSearch(vectors, "cpu", 0.9, shelf)._plan.format == "int8"  # type: ignore[union-attr]
        monkeypatch.setattr("miner.blocks.is_trusted", lambda format: format == "float32")
        assert BlockSearch(vectors, "cpu", 0.9, shelf)._plan.format == "float32"  # type: ignore[union-attr]
        yield from in_turn(work, tasks)

    assert joined(run(tmp_path / "many"), hand_out=elsewhere)[1] == expected
    assert "too coarsely for the join to be exact" in caplog.text


def test_a_long_block_gives_signs_of_life(tmp_path: Path) -> None:
    signs = []

    def watched(work: BlockWork, tasks: Sequence[BlockTask]) -> Iterator[str]:
        worker = work.open()
        for task in tasks:
            worker.commit(task, on_tile=lambda: signs.append("a tile"))
            yield task.name

    joined(run(tmp_path), hand_out=watched)
    assert signs
