"""Decode workers: threads of this process, or processes of their own that may die.

A decoder reads hostile bytes in C, and one day one of them ends its process. Then the images that
the worker had before it are given to a fresh worker one by one, and the one that kills that worker
too is refused; no other image is lost or decoded into another place. So it goes with an image that
a decoder never comes to the end of. A worker that somebody kills, the system for want of memory
above all, dies of no image.

Workers start when there is work for them. Each process has one thread here that talks to it, and
always one order in reserve, so that it never waits for that thread's turn.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable
from multiprocessing import forkserver
from typing import Literal, NamedTuple

import torch

from miner.arena import PLACE_BYTES, Arena
from miner.config import ImageLimits
from miner.decode import (
    Decode,
    Order,
    Outcome,
    Parcel,
    Refused,
    Reply,
    answer,
    decode_order,
    serve,
)
from miner.errors import ResourceError
from miner.ring import Ring
from miner.schema import Reason
from miner.worker_process import WorkerProcess

IN_HAND = 2
"""Orders that a worker process has: the one it is at, and the next."""

MOST_BYTES = 2**28
"""Of images that wait for their workers, or are with them; one larger than that goes alone."""

ORDER_LIMIT_S = 120.0
"""How long a worker may be at an order, in seconds; a slow image takes a thousandth of it."""

KILLED_BY_OTHERS = (signal.SIGKILL, signal.SIGTERM)
"""No fault of a decoder's ends its process like this."""

LAST_WORDS_S = 5.0
"""How long a process may take to end, in seconds, once its connection is gone."""


