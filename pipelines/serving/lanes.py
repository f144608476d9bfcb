"""Long work off the event loop, each kind in a lane: some at work, some that wait, and no more."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from miner.partner_search import SearchStopped
from pipelines.serving.errors import HttpError
from pipelines.serving.rate import Rate

log = logging.getLogger(__name__)

MOST_HELD = 64
"""Of a kind, at work or waiting; a further one would rather hear that it has to come again."""

CLOSE_S = 5.0
"""How long what is at work may take to end, in seconds; a read may wait for a bucket for ever."""

DoneT = TypeVar("DoneT")


class Lane:
    """Does work of one kind in threads of its own; asked on the event loop alone.

    Args:
        what: is done, in the plural.
        num_threads: how much at a time.
    """

    def __init__(self, what: str, num_threads: int) -> None:
        self._what, self._num_threads = what, num_threads
        self._threads: list[threading.Thread] = []
        self._waiting: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._num_held, self._rate = 0, Rate()
        self._is_closed = threading.Event()
        self._change = threading.Condition()

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
            done = await asyncio.wrap_future(self._submit(work))
        finally:
            stopped.set()
            self._num_held -= 1
        if done is None:
            raise HttpError(503, "unavailable", "the service is stopping; ask another one")
        self._rate.add(1, asked_s)
        return done[0]

    def _submit(self, work: Callable[[], DoneT | None]) -> Future[DoneT | None]:
        future: Future[DoneT | None] = Future()
        with self._change:
            if self._is_closed.is_set():
                future.set_result(None)
                return future
            if not self._threads:
                # Daemons, unlike those of concurrent.futures: the process may end without them.
                self._threads = [
                    threading.Thread(target=self._work, name=f"{self._what} {number}", daemon=True)
                    for number in range(self._num_threads)
                ]
                for thread in self._threads:
                    thread.start()
            self._waiting.append((future, work))
            self._change.notify()
        return future

    def _work(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._waiting or self._is_closed.is_set())
                if not self._waiting:
                    return
                future, work = self._waiting.popleft()
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(work())
                except BaseException as error:
                    future.set_exception(error)
            # What was found, and what was asked, is not kept until there is more to do.
            del future, work

    def close(self) -> bool:
        """Stop what is at work as soon as it asks, and drop what waits; blocks up to `CLOSE_S`.

        Returns:
            Whether all has ended.
        """
        with self._change:
            self._is_closed.set()
            left = list(self._waiting)
            self._waiting.clear()
            self._change.notify_all()
        for future, _ in left:
            if future.set_running_or_notify_cancel():
                future.set_result(None)
        end_s = time.monotonic() + CLOSE_S
        for thread in self._threads:
            thread.join(max(end_s - time.monotonic(), 0))
        has_ended = not any(thread.is_alive() for thread in self._threads)
        if not has_ended:
            log.warning("%s are still at work after %g s; they are left", self._what, CLOSE_S)
        return has_ended
