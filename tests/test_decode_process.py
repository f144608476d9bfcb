"""One decode process: what it is given arrives whole, and how it ends is told."""

import hashlib
import os
import signal
from pathlib import Path

import pytest

from miner import decode_process
from miner.arena import PLACE_BYTES
from miner.config import ImageLimits
from miner.crops import CropSpec
from miner.decode import Decode, Found, Job, Order, Outcome, decode_order
from miner.decode_process import IN_HAND, Death, DecodeProcess
from miner.errors import ResourceError
from miner.ring import Ring
from miner.worker_process import WorkerProcess
from tests.dying import HANGS, KILLS, MURDERS, dying, leaving, mistaken
from tests.tars import jpeg

CROP = CropSpec(mode="shortest", resize_to=32, size=32)


class _Unwelcome:
    """Can be sent to a process, and not be received."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (int, ("no number",))


def start(decode: Decode = decode_order) -> DecodeProcess:
    return DecodeProcess(Ring([CROP], batch_size=16, num_slots=1), ImageLimits(), decode)


def order_of(*images: bytes, first_row: int = 0) -> Order:
    return Order(0, tuple(Job(first_row + n, data) for n, data in enumerate(images)), (0,), False)


def death_at(image: bytes, decode: Decode = dying) -> Death:
    """How a process ends that is given an image."""
    process = start(decode)
    process.send(order_of(image))
    with pytest.raises((EOFError, ConnectionError)):
        process.receive()
    return process.death()


def arenas() -> int:
    links = [os.readlink(entry) for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()]
    return sum("memfd:images" in link for link in links)


@pytest.mark.parametrize("per_order", [1, 2])
def test_images_arrive_whole_whatever_their_size(per_order: int) -> None:
    # One by one they go through the same places; the largest ones have no room there.
    sizes = {3: PLACE_BYTES - 1, 4: PLACE_BYTES, 7: PLACE_BYTES + 1, 8: PLACE_BYTES // 2}
    pictures = [jpeg(seed).ljust(sizes.get(seed, 0), b"\0") for seed in range(16)]
    process = start()
    outcomes: list[Outcome] = []
    num_sent = num_answered = 0
    for first in range(0, 16, per_order):
        order = order_of(*pictures[first : first + per_order], first_row=first)
        most = IN_HAND - 1 if process.has_room(order) else 0
        while num_sent - num_answered > most:
            outcomes += process.receive().outcomes
            num_answered += 1
        process.send(order)
        num_sent += 1
    while num_answered < num_sent:
        outcomes += process.receive().outcomes
        num_answered += 1
    process.close()
    hashes = [each.sha256 for each in outcomes if isinstance(each, Found)]
    assert hashes == [hashlib.sha256(data).hexdigest() for data in pictures]


def test_order_of_more_than_a_place_has_no_room() -> None:
    assert DecodeProcess.has_room(order_of(bytes(PLACE_BYTES - 1), b"x"))
    assert not DecodeProcess.has_room(order_of(bytes(PLACE_BYTES), b"x"))


def test_deaths_are_told_apart() -> None:
    assert death_at(KILLS) == Death("was ended by SIGSEGV", by_others=False)
    murder = MURDERS + b"%d" % signal.SIGTERM
    assert death_at(murder) == Death("was ended by SIGTERM", by_others=True)
    assert death_at(b"any", leaving) == Death("ended with exit code 3", by_others=False)


def test_process_that_comes_to_no_end_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_process, "ORDER_LIMIT_S", 0.5)
    assert death_at(HANGS) == Death("took longer than 0.5 s", by_others=False)


def test_mistake_of_ours_is_raised_here() -> None:
    process = start(mistaken)
    process.send(order_of(b"any"))
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        process.receive()
    process.close()


def test_process_that_cannot_start_is_no_images_fault() -> None:
    # What cannot be unpickled there ends the process before it is ready.
    with pytest.raises(ResourceError, match=r"exit code 1 before .* --decoders thread"):
        DecodeProcess(_Unwelcome(), ImageLimits(), decode_order)  # type: ignore[arg-type]


@pytest.mark.parametrize("error", [EOFError("no pid"), ConnectionResetError("reset")])
def test_process_that_is_not_forked_is_no_dead_worker(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forked(self: WorkerProcess) -> None:
        raise error

    monkeypatch.setattr(WorkerProcess, "start", forked)
    before = arenas()
    with pytest.raises(ResourceError, match=rf"{error}\); .* --decoders thread"):
        start()
    assert arenas() == before


def test_no_arena_stays_open() -> None:
    before = arenas()
    process = start()
    # One descriptor is the memory's, the other its mapping's.
    assert arenas() == before + 2
    process.close()
    assert arenas() == before
    death_at(KILLS)
    assert arenas() == before
