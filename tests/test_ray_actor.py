"""What runs inside an actor, called from threads as Ray does; no Ray is needed for that."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from miner.errors import FingerprintError, ResourceError
from pipelines.ray_actor import Actor
from tests.misbehaving import Deed, Misbehaving


def test_calls_overlap_and_each_gets_its_own_report(tmp_path: Path) -> None:
    actor = Actor(Misbehaving(folder=tmp_path), 1)
    assert actor.open().failure == ""
    with ThreadPoolExecutor(2) as calls:
        first = calls.submit(actor.do, Deed(name="a", takes_s=3.0))
        while actor.num_steps() == 0:
            assert not first.done()
        second = calls.submit(actor.do, Deed(name="b", takes_s=0.2))
    told = [call.result().report for call in (first, second)]
    assert [report.num_ahead for report in told if report] == [1, 0]
    assert (first.result().num_steps, second.result().num_steps) == (30, 32)
    # One more after it had nothing to do.
    assert actor.do(Deed(name="c")).report is not None
    actor.close()
    assert len(list(tmp_path.glob("closed *"))) == 1
    assert actor.do(Deed(name="d")).failure == "the worker ended before its tasks did"


@pytest.mark.parametrize(
    ("does", "says"),
    [
        ("leaves", "the worker called sys.exit(0)"),
        ("raises", "the worker raised RuntimeError: a mistake at this task ("),
        ("tells much", "AssertionError: report of bad has 100"),
        ("lacks", "the worker raised miner.errors.ResourceError: there is no such thing here"),
        ("cannot reach", "the worker raised miner.errors.StoreError: the storage cannot be reach"),
    ],
)
def test_what_ends_a_worker_is_told_to_all_who_wait(tmp_path: Path, does: str, says: str) -> None:
    actor = Actor(Misbehaving(folder=tmp_path), None)
    with ThreadPoolExecutor(2) as calls:
        first = calls.submit(actor.do, Deed(name="bad", does=does, takes_s=0.3))
        second = calls.submit(actor.do, Deed(name="waits"))
        assert says in first.result().failure
        # It may have come before, or after the end.
        assert second.result().report is not None or says in second.result().failure
    assert says in actor.do(Deed(name="late")).failure
    assert first.result().error is None


def test_errors_of_the_whole_run_travel_as_they_are(tmp_path: Path) -> None:
    actor = Actor(Misbehaving(folder=tmp_path, opens="lacks"), None)
    assert isinstance(actor.open().error, ResourceError)
    actor = Actor(Misbehaving(folder=tmp_path), None)
    reply = actor.do(Deed(name="other", does="refuses"))
    assert isinstance(reply.error, FingerprintError)
    assert reply.failure == "the run is another one"