def default_num_decoders(device: str) -> int:
    """How many decode workers suit this machine.

    Args:
        device: torch's name of where the encoders compute. On the CPU they share the cores: with
            small encoders decoding is the work, beside large ones the ring is full, and workers
            sleep.
    """
    num_cores = len(os.sched_getaffinity(0))
    if torch.device(device).type == "cpu":
        return num_cores
    # One process for each GPU; its encoding and its reading thread take a core each.
    return max(num_cores // max(torch.cuda.device_count(), 1) - 2, 1)


def warm_up() -> None:
    """Begin to load what worker processes need, in the background; they start at once then.

    Whoever uses multiprocessing's fork server for something else first has each worker load it.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["miner.decode"])
    forkserver.ensure_running()


class Decoders:
    """Workers that take orders in turn.

    `submit` hands over an order, `on_reply` is told what became of it (from a thread of ours), and
    `on_error` of what stops the work. `close` drops what is undone.
    """

    def __init__(
        self,
        ring: Ring,
        limits: ImageLimits,
        *,
        kind: Literal["process", "thread"],
        num_decoders: int,
        on_reply: Callable[[Order, Reply], None],
        on_error: Callable[[BaseException], None],
        decode: Decode = decode_order,
    ) -> None:
        """Prepare workers.

        Args:
            ring: where the crops go.
            limits: what an image may be.
            kind: of workers.
            num_decoders: how many.
            on_reply: called once for each image, with the order that names it.
            on_error: called with an exception that is no image's fault.
            decode: what a worker does with an order.
        """
        self._args = (ring, limits, decode)
        self._on_reply, self._on_error = on_reply, on_error
        self._most_waiting = 2 * num_decoders
        self._waiting: deque[Order] = deque()
        self._num_bytes = 0
        self._change = threading.Condition()
        self._is_closed = False
        work = self._in_process if kind == "process" else self._in_thread
        self._threads = [
            threading.Thread(target=self._work, args=(work,), name=f"decoder {number}", daemon=True)
            for number in range(num_decoders)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, order: Order) -> bool:
        """Hand over an order; waits while many others wait. False once this is closed."""
        num_bytes = _num_bytes(order)
        with self._change:
            self._change.wait_for(
                lambda: (
                    self._is_closed
                    or (
                        len(self._waiting) < self._most_waiting
                        and (not self._num_bytes or self._num_bytes + num_bytes <= MOST_BYTES)
                    )
                )
            )
            self._num_bytes += num_bytes
            self._waiting.append(order)
            self._change.notify_all()
            return not self._is_closed

    def close(self) -> None:
        """Stop the workers; orders that are not answered yet never will be."""
        with self._change:
            self._is_closed = True
            self._change.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            self._on_error(error)

    def _next(self, *, wait: bool) -> Order | None:
        """An order; None where none waits, or once this is closed."""
        with self._change:
            if wait:
                self._change.wait_for(lambda: self._is_closed or self._waiting)
            if self._is_closed or not self._waiting:
                return None
            order = self._waiting.popleft()
            self._change.notify_all()
            return order

    def _reply(self, order: Order, reply: Reply) -> None:
        """Pass on what became of an order; its images are done with."""
        self._on_reply(order, reply)
        with self._change:
            self._num_bytes -= _num_bytes(order)
            self._change.notify_all()

    def _in_thread(self) -> None:
        while (order := self._next(wait=True)) is not None:
            self._reply(order, answer(order, *self._args))

    def _in_process(self) -> None:
        worker: _Worker | None = None
        order: Order | None = None
        in_hand: deque[Order] = deque()
        again: deque[Order] = deque()
        try:
            while not self._is_closed:
                if order is None and len(in_hand) < IN_HAND:
                    idle = not in_hand and not again
                    order = again.popleft() if again else self._next(wait=idle)
                try:
                    worker = worker or (_Worker(*self._args) if order else None)
                    if worker and order and (not in_hand or worker.has_room(order)):
                        in_hand.append(order)
                        order = None
                        worker.send(in_hand[-1])
                    elif worker and in_hand:
                        reply = worker.receive()
                        self._reply(in_hand.popleft(), reply)
                except (EOFError, ConnectionError):
                    assert worker is not None
                    dead, worker = worker, None
                    again.extendleft(reversed(self._after_death(in_hand, dead.death())))
        finally:
            if worker is not None:
                worker.close()

    def _after_death(self, in_hand: deque[Order], death: _Death) -> list[Order]:
        """What is to be done again after a worker died; answers for an image that killed two.

        Raises:
            ResourceError: somebody killed both.
        """
        first, *others = in_hand
        in_hand.clear()
        if first.is_second_try:
            num_bytes = len(first.jobs[0].data)
            if death.by_others:
                raise ResourceError(
                    f"a decode process {death.how}, and so did the one before it, at an image of "
                    f"{num_bytes} bytes: the system does that where memory runs out; give fewer "
                    "--num-decoders, or more memory"
                )
            detail = f"{num_bytes} bytes; the process that decoded them {death.how}, twice"
            refused: list[Outcome] = [Refused(Reason.CRASHED_DECODER, detail)]
            self._reply(first, Reply(refused, 0.0, 0.0))
            return others
        alone = [first._replace(jobs=(job,), is_second_try=True) for job in first.jobs]
        return [*alone, *others]


class _Death(NamedTuple):
    """How a worker process ended."""

    how: str
    """A part of a sentence."""
    by_others: bool
    """Somebody killed it, and no image."""


class _Worker:
    """One worker process, from here."""

    def __init__(self, ring: Ring, limits: ImageLimits, decode: Decode) -> None:
        warm_up()
        context = multiprocessing.get_context("forkserver")
        parcels, self.parcels = context.Pipe(duplex=False)
        self.replies, replies = context.Pipe(duplex=False)
        self._arena = Arena(IN_HAND)
        self._num_sent = 0
        self._is_late = False
        args = (parcels, replies, self._arena, ring, limits, decode)
        self._process = WorkerProcess(target=serve, args=args, name="decoder", daemon=True)
        self._process.start()
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
        return _num_bytes(order) <= PLACE_BYTES

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

    def receive(self) -> Reply:
        """The next reply.

        Raises:
            EOFError: the process died, or takes too long and is killed; a ConnectionError says that
                it died, too.
            Exception: what a mistake of ours raised there.
        """
        if not self.replies.poll(ORDER_LIMIT_S):
            self._is_late = True
            self._process.kill()
            raise EOFError
        reply: Reply | Exception = self.replies.recv()
        if isinstance(reply, Exception):
            raise reply
        return reply

    def death(self) -> _Death:
        """How the process ended."""
        self._hang_up()
        self._process.join(LAST_WORDS_S)
        code = self._process.exitcode
        self.close()
        if self._is_late:
            return _Death(f"took longer than {ORDER_LIMIT_S:g} s", by_others=False)
        if code is None:
            return _Death("closed its connection", by_others=False)
        if code >= 0:
            return _Death(f"ended with exit code {code}", by_others=False)
        number = signal.Signals(-code)
        return _Death(f"was ended by {number.name}", by_others=number in KILLED_BY_OTHERS)

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


def _num_bytes(order: Order) -> int:
    return sum(len(job.data) for job in order.jobs)
