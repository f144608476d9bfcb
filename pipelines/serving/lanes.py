"""Long work off the event loop, each kind in a lane: some at work, some that wait, and no more."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from miner.partner_search import SearchStopped
from pipelines.serving.errors import HttpError
from pipelines.serving.rate import Rate

MOST_HELD = 64
"""Of a kind, at work or waiting; a further one would rather hear that it has to come again."""

DoneT = TypeVar("DoneT")


class Lane:
    """Does work of one kind in threads of its own; asked on the event loop alone.

    Args:
        what: is done, in the plural.
        num_threads: how much at a time.
    """

    def __init__(self, what: str, num_threads: int) -> None:
        self._what = what
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix=what)
        self._num_held, self._rate = 0, Rate()
        self._is_closed = threading.Event()

    async def run(self, do: Callable[[Callable[[], bool]], DoneT]) -> DoneT:
        """What comes of some work.

        Args:
            do: the work; is given what it may ask now and then whether it is to stop, by
                `SearchStopped`. It is, where this is cancelled.

        Raises:
            HttpError: too many wait already (429), or the service stops (503).
        """
        if self._num_held >= MOST_HELD:
            raise HttpError(
                429,
                f"too_many_{self._what}",
                f"{self._num_held} {self._what} wait, their limit is {MOST_HELD}; come again after "
                "Retry-After",
                retry_after_s=self._rate.retry_after_s(self._num_held),
            )
        stopped = threading.Event()

        def work() -> tuple[DoneT] | None:
            try:
                return (do(lambda: stopped.is_set() or self._is_closed.is_set()),)
            except SearchStopped:
                return None

        asked_s = time.monotonic()
        self._num_held += 1
        try:
            done = await asyncio.get_running_loop().run_in_executor(self._pool, work)
        finally:
            stopped.set()
            self._num_held -= 1
        if done is None:
            raise HttpError(503, "unavailable", "the service is stopping; ask another one")
        self._rate.add(1, asked_s)
        return done[0]

    def close(self) -> None:
        """Stop what is at work as soon as it asks, and drop what waits."""
        self._is_closed.set()
        self._pool.shutdown(wait=True, cancel_futures=True)
