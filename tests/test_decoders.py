"""Decode workers, and what becomes of images whose worker is killed by a signal."""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
import torch

from miner import decode_process, decoders
from miner.arena import PLACE_BYTES
from miner.config import ImageLimits
from miner.crops import CropSpec
from miner.decode import Decode, Found, Job, Order, Outcome, Refused, Reply, decode_order
from miner.decoders import Decoders, default_num_decoders
from miner.errors import ResourceError
from miner.ring import Ring
from miner.schema import Reason
from tests.dying import HANGS, KILLS, KILLS_ONCE, MURDERS, dying, mistaken
from tests.tars import jpeg

CROP = CropSpec(mode="shortest", resize_to=32, size=32)
KINDS: tuple[Literal["process", "thread"], ...] = ("process", "thread")


class Run:
    """Decoders, and what they said."""

    def __init__(
        self,
        *,
        kind: Literal["process", "thread"] = "process",
        decode: Decode = decode_order,
        num_decoders: int = 2,
    ) -> None:
        self.ring = Ring([CROP], batch_size=16, num_slots=2)
        self.outcomes: dict[tuple[int, int], list[Outcome]] = {}
        self.errors: list[BaseException] = []
        self._change = threading.Condition()
        self.decoders = Decoders(
            self.ring,
            ImageLimits(),
            kind=kind,
            num_decoders=num_decoders,
            on_reply=self._reply,
            on_error=self._error,
            decode=decode,
        )

    def _reply(self, order: Order, reply: Reply) -> None:
        with self._change:
            for job, outcome in zip(order.jobs, reply.outcomes, strict=True):
                self.outcomes.setdefault((order.slot, job.row), []).append(outcome)
            self._change.notify_all()

    def _error(self, error: BaseException) -> None:
        with self._change:
            self.errors.append(error)
            self._change.notify_all()

    def wait(self, until: Callable[[], object]) -> None:
        with self._change:
            assert self._change.wait_for(until, 60)

    def decode(self, *slots: list[bytes], per_order: int = 4) -> None:
        """Decode images, so many to an order, and wait for all of them."""
        for slot, images in enumerate(slots):
            jobs = [Job(row, data) for row, data in enumerate(images)]
            for start in range(0, len(jobs), per_order):
                part = tuple(jobs[start : start + per_order])
                assert self.decoders.submit(Order(slot, part, (0,), False))
        self.wait(lambda: self.errors or len(self.outcomes) == sum(map(len, slots)))


@pytest.mark.parametrize("kind", KINDS)
def test_every_image_has_one_outcome_in_its_place(kind: Literal["process", "thread"]) -> None:
    run = Run(kind=kind)
    run.decode([jpeg(seed) for seed in range(16)], [b"", *(jpeg(seed) for seed in range(9))])
    run.decoders.close()
    expected = Run(kind="thread", num_decoders=1)
    expected.decode([jpeg(seed) for seed in range(16)], per_order=16)
    expected.decoders.close()
    assert all(len(outcomes) == 1 for outcomes in run.outcomes.values())
    assert isinstance(run.outcomes[1, 0][0], Refused)
    assert {k: v for k, v in run.outcomes.items() if k[0] == 0} == expected.outcomes
    assert torch.equal(run.ring.pixels(0, 0), expected.ring.pixels(0, 0))
    assert torch.equal(run.ring.pixels(1, 0)[1:10], expected.ring.pixels(0, 0)[:9])


def test_images_that_wait_are_bounded_by_their_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoders, "MOST_BYTES", 100)
    may_go = threading.Event()

    def slow(order: Order, ring: Ring, limits: ImageLimits) -> list[Outcome]:
        assert may_go.wait(60)
        return [Refused(Reason.EMPTY, "") for _ in order.jobs]

    run = Run(kind="thread", decode=slow, num_decoders=2)
    orders = [Order(0, (Job(row, bytes(60)),), (0,), False) for row in range(2)]
    assert run.decoders.submit(orders[0])
    second = threading.Thread(target=run.decoders.submit, args=(orders[1],))
    second.start()
    second.join(0.2)
    assert second.is_alive()
    may_go.set()
    second.join(60)
    assert not second.is_alive()
    run.wait(lambda: len(run.outcomes) == 2)
    # One that is larger than all of the room goes alone.
    assert run.decoders.submit(Order(0, (Job(2, bytes(1000)),), (0,), False))
    run.wait(lambda: len(run.outcomes) == 3)
    run.decoders.close()


def test_image_that_kills_its_worker_twice_is_the_only_one_refused() -> None:
    run = Run(decode=dying)
    pictures = [jpeg(seed) for seed in range(16)]
    pictures[5] = pictures[6] = pictures[11] = KILLS
    run.decode(pictures, [jpeg(30), KILLS], per_order=4)
    run.decoders.close()
    assert run.errors == []
    assert all(len(outcomes) == 1 for outcomes in run.outcomes.values())
    killers = {(0, 5), (0, 6), (0, 11), (1, 1)}
    for place, (outcome,) in run.outcomes.items():
        if place in killers:
            detail = "5 bytes; the process that decoded them was ended by SIGSEGV, twice"
            assert outcome == Refused(Reason.CRASHED_DECODER, detail)
        else:
            assert isinstance(outcome, Found), place
    reference = Run(kind="thread")
    reference.decode([jpeg(seed) for seed in range(16)])
    reference.decoders.close()
    for row in set(range(16)) - {5, 6, 11}:
        assert torch.equal(run.ring.pixels(0, 0)[row], reference.ring.pixels(0, 0)[row])


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_worker_that_is_killed_twice_is_no_images_fault(number: signal.Signals) -> None:
    run = Run(decode=dying, num_decoders=1)
    run.decode([jpeg(0), MURDERS + b"%d" % number])
    run.decoders.close()
    said = f"was ended by {number.name}, and so did .* image of [78] bytes.* fewer --num-decoders"
    with pytest.raises(ResourceError, match=said):
        raise run.errors[0]
    assert (0, 1) not in run.outcomes


