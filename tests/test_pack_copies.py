import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from miner import packs
from miner.block_work import BlockTask, BlockWork, in_turn
from miner.config import JoinSettings, SelectSettings
from miner.errors import StoreError
from miner.join import join
from miner.pack_copies import Copy
from miner.store import Store
from tests.buckets import objects, upload
from tests.runs import CLIP, DINO, commit_shard, make_store, unit

SETTINGS = JoinSettings(clip_above=0.9, dino_below=0.6)


def raw(store: Store) -> list[bytes]:
    record = join(store, CLIP, DINO, SETTINGS, SelectSettings())
    parts = [file["path"] for file in record["files"] if "/raw/" in file["path"]]
    return [store.files.read(part) for part in parts]


def test_a_node_that_sees_only_the_bucket_finds_the_same(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packs, "SEGMENT_ROWS", 80)
    local = make_store(tmp_path / "run", num_shards=6, rows=40)
    upload(tmp_path / "run", f"{s3}/run")
    expected = raw(local)
    monkeypatch.setattr("miner.run_place.SCRATCH", tmp_path / "head")
    store = Store(f"{s3}/run")
    seen = []
    fetched: set[str] = set()

    def on_another_node(work: BlockWork, tasks: Sequence[BlockTask]) -> Iterator[str]:
        """A node on which the driver's folder is not there; its own is another."""
        there = tuple(replace(pack, folder=tmp_path / "gone") for pack in work.packs)
        monkeypatch.setattr("miner.run_place.SCRATCH", tmp_path / "node")
        seen.append(sorted(path for path in objects(f"{s3}/run") if path.startswith("packed/")))
        for name in in_turn(replace(work, packs=there), tasks):
            fetched.update(path.name for path in (tmp_path / "node").rglob("*.npy"))
            yield name

    join(store, CLIP, DINO, SETTINGS, SelectSettings(), hand_out=on_another_node)
    assert raw(store) == expected
    assert [path.rpartition("/")[2] for path in seen[0]] == ["clip.npy", "dino.npy", "pack.json"]
    assert fetched == {"clip.npy", "dino.npy"}
    assert not list((tmp_path / "node").rglob("*.npy"))
    assert not any(path.startswith("packed/") for path in objects(f"{s3}/run"))


def test_a_node_that_finds_no_copy(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_store(tmp_path / "run")
    upload(tmp_path / "run", f"{s3}/run")
    monkeypatch.setattr("miner.run_place.SCRATCH", tmp_path / "head")
    store = Store(f"{s3}/run")

    def too_late(work: BlockWork, tasks: Sequence[BlockTask]) -> Iterator[str]:
        for pack in work.packs:
            shutil.rmtree(pack.folder)
        store.files.delete_folder("packed")
        yield from in_turn(work, tasks)

    with pytest.raises(StoreError, match="does not hold the packed vectors"):
        join(store, CLIP, DINO, SETTINGS, SelectSettings(), hand_out=too_late)


def test_a_copy_is_fetched_once_and_goes_with_its_last_reader(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_store(tmp_path / "run")
    upload(tmp_path / "run", f"{s3}/run")
    node = Store(f"{s3}/run")
    places: list[Path] = []

    def fetched(work: BlockWork, tasks: Sequence[BlockTask]) -> Iterator[str]:
        (pack,) = work.packs
        gone = replace(pack, folder=tmp_path / "gone")
        assert work.join is not None
        first, second = (Copy(node, work.join, gone, tmp_path / "node") for _ in range(2))
        assert first.pack == second.pack
        first.close()
        assert second.pack.lie_there()
        places.append(second.pack.folder)
        # The second's holder is killed.
        assert second._lock is not None
        second._lock.close()
        yield from in_turn(work, tasks)

    how = SETTINGS.model_copy(update={"scratch": tmp_path / "head"})
    join(node, CLIP, DINO, how, SelectSettings(), hand_out=fetched)
    commit_shard(node, "00009", unit(torch.randn(4, 32)), unit(torch.randn(4, 24)))
    join(node, CLIP, DINO, how, SelectSettings(), hand_out=fetched)
    assert places[0] != places[1]
    folders = [path for path in places[0].parent.iterdir() if path.is_dir()]
    assert folders == [places[-1]]
