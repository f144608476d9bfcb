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

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Literal

import torch

from miner.config import ImageLimits
from miner.decode import Decode, Order, Outcome, Refused, Reply, answer, decode_order
from miner.decode_process import IN_HAND, Death, DecodeProcess
from miner.errors import ResourceError
from miner.ring import Ring
from miner.schema import Reason

MOST_BYTES = 2**28
"""Of images that wait for their workers, or are with them; one larger than that goes alone."""


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
        num_bytes = order.num_bytes
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

    def close(self, wait_s: float | None = None) -> bool:
        """Stop the workers; orders that are not answered yet never will be.

        Args:
            wait_s: how long to wait for threads to end, in seconds; processes end at once.

        Returns:
            Whether all have ended.
        """
        with self._change:
            self._is_closed = True
            self._change.notify_all()
        end_s = None if wait_s is None else time.monotonic() + wait_s
        for thread in self._threads:
            thread.join(None if end_s is None else max(end_s - time.monotonic(), 0))
        return not any(thread.is_alive() for thread in self._threads)

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
            self._num_bytes -= order.num_bytes
            self._change.notify_all()

    def _in_thread(self) -> None:
        while (order := self._next(wait=True)) is not None:
            self._reply(order, answer(order, *self._args))

    def _in_process(self) -> None:
        worker: DecodeProcess | None = None
        order: Order | None = None
        in_hand: deque[Order] = deque()
        again: deque[Order] = deque()
        try:
            while not self._is_closed:
                is_busy = len(in_hand) >= IN_HAND or any(each.is_slow for each in in_hand)
                if order is None and not is_busy:
                    idle = not in_hand and not again
                    order = again.popleft() if again else self._next(wait=idle)
                try:
                    worker = worker or (DecodeProcess(*self._args) if order else None)
                    if worker and order and (not in_hand or worker.has_room(order)):
                        in_hand.append(order)
                        order = None
                        worker.send(in_hand[-1])
                    elif worker and in_hand:
                        reply = worker.receive(lambda: not self._is_closed)
                        if reply is None:
                            return
                        self._reply(in_hand.popleft(), reply)
                except (EOFError, ConnectionError):
                    assert worker is not None
                    dead, worker = worker, None
                    again.extendleft(reversed(self._after_death(in_hand, dead.death())))
        finally:
            if worker is not None:
                worker.close()

    def _after_death(self, in_hand: deque[Order], death: Death) -> list[Order]:
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