def test_image_that_is_never_decoded_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_process, "ORDER_LIMIT_S", 3.0)
    run = Run(decode=dying, num_decoders=1)
    # The one behind it has no room in an arena.
    run.decode([jpeg(0), HANGS, bytes(2 * PLACE_BYTES), jpeg(1)], per_order=2)
    run.decoders.close()
    assert run.errors == []
    detail = "5 bytes; the process that decoded them took longer than 3 s, twice"
    assert run.outcomes[0, 1] == [Refused(Reason.CRASHED_DECODER, detail)]
    assert isinstance(run.outcomes[0, 2][0], Refused)
    assert all(isinstance(run.outcomes[0, row][0], Found) for row in (0, 3))


def test_image_that_kills_once_is_tried_again(tmp_path: Path) -> None:
    run = Run(decode=dying, num_decoders=1)
    once = KILLS_ONCE + str(tmp_path / "died").encode()
    run.decode([jpeg(0), once, jpeg(1)], per_order=3)
    run.decoders.close()
    assert (tmp_path / "died").exists()
    (outcome,) = run.outcomes[0, 1]
    assert isinstance(outcome, Refused)
    assert outcome.reason is Reason.UNKNOWN_FORMAT
    assert all(isinstance(run.outcomes[0, row][0], Found) for row in (0, 2))


def test_worker_that_is_killed_from_outside_loses_nothing() -> None:
    others = _children()
    run = Run(num_decoders=1)
    run.decode([jpeg(0)])
    (process,) = _children() - others
    os.kill(process, signal.SIGKILL)
    run.decode([jpeg(seed) for seed in range(16)], [jpeg(3)])
    run.decoders.close()
    assert all(isinstance(outcome, Found) for (outcome, *_) in run.outcomes.values())
    assert len(run.outcomes) == 17


def _children() -> set[int]:
    """Decode workers, those of other tests too: children of the fork server, if it runs."""
    from multiprocessing.forkserver import _forkserver  # type: ignore[attr-defined]

    server = _forkserver._forkserver_pid
    if server is None:
        return set()
    return {int(pid) for pid in Path(f"/proc/{server}/task/{server}/children").read_text().split()}


@pytest.mark.parametrize("kind", KINDS)
def test_mistake_of_ours_stops_the_work(kind: Literal["process", "thread"]) -> None:
    run = Run(kind=kind, decode=mistaken, num_decoders=1)
    run.decode([b"any"])
    run.decoders.close()
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        raise run.errors[0]


def test_nothing_waits_behind_a_slow_order() -> None:
    run = Run(decode=dying, num_decoders=2)
    slow = Order(0, (Job(0, HANGS),), (0,), False, is_slow=True)
    assert run.decoders.submit(slow)
    for row in range(1, 9):
        assert run.decoders.submit(Order(0, (Job(row, jpeg(row)),), (0,), False))
    run.wait(lambda: len(run.outcomes) == 8)
    assert (0, 0) not in run.outcomes
    start_s = time.monotonic()
    assert run.decoders.close()
    assert time.monotonic() - start_s < 20
    assert not run.errors


def test_threads_that_do_not_end_are_told_of() -> None:
    began, go = threading.Event(), threading.Event()

    def waiting(order: Order, ring: Ring, limits: ImageLimits) -> list[Outcome]:
        began.set()
        assert go.wait(60)
        return decode_order(order, ring, limits)

    run = Run(kind="thread", decode=waiting)
    assert run.decoders.submit(Order(0, (Job(0, jpeg(1)),), (0,), False))
    assert began.wait(60)
    assert not run.decoders.close(0.1)
    go.set()
    assert run.decoders.close()


def test_closing_drops_what_is_undone() -> None:
    run = Run(num_decoders=1)
    for _ in range(2):
        assert run.decoders.submit(Order(0, (Job(0, jpeg(0, 2000)),) * 8, (0,), False))
    start_s = time.monotonic()
    run.decoders.close()
    assert time.monotonic() - start_s < 20
    assert not run.decoders.submit(Order(0, (Job(0, b""),), (0,), False))


def test_there_are_decoders_for_the_cores_that_a_gpu_leaves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def with_cores(num_cores: int, num_gpus: int, device: str) -> int:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(num_cores)))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: num_gpus)
        return default_num_decoders(device)

    assert [with_cores(cores, 0, "cpu") for cores in (1, 2, 16)] == [1, 2, 16]
    assert with_cores(16, 1, "cuda") == 14
    assert with_cores(64, 8, "cuda:3") == 6
    assert with_cores(2, 1, "cuda") == 1
