"""The blocks of a join, searched by an executor's workers."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any

import pytest
from ray.cluster_utils import Cluster

from miner import packs
from miner.audit import verify
from miner.block_work import in_turn
from miner.config import ExecutorSettings, JoinSettings, SelectSettings
from miner.errors import ResourceError
from miner.join import join
from miner.store import Store
from pipelines.executors import Executor, Inline, OnProgress, Outcome, Work
from pipelines.join_work import hand_out_by
from pipelines.ray_executor import RayExecutor
from tests.lazy_runs import raw_bytes
from tests.ray_clusters import cluster
from tests.runs import CLIP, DINO, make_store

__all__ = ["cluster"]

SETTINGS = JoinSettings(clip_above=0.9, dino_below=0.6)


def run(root: Path) -> Store:
    return make_store(root, num_shards=6, rows=40)


def test_two_ray_workers_find_the_same_bytes(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packs, "SEGMENT_ROWS", 80)
    alone, shared = run(tmp_path / "alone"), run(tmp_path / "shared")
    record = join(alone, CLIP, DINO, SETTINGS, SelectSettings())
    assert record["search"]["num_blocks"] == 6
    settings = ExecutorSettings(executor="ray", num_workers=2, cores_per_worker=1)
    told: list[tuple[int, int]] = []
    with RayExecutor(settings, "cpu") as executor:
        join(
            shared,
            CLIP,
            DINO,
            SETTINGS,
            SelectSettings(),
            lambda done, number: told.append((done, number)),
            hand_out=hand_out_by(executor),
        )
    assert raw_bytes(shared) == raw_bytes(alone)
    assert told == [(done, 6) for done in range(7)]
    assert verify(shared) == []


class Failing(Executor):
    """Does some tasks, and gives up the others."""

    def run(
        self,
        work: Work[Any, Any],
        tasks: Iterable[Any],
        *,
        in_turn: bool = False,
        on_progress: OnProgress = lambda _: None,
    ) -> Generator[Outcome[Any, Any]]:
        """Every second task fails."""
        for number, outcome in enumerate(Inline().run(work, tasks, on_progress=on_progress)):
            if number % 2:
                yield Outcome(task=outcome.task, error="given up after 3 attempts")
            else:
                yield outcome


def test_blocks_that_nobody_could_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packs, "SEGMENT_ROWS", 80)
    store = run(tmp_path)
    with pytest.raises(ResourceError, match="3 of 6 blocks of the join could not be searched"):
        join(store, CLIP, DINO, SETTINGS, SelectSettings(), hand_out=hand_out_by(Failing()))
    # The same command goes on.
    assert join(store, CLIP, DINO, SETTINGS, SelectSettings())["counts"]["blind"] > 0


def test_one_process_keeps_its_codes_to_itself() -> None:
    assert hand_out_by(Inline()) is in_turn
