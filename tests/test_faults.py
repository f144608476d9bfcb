"""Faults that are injected for real, by fixed seeds; `make chaos` goes on with others."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from miner.audit import verify
from miner.config import EmbedSettings, ExecutorSettings, JoinSettings, ReadSettings, SelectSettings
from miner.store import Store
from pipelines.embedding import embed
from pipelines.joins import join_and_select
from pipelines.ray_executor import RayExecutor
from tests import chaos
from tests.chaos_world import FINISHED_S, World, committed, tables
from tests.commands import Commands
from tests.ray_clusters import cluster
from tests.sabotage import MOMENTS, WAYS, Deed, Plot, Saboteur
from tests.small import write_corpus

__all__ = ["cluster"]

NUM_KILLS = 12


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World.make(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World.make(tmp_path_factory.mktemp("large"), num_shards=60, images=4)


def test_sixty_shards_and_twelve_kills(large: World, tmp_path: Path) -> None:
    assert len(large.commits) == 60 * 3 + 1
    did = chaos.driver_killed(large, random.Random(0), tmp_path / "run", NUM_KILLS)
    # Most kills have to hit the middle of the work, or this shows nothing.
    found = re.fullmatch(r"12 kills, (\d+) in the middle of the work", did)
    assert found is not None
    assert int(found[1]) >= NUM_KILLS // 2


def test_sixty_shards_and_twelve_kills_on_ray(
    large: World, cluster: Cluster, tmp_path: Path
) -> None:
    on_ray = large.on_ray(cluster.address)
    did = chaos.workers_killed(on_ray, random.Random(1), tmp_path / "run", NUM_KILLS - 2, 2)
    assert did == f"{NUM_KILLS} processes killed, 2 of them drivers"


@pytest.mark.parametrize("name", ["drivers-race", "disk-full", "shard-changed"])
def test_fault(world: World, tmp_path: Path, name: str) -> None:
    assert chaos.FAULTS[name](world, random.Random(0), tmp_path / "run")


def test_calls_of_ray_fail(
    world: World, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those by which the driver hands tasks to its workers."""
    monkeypatch.setattr(chaos, "RPC_METHODS", chaos.RPC_METHODS[:1])
    on_ray = world.on_ray(cluster.address)
    assert chaos.rpc_failures(on_ray, random.Random(0), tmp_path / "run")


@pytest.mark.parametrize("seed", range(4))
def test_whatever_is_damaged_is_named(world: World, tmp_path: Path, seed: int) -> None:
    chaos.file_damaged(world, random.Random(seed), tmp_path / "run")


def test_workers_that_end_at_every_moment(
    world: World, cluster: Cluster, commands: Commands, tmp_path: Path
) -> None:
    """Each shard is embedded once, whatever became of those who had it before."""
    deeds = [Deed(moment=moment) for moment in MOMENTS]
    deeds += [
        Deed(moment=moment, way=way)
        for moment, way in zip(("while it is decoded",) * 3, WAYS[1:], strict=True)
    ]
    corpus = tmp_path / "corpus"
    write_corpus(corpus, num_shards=len(deeds), images=6)
    marks = tmp_path / "marks"
    marks.mkdir()
    names = [f"corpus.{number:05d}" for number in range(len(deeds))]
    plot = Plot(deeds=dict(zip(names, deeds, strict=True)), marks=marks)
    clip, dino = (word for word in commands.encoders if word.endswith(".safetensors"))
    encode = EmbedSettings(
        clip="small-clip",
        dino="small-dino",
        clip_weights=clip,
        dino_weights=dino,
        batch_size=4,
        decoders="thread",
    )
    who = ExecutorSettings(executor="ray", num_workers=2, cores_per_worker=1, worker_silence_s=10.0)
    how = JoinSettings(clip_above=0.9, dino_below=0.8)
    ends = {}
    for name, executor in (
        ("calm", None),
        ("sabotaged", Saboteur(RayExecutor(who, "cpu"), plot)),
    ):
        store = Store(tmp_path / name)
        read = ReadSettings(dataset="corpus", max_bad_fraction=0.5)
        done = embed([str(corpus)], store, read, encode, {"command": "test"}, executor=executor)
        if executor is not None:
            executor.close()
        assert done.failed == {}
        assert done.num_samples == 6 * len(deeds)
        join_and_select(store, done.clip, done.dino, how, SelectSettings())
        assert verify(store) == []
        assert store.leftovers() == []
        ends[name] = tables(tmp_path / name), committed(tmp_path / name).keys()
    assert len(list(marks.iterdir())) == len(deeds)
    assert ends["sabotaged"] == ends["calm"]


def test_settings_of_reading_that_change_are_named(world: World, tmp_path: Path) -> None:
    run = tmp_path / "run"
    world.finish(run)
    other = replace(world, options=(*world.options, "--max-pixels", "5000"))
    process = other.start(run)
    process.join(FINISHED_S)
    assert process.exitcode == 2
    told = run.with_suffix(".err").read_text()
    assert "max_pixels: 100000000 recorded, 5000 now" in told
    world.finish_and_check(run)


@pytest.mark.parametrize("seed", range(6))
def test_whichever_operation_of_the_storage_fails(world: World, tmp_path: Path, seed: int) -> None:
    """`tests/test_failing.py` goes through every one of them, below the command."""
    chaos.storage_fails(world, random.Random(seed), tmp_path / "run")
