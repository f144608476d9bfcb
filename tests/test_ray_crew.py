"""Whom a crew hires: real actors on a Ray cluster of two cores."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster as Nodes

from miner.config import ExecutorSettings
from pipelines import ray_crew
from pipelines.ray_cluster import Cluster
from pipelines.ray_crew import Crew
from tests.misbehaving import Deed, Misbehaving, Told
from tests.ray_clusters import cluster

__all__ = ["cluster"]

SOON_S = 60.0


@contextmanager
def crew_on(folder: Path, device: str = "cpu", **settings: Any) -> Iterator[Crew[Deed, Told]]:
    """A crew that looks at its cluster whenever it hires."""
    given = ExecutorSettings(executor="ray", worker_start_s=SOON_S, **settings)
    connected = Cluster(given, device)
    crew: Crew[Deed, Told] = Crew(connected, Misbehaving(folder=folder), given)
    try:
        yield crew
    finally:
        crew.close(gently=False)
        connected.close()


def wait_until(crew: Crew[Deed, Told], num_placed: int, num_wanted: int = 10) -> None:
    """Hire until so many members run somewhere."""
    end_s = time.monotonic() + SOON_S
    while sum(bool(member.node_id) for member in crew.members) < num_placed:
        assert time.monotonic() < end_s
        crew.hire(num_wanted)
        for member in crew.members:
            if member.placing is not None:
                done, _ = ray.wait([member.placing], timeout=0.1)
                if done:
                    crew.placed(member, ray.get(done[0]).node_id)


@pytest.fixture(autouse=True)
def looks_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_crew, "LOOK_S", 0.0)


def test_one_waits_beyond_those_that_have_room(cluster: Nodes, tmp_path: Path) -> None:
    """So that a cluster that can grow does: a new node is used, and the next one asked for."""
    with crew_on(tmp_path, cores_per_worker=1) as crew:
        wait_until(crew, 2)
        for _ in range(3):
            crew.hire(10)
            assert len(crew.members) == 3
        node = cluster.add_node(num_cpus=1)
        wait_until(crew, 3)
        crew.hire(10)
        assert len(crew.members) == 4
        cluster.remove_node(node)


def test_no_more_than_are_wanted_or_allowed(cluster: Nodes, tmp_path: Path) -> None:
    with crew_on(tmp_path, cores_per_worker=1) as crew:
        crew.hire(1)
        assert len(crew.members) == 1
    with crew_on(tmp_path, cores_per_worker=1, num_workers=5) as crew:
        # Asked for at once, so that so many nodes can be added at once.
        crew.hire(10)
        assert len(crew.members) == 5


@ray.remote(num_cpus=2)
class Other:
    """Somebody else's actor."""

    def is_there(self) -> bool:
        return True


def test_what_others_use_is_not_asked_for(cluster: Nodes, tmp_path: Path) -> None:
    with crew_on(tmp_path, cores_per_worker=1) as crew:
        other: Any = Other.remote()
        assert ray.get(other.is_there.remote(), timeout=SOON_S)
        end_s = time.monotonic() + SOON_S
        while ray.available_resources().get("CPU", 0) > 0:
            assert time.monotonic() < end_s
        crew.hire(10)
        crew.hire(10)
        assert len(crew.members) == 1
        ray.kill(other)
        wait_until(crew, 2)


def test_needs_are_known_when_the_first_gpu_node_comes(cluster: Nodes, tmp_path: Path) -> None:
    with crew_on(tmp_path, "cuda") as crew:
        crew.hire(10)
        assert str(crew._cluster.needs) == "a GPU and 1 cores"
        # Ray takes our word for the GPU.
        node = cluster.add_node(num_cpus=4, num_gpus=1)
        end_s = time.monotonic() + SOON_S
        while str(crew._cluster.needs) == "a GPU and 1 cores":
            assert time.monotonic() < end_s
            crew.hire(10)
        assert str(crew._cluster.needs) == "a GPU and 4 cores"
        wait_until(crew, 1)
        cluster.remove_node(node)


def test_loading_is_measured_from_the_placement(cluster: Nodes, tmp_path: Path) -> None:
    with crew_on(tmp_path, cores_per_worker=1) as crew:
        wait_until(crew, 1, num_wanted=1)
        (member,) = crew.members
        assert not crew.is_silent(member)
        member.placed_s -= 10 * SOON_S
        assert crew.is_silent(member)


def test_false_starts_beside_those_at_work_end_nothing(cluster: Nodes, tmp_path: Path) -> None:
    with crew_on(tmp_path, cores_per_worker=1) as crew:
        wait_until(crew, 1, num_wanted=1)
        crew.ready(crew.members[0])
        for _ in range(ray_crew.MOST_FALSE_STARTS + 1):
            crew.false_start("this node is sick")
        crew.hire(10)
        assert len(crew.members) == 1
