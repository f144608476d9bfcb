"""Work on a real Ray cluster whose workers die, hang and leave."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from miner.config import ExecutorSettings
from miner.errors import FingerprintError, MinerError, ResourceError
from pipelines.executors import Outcome
from pipelines.ray_crew import Crew, Member
from pipelines.ray_executor import RayExecutor
from tests.misbehaving import Deed, Misbehaving, Told
from tests.ray_clusters import Watching, cluster, store_bytes

__all__ = ["cluster"]

TWO = {"executor": "ray", "num_workers": 2, "cores_per_worker": 1, "worker_start_s": 120.0}


def run(
    folder: Path,
    tasks: list[Deed],
    opens: str = "well",
    times: int = 10**6,
    executor_type: type[RayExecutor] = RayExecutor,
    **settings: Any,
) -> dict[str, Outcome[Deed, Told]]:
    folder.mkdir(exist_ok=True)
    work = Misbehaving(folder=folder, opens=opens, times=times)
    with executor_type(ExecutorSettings(**TWO | settings), "cpu") as executor:
        outcomes = list(executor.run(work, tasks))
    assert len({outcome.task.name for outcome in outcomes}) == len(outcomes) == len(tasks)
    return {outcome.task.name: outcome for outcome in outcomes}


def well(number: int, takes_s: float = 0.1) -> list[Deed]:
    return [Deed(name=f"well{place}", takes_s=takes_s) for place in range(number)]


def test_two_workers_share_the_tasks_and_open_once(cluster: Cluster, tmp_path: Path) -> None:
    outcomes = run(tmp_path, well(8, 0.5), executor_type=Watching)
    assert Watching.most_bytes < 2**16
    told = [outcome.report for outcome in outcomes.values() if outcome.report]
    assert len(told) == 8
    assert len({report.pid for report in told}) == 2
    assert {report.num_opened for report in told} == {1}
    # A second task is there while the first is done.
    assert any(report.num_ahead == 1 for report in told)
    assert len(list(tmp_path.glob("closed *"))) == 2


def test_a_report_too_large_for_ray_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    outcomes = run(tmp_path, [Deed(name="chatty", does="tells much"), *well(1)])
    assert "report of chatty has 100" in str(outcomes["chatty"].error)


def test_the_object_store_is_watched(cluster: Cluster, tmp_path: Path) -> None:
    """What the tests call its use is its use."""
    with RayExecutor(ExecutorSettings(**TWO), "cpu") as executor:
        list(executor.run(Misbehaving(folder=tmp_path), well(1)))
        held = ray.put(bytes(2**20))
        deadline_s = time.monotonic() + 20
        while store_bytes() < 2**20:
            assert time.monotonic() < deadline_s
            time.sleep(0.1)
        del held


def test_progress_comes_while_a_task_is_at_work(cluster: Cluster, tmp_path: Path) -> None:
    steps: list[tuple[float, int]] = []
    work = Misbehaving(folder=tmp_path)
    with RayExecutor(ExecutorSettings(**TWO), "cpu") as executor:
        for _ in executor.run(
            work,
            [Deed(name="long", takes_s=4.0)],
            on_progress=lambda number: steps.append((time.monotonic(), number)),
        ):
            assert len(steps) > 1
    assert sum(number for _, number in steps) == 40


def test_in_turn_tasks_follow_outcomes(cluster: Cluster, tmp_path: Path) -> None:
    done: list[str] = []

    def tasks() -> Iterator[Deed]:
        for place in range(3):
            assert len(done) == place
            yield Deed(name=f"d{place}")

    with RayExecutor(ExecutorSettings(**TWO), "cpu") as executor:
        for outcome in executor.run(Misbehaving(folder=tmp_path), tasks(), in_turn=True):
            done += [outcome.task.name]
    assert done == ["d0", "d1", "d2"]


@pytest.mark.parametrize(
    ("does", "says"),
    [
        ("leaves", r"the worker called sys\.exit\(0\)"),
        ("exits", "worker process has died"),
        ("exits well", "worker process has died"),
        ("raises", "a mistake at this task"),
    ],
)
def test_poison_is_given_up_after_three_attempts(
    cluster: Cluster, tmp_path: Path, does: str, says: str
) -> None:
    outcomes = run(tmp_path, [Deed(name="poison", does=does), *well(4)])
    poison = outcomes.pop("poison")
    assert poison.report is None
    assert poison.num_attempts == 3
    assert poison.error is not None
    assert poison.error.startswith("given up after 3 attempts: 1. ")
    assert len(re.findall(says, poison.error)) == 3
    assert all(outcome.report for outcome in outcomes.values())


def test_a_neighbour_of_poison_is_not_given_up(cluster: Cluster, tmp_path: Path) -> None:
    """What is read ahead may kill the worker; the task before it is blamed once, and no more."""
    poison = Deed(name="poison", does="read ahead is killed")
    outcomes = run(tmp_path, [*well(2, 0.5), poison, *well(0)], num_workers=1)
    assert outcomes.pop("poison").num_attempts == 3
    assert all(outcome.report for outcome in outcomes.values())
    assert max(outcome.num_attempts for outcome in outcomes.values()) <= 2


@pytest.mark.parametrize("does", ["is killed", "faults"])
def test_a_task_that_fails_once_is_done_in_the_end(
    cluster: Cluster, tmp_path: Path, does: str
) -> None:
    outcomes = run(tmp_path, [Deed(name="unlucky", does=does, times=1), *well(3)])
    assert all(outcome.report for outcome in outcomes.values())
    assert outcomes["unlucky"].num_attempts == 2


@pytest.mark.parametrize("does", ["hangs", "freezes", "holds everything"])
def test_who_hangs_is_replaced(cluster: Cluster, tmp_path: Path, does: str) -> None:
    tasks = [Deed(name="sleepy", does=does, times=1), *well(2)]
    # Longer than the silence that is allowed, but not silent.
    tasks.append(Deed(name="slow", takes_s=7.0))
    outcomes = run(tmp_path, tasks, worker_silence_s=5.0)
    assert all(outcome.report for outcome in outcomes.values())
    assert outcomes["sleepy"].num_attempts == 2
    assert outcomes["slow"].num_attempts == 1


def test_errors_of_the_whole_run_are_raised(cluster: Cluster, tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="there is no such thing here"):
        run(tmp_path / "a", well(1), opens="lacks")
    with pytest.raises(FingerprintError, match="the run is another one"):
        run(tmp_path / "b", [Deed(name="other", does="refuses")])
    with pytest.raises(ResourceError, match="5 Ray workers in a row ended before they were ready"):
        run(tmp_path / "c", well(1), opens="leaves", num_workers=1)
    outcomes = run(tmp_path / "d", well(1), opens="exits", times=2, num_workers=1)
    assert outcomes["well0"].num_attempts == 1


def test_one_sick_worker_does_not_end_the_run(
    cluster: Cluster, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tasks = [Deed(name="unlucky", does="cannot reach", times=1), *well(2)]
    outcomes = run(tmp_path / "a", tasks)
    assert all(outcome.report for outcome in outcomes.values())
    assert outcomes["unlucky"].num_attempts == 2
    # A worker was ready before: that the next one cannot be opened is its node's fault.
    tasks = [Deed(name="unlucky", does="is killed", times=1)]
    outcomes = run(tmp_path / "b", tasks, opens="lacks the second time", num_workers=1)
    assert outcomes["unlucky"].report is not None
    assert outcomes["unlucky"].num_attempts == 2
    assert "ended before it was ready: there is no such thing here" in caplog.text


def test_a_driver_that_was_away_blames_nobody(cluster: Cluster, tmp_path: Path) -> None:
    """Whoever takes the outcomes may take his time, or the driver may be stopped."""
    tasks = [Deed(name="quick"), *(Deed(name=f"slow{n}", takes_s=9.0) for n in range(2))]
    settings = ExecutorSettings(**TWO | {"worker_silence_s": 4.0})
    with RayExecutor(settings, "cpu") as executor:
        outcomes = executor.run(Misbehaving(folder=tmp_path), tasks)
        assert next(outcomes).task.name == "quick"
        time.sleep(6.0)
        assert [(o.num_attempts, o.error) for o in outcomes] == [(1, None), (1, None)]


def test_a_mistake_of_the_actor_itself_is_said_to_be_one(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An actor asks for fewer words than the driver has: another version is on its node.
    monkeypatch.setattr(Crew, "ask", lambda crew: [ask_wrongly(m) for m in crew.members])
    with pytest.raises(MinerError, match=r"a Ray actor's own code failed .* every node has the dr"):
        run(tmp_path, well(1, 2.0))


def ask_wrongly(member: Member[Deed]) -> None:
    if member.asking is None:
        member.asking = member.actor.do.remote(None)


def test_nobody_waits_for_ever_for_a_worker(
    cluster: Cluster, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        settings = {"cores_per_worker": 64, "worker_start_s": 1.0}
        with pytest.raises(ResourceError, match="no Ray worker was ready within 1 s: each needs"):
            run(tmp_path, well(1), **settings)
    assert "each worker needs 64 cores, and the Ray cluster has" in caplog.text
    assert "waiting for nodes to be added" in caplog.text
    with (
        RayExecutor(ExecutorSettings(executor="ray", worker_start_s=1.0), "cuda") as executor,
        pytest.raises(ResourceError, match="each needs a GPU and"),
    ):
        list(executor.run(Misbehaving(folder=tmp_path), well(1)))


def test_a_node_that_leaves_and_one_that_comes(
    cluster: Cluster, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its tasks are done elsewhere, and its going counts for no failure."""
    leaving = cluster.add_node(num_cpus=1, resources={"leaving": 1})
    work = Misbehaving(folder=tmp_path)
    settings = ExecutorSettings(executor="ray", cores_per_worker=1, worker_start_s=120.0)
    pids: list[int] = []
    num_left = 0
    coming: list[Any] = []

    def tasks() -> Iterator[Deed]:
        """As many as it takes until four workers have done some."""
        deadline_s = time.monotonic() + 120
        for number in count():
            if len(set(pids)) == 4:
                return
            assert time.monotonic() < deadline_s
            yield Deed(name=f"d{number}", takes_s=0.3)

    with RayExecutor(settings, "cpu") as executor:
        for outcome in executor.run(work, tasks()):
            assert outcome.report is not None, outcome.error
            pids.append(outcome.report.pid)
            if len(set(pids)) == 3 and num_left == 0:
                cluster.remove_node(leaving, allow_graceful=False)
                num_left = len(pids)
            elif num_left and not coming and len(pids) > num_left + 6:
                coming.append(cluster.add_node(num_cpus=1))
    assert "was taken away; its tasks are tried elsewhere" in caplog.text
    assert "is replaced" not in caplog.text
    cluster.remove_node(coming[0])
