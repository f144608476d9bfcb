"""Work in lanes: how much may wait, and how it ends."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest

from miner.partner_search import SearchStopped
from pipelines.serving import lanes
from pipelines.serving.errors import HttpError
from pipelines.serving.lanes import Lane
from tests.serving import until


class Slow:
    """A search that ends when it is told to."""

    def __init__(self) -> None:
        self.began, self.go, self.was_stopped = threading.Event(), threading.Event(), False

    def __call__(self, is_stopped: Callable[[], bool]) -> str:
        self.began.set()
        while not self.go.wait(0.01):
            if is_stopped():
                self.was_stopped = True
                raise SearchStopped
        return "found"


def test_a_search_too_many_is_to_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "MOST_HELD", 2)

    async def work() -> None:
        searches, slow = Lane("searches", 1), Slow()
        tasks = [asyncio.create_task(searches.run(slow)) for _ in range(2)]
        await until(slow.began.is_set)
        with pytest.raises(HttpError, match="2 searches wait, their limit is 2") as full:
            await searches.run(slow)
        assert (full.value.status, full.value.headers) == (429, {"retry-after": "1"})
        # One that nobody wants any more makes room at once.
        tasks[1].cancel()
        await asyncio.wait({tasks[1]})
        third = asyncio.create_task(searches.run(lambda is_stopped: "third"))
        await asyncio.sleep(0)
        slow.go.set()
        assert (await tasks[0], await third) == ("found", "third")
        searches.close()

    asyncio.run(work())


def test_a_search_that_is_cancelled_stops() -> None:
    async def work() -> None:
        searches, slow = Lane("searches", 1), Slow()
        task = asyncio.create_task(searches.run(slow))
        await until(slow.began.is_set)
        task.cancel()
        await until(lambda: slow.was_stopped)
        searches.close()

    asyncio.run(work())


def test_closing_stops_the_search_at_work() -> None:
    async def work() -> None:
        searches, slow = Lane("searches", 1), Slow()
        task = asyncio.create_task(searches.run(slow))
        await until(slow.began.is_set)
        await asyncio.to_thread(searches.close)
        with pytest.raises(HttpError, match="the service is stopping") as stopped:
            await task
        assert stopped.value.status == 503

    asyncio.run(work())


def test_what_waits_when_it_closes_is_told_so_and_nothing_begins_after_it() -> None:
    async def work() -> None:
        searches, slow = Lane("searches", 1), Slow()
        tasks = [asyncio.create_task(searches.run(slow)) for _ in range(2)]
        await until(slow.began.is_set)
        await asyncio.to_thread(searches.close)
        tasks.append(asyncio.create_task(searches.run(slow)))
        for task in tasks:
            with pytest.raises(HttpError, match="the service is stopping"):
                await task

    asyncio.run(work())


def test_what_goes_wrong_there_is_raised_here_and_ends_no_thread() -> None:
    def fail(is_stopped: Callable[[], bool]) -> str:
        raise OSError("disk gone")

    async def work() -> None:
        reads = Lane("reads", 1)
        for _ in range(2):
            with pytest.raises(OSError, match="disk gone"):
                await reads.run(fail)
        assert await reads.run(lambda _: "read") == "read"
        assert reads.close()

    asyncio.run(work())


NEVER_RETURNS = """
import asyncio, threading
from pipelines.serving import lanes

lanes.CLOSE_S = 0.1

async def work():
    reads, began = lanes.Lane("reads", 1), threading.Event()

    def read(is_stopped):
        began.set()
        threading.Event().wait()

    task = asyncio.create_task(reads.run(read))
    waits = asyncio.create_task(reads.run(lambda _: 1))
    await asyncio.to_thread(began.wait)
    assert not await asyncio.to_thread(reads.close)
    try:
        await waits
    except Exception as error:
        print(error)

asyncio.run(work())
"""


def test_a_read_that_never_returns_keeps_nothing_from_ending() -> None:
    done = subprocess.run(
        [sys.executable, "-c", NEVER_RETURNS], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout.strip()) == (
        0,
        "the service is stopping; ask another one",
    )
    assert done.stderr.strip() == "reads are still at work after 0.1 s; they are left"
