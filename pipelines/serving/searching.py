"""Searches in turn, off the event loop: one at work, some that wait, and no more."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from miner.partner_search import SearchStopped
from pipelines.serving.errors import HttpError

MOST_SEARCHES = 64
"""At work or waiting; a further one would rather hear that it has to come again."""

LONGEST_RETRY_S = 60

FoundT = TypeVar("FoundT")


class Searches:
    """Runs searches one after the other; `close` ends it. Asked on the event loop alone."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="search")
        self._num_held, self._each_s = 0, 0.0
        self._is_closed = threading.Event()

    async def run(self, search: Callable[[Callable[[], bool]], FoundT]) -> FoundT:
        """What a search finds.

        Args:
            search: is given what it asks now and then whether it is to stop. It is, where this is
                cancelled.

        Raises:
            HttpError: too many wait already (429), or the service stops (503).
        """
        if self._num_held >= MOST_SEARCHES:
            raise HttpError(
                429,
                "too_many_searches",
                f"{self._num_held} searches wait, their limit is {MOST_SEARCHES}; come again after "
                "Retry-After",
                retry_after_s=self._retry_after_s(),
            )
        stopped = threading.Event()

        def work() -> tuple[FoundT, float] | None:
            start_s = time.monotonic()
            try:
                found = search(lambda: stopped.is_set() or self._is_closed.is_set())
            except SearchStopped:
                return None
            return found, time.monotonic() - start_s

        self._num_held += 1
        try:
            done = await asyncio.get_running_loop().run_in_executor(self._pool, work)
        finally:
            stopped.set()
            self._num_held -= 1
        if done is None:
            raise HttpError(503, "unavailable", "the service is stopping; ask another one")
        found, elapsed_s = done
        self._each_s = 0.8 * self._each_s + 0.2 * elapsed_s if self._each_s else elapsed_s
        return found

    def close(self) -> None:
        """Stop the search that is at work, and drop those that wait."""
        self._is_closed.set()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _retry_after_s(self) -> int:
        return min(max(math.ceil(self._num_held * self._each_s), 1), LONGEST_RETRY_S)
