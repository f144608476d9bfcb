"""One decode process, from here: orders go out, replies come in, and one day it dies."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable
from multiprocessing import forkserver
from typing import NamedTuple

from miner.arena import PLACE_BYTES, Arena
from miner.config import ImageLimits
from miner.decode import Decode, Order, Parcel, Reply, serve
from miner.errors import ResourceError
from miner.ring import Ring
from miner.worker_process import WorkerProcess

IN_HAND = 2
"""Orders that a worker process has: the one it is at, and the next."""

ORDER_LIMIT_S = 120.0
"""How long a worker may be at an order, in seconds; a slow image takes a thousandth of it."""

KILLED_BY_OTHERS = (signal.SIGKILL, signal.SIGTERM)
"""No fault of a decoder's ends its process like this."""

LOOK_S = 0.1
"""How often whoever waits for a reply looks whether it is still wanted, in seconds."""

LAST_WORDS_S = 5.0
"""How long a process may take to end, in seconds, once its connection is gone."""


def warm_up() -> None:
    """Begin to load what worker processes need, in the background; they start at once then.

    Whoever uses multiprocessing's fork server for something else first has each worker load it.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["miner.decode"])
    forkserver.ensure_running()


class Death(NamedTuple):
    """How a worker process ended."""

    how: str
    """A part of a sentence."""
    by_others: bool
    """Somebody killed it, and no image."""


class DecodeProcess:
    """One decode process, from here; it has at most `IN_HAND` orders at a time."""

    def __init__(self, ring: Ring, limits: ImageLimits, decode: Decode) -> None:
        """Start it, and wait until it is ready.

        Args:
            ring: where the crops go.
            limits: what an image may be.
            decode: what it does with an order.

        Raises:
            ResourceError: it could not be started, or ended before it was ready.
        """
        warm_up()
        context = multiprocessing.get_context("forkserver")
        parcels, self.parcels = context.Pipe(duplex=False)
        self.replies, replies = context.Pipe(duplex=False)
        self._arena = Arena(IN_HAND)
        self._num_sent = 0
        self._is_late = False
        args = (parcels, replies, self._arena, ring, limits, decode)
        self._process = WorkerProcess(target=serve, args=args, name="decoder", daemon=True)
        try:
            self._process.start()
        except (EOFError, ConnectionError) as error:
            self.parcels.close()
            self.replies.close()
            self._arena.close()
            raise ResourceError(
                f"a decode process could not be started ({type(error).__name__}: {error}); the "
                "process that forks them is gone; run again, or give --decoders thread"
            ) from error
        finally:
            # Only the worker has them now, so that its death ends the connection.
            parcels.close()
            replies.close()
        try:
            self.replies.recv()
        except (EOFError, ConnectionError) as error:
            raise ResourceError(
                f"a decode process {self.death().how} before it was ready; what it printed says "
                "why; or give --decoders thread"
            ) from error

    @staticmethod
    def has_room(order: Order) -> bool:
        """Whether a worker that is at another order can be given this one without a wait."""
        return order.num_bytes <= PLACE_BYTES

    def send(self, order: Order) -> None:
        """Give it an order; one without room waits until the worker takes it.

        Raises:
            ConnectionError: the process died.
        """
        parcel = Parcel(order)
        if self.has_room(order):
            # Replies come in the order of what was sent, so this place was given back.
            place = self._num_sent % IN_HAND
            lengths = self._arena.put(place, [job.data for job in order.jobs])
            bare = order._replace(jobs=tuple(job._replace(data=b"") for job in order.jobs))
            parcel = Parcel(bare, place, lengths)
        self._num_sent += 1
        self.parcels.send(parcel)

    def receive(self, is_wanted: Callable[[], bool] = lambda: True) -> Reply | None:
        """The next reply; None once it is not wanted any more.

        Raises:
            EOFError: the process died, or takes too long and is killed; a ConnectionError says that
                it died, too.
            Exception: what a mistake of ours raised there.
        """
        end_s = time.monotonic() + ORDER_LIMIT_S
        while not self.replies.poll(min(LOOK_S, max(end_s - time.monotonic(), 0))):
            if not is_wanted():
                return None
            if time.monotonic() >= end_s:
                self._is_late = True
                self._process.kill()
                raise EOFError
        reply: Reply | Exception = self.replies.recv()
        if isinstance(reply, Exception):
            raise reply
        return reply

    def death(self) -> Death:
        """How the process ended."""
        self._hang_up()
        self._process.join(LAST_WORDS_S)
        code = self._process.exitcode
        self.close()
        if self._is_late:
            return Death(f"took longer than {ORDER_LIMIT_S:g} s", by_others=False)
        if code is None:
            return Death("closed its connection", by_others=False)
        if code >= 0:
            return Death(f"ended with exit code {code}", by_others=False)
        number = signal.Signals(-code)
        return Death(f"was ended by {number.name}", by_others=number in KILLED_BY_OTHERS)

    def close(self) -> None:
        """End the process; whatever it is at is not wanted any more."""
        self._hang_up()
        self._process.kill()
        self._process.join()
        self._process.close()
        self._arena.close()

    def _hang_up(self) -> None:
        self.parcels.close()
        self.replies.close()
