"""Searches in turn, off the event loop: one at work, some that wait, and no more."""

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

MOST_SEARCHES = 64
"""At work or waiting; a further one would rather hear that it has to come again."""

FoundT = TypeVar("FoundT")


class Searches:
    """Runs searches one after the other; `close` ends it. Asked on the event loop alone."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="search")
        self._num_held, self._rate = 0, Rate()
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
                retry_after_s=self._rate.retry_after_s(self._num_held),
            )
        stopped = threading.Event()

        def work() -> tuple[FoundT] | None:
            try:
                return (search(lambda: stopped.is_set() or self._is_closed.is_set()),)
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
        """Stop the search that is at work, and drop those that wait."""
        self._is_closed.set()
        self._pool.shutdown(wait=True, cancel_futures=True)
