"""Images of many requests to vectors, in batches that form by themselves.

    requests -> waiting -> decode workers -> rows of the ring -> ready -> one encode thread

No image is handed to a worker that is at a slow one, and a request of many such lets others pass.
Images that are decoded wait for a full batch, but no longer than `max_wait_ms`; both encoders then
look at the same pixels. A request that is cancelled leaves the queue at once, or, where a worker
has its image in hand, unseen at the next step.

Shape suffixes: B images of a batch, C = 3 channels, H, W rows and columns, D width of a vector.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from miner.decode import Decode, Found, Job, Order, Refused, Reply, decode_order
from miner.decode_process import IN_HAND
from miner.decoders import Decoders, default_num_decoders
from miner.encoders import Encoder
from miner.errors import MinerError
from miner.ring import Ring
from pipelines.serving.batch_encoding import Answer, BatchEncoding, Future, Ticket
from pipelines.serving.errors import HttpError
from pipelines.serving.metrics import ServeMetrics
from pipelines.serving.rate import Rate
from pipelines.serving.settings import ServeSettings
from pipelines.serving.waiting import Waiting

log = logging.getLogger(__name__)

BATCHES_HELD = 3
"""Room in the ring, in batches: one is encoded, one is ready, one is being decoded."""

MOST_FAILED = 3
"""Batches in a row of which no image could be encoded; no further one is tried."""

CLOSE_S = 10.0
"""How long threads may take to end, in seconds; a process that decodes is ended at once."""


class Batcher:
    """Takes images from an event loop and gives futures. `close` ends its threads.

    Attributes:
        encoders: by role, `clip` and `dino`; all on one device.
        error: what stopped the decoders or the encoders; nothing can be embedded from then on.
    """

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        settings: ServeSettings,
        metrics: ServeMetrics,
        *,
        decode: Decode = decode_order,
    ) -> None:
        """Start the workers; called on the event loop that will ask."""
        self.encoders = encoders
        self.error: BaseException | None = None
        self._settings, self._metrics = settings, metrics
        self._loop = asyncio.get_running_loop()
        (self._device,) = {encoder.device for encoder in encoders.values()}
        crops = list(dict.fromkeys(encoder.record.crop for encoder in encoders.values()))
        num_rows = BATCHES_HELD * settings.max_batch
        self._ring = Ring(crops, batch_size=num_rows, num_slots=1)
        if self._device.type == "cuda":
            self._ring.pin()
        self._free = deque(range(num_rows))
        self._waiting = Waiting()
        self._decoding: dict[int, Ticket] = {}
        self._orders: list[set[int]] = []
        self._ready: deque[Ticket] = deque()
        self._held: set[Ticket] = set()
        self._rate = Rate()
        self._change = threading.Condition()
        self._is_closed = False
        self._num_decoders = settings.num_decoders or default_num_decoders(str(self._device))
        self._decoders = Decoders(
            self._ring,
            settings.image_limits,
            kind=settings.decoders,
            num_decoders=self._num_decoders,
            on_reply=self._decoded,
            on_error=partial(self._fail, "decoders"),
            decode=decode,
        )
        self._encoding = BatchEncoding(encoders, self._ring, metrics)
        metrics.queue_depth.set_function(lambda: self.num_held)
        works = (("decoders", self._feed), ("encoders", self._encode_batches))
        self._threads = [
            threading.Thread(target=self._guarded, args=args, name=f"for {args[0]}", daemon=True)
            for args in works
        ]
        for thread in self._threads:
            thread.start()

    @property
    def num_held(self) -> int:
        """Images that are waiting, decoded or encoded."""
        return len(self._held)

    def submit(self, images: Sequence[bytes], roles: Sequence[str]) -> list[Future]:
        """Hand over the images of a request, all or none; called on the event loop.

        Args:
            images: undecoded.
            roles: of the encoders that shall look at them.

        Raises:
            HttpError: the queue is full (429), or the service stops or is broken (503).
        """
        now_s = time.monotonic()
        tickets = [
            Ticket(data, frozenset(roles), self._loop.create_future(), now_s) for data in images
        ]
        with self._change:
            if self._is_over:
                raise HttpError(503, "unavailable", "the service is stopping; ask another one")
            room = self._settings.max_queue - self.num_held
            if len(tickets) > room:
                raise HttpError(
                    429,
                    "queue_full",
                    f"{self.num_held} images are in the queue, its limit is "
                    f"{self._settings.max_queue}; come again after Retry-After",
                    retry_after_s=self._rate.retry_after_s(self.num_held),
                )
            self._held.update(tickets)
            self._waiting.add(tickets)
            self._change.notify_all()
        for ticket in tickets:
            ticket.future.add_done_callback(partial(self._forget, ticket))
        return [ticket.future for ticket in tickets]

    @property
    def _is_over(self) -> bool:
        return self._is_closed or self.error is not None

    def close(self) -> None:
        """Stop: what is still held fails at once. Blocks up to `CLOSE_S`; again for nothing."""
        with self._change:
            if self._is_closed:
                return
            self._is_closed = True
            left = self._forsaken()
        self._settle_all(left, "the service stopped; ask another one")
        end_s = time.monotonic() + CLOSE_S
        has_ended = self._decoders.close(CLOSE_S)
        for thread in self._threads:
            thread.join(max(end_s - time.monotonic(), 0))
            has_ended &= not thread.is_alive()
        if has_ended:
            self._ring.close()
        else:
            log.warning("work is still in hand after %g s and is left alone", CLOSE_S)

    def _forsaken(self) -> list[Ticket]:
        """All that is held, which nobody works on any more; the lock is held."""
        left = list(self._held)
        self._held.clear()
        self._waiting.clear()
        self._change.notify_all()
        return left

    def _settle_all(self, tickets: Sequence[Ticket], message: str) -> None:
        error = HttpError(503, "unavailable", message)
        self._settle([(ticket, error) for ticket in tickets])

    def _forget(self, ticket: Ticket, done: Future) -> None:
        """Take a cancelled image out of the queue, if no worker has it yet."""
        if not done.cancelled():
            return
        self._metrics.images.labels("cancelled").inc()
        with self._change:
            if self._waiting.remove(ticket):
                self._held.discard(ticket)

    def _guarded(self, what: str, work: Callable[[], None]) -> None:
        """A thread of ours; nothing can end it without a word."""
        try:
            work()
        except BaseException as error:
            self._fail(what, error)

    def _fail(self, what: str, error: BaseException) -> None:
        """Something stopped: everyone who waits is told, and nobody is let in any more."""
        # An error of ours says what to do; of any other one it has to be seen whence it came.
        trace = None if isinstance(error, MinerError) else error
        log.error("the %s stopped: %s", what, error, exc_info=trace)
        with self._change:
            self.error = self.error or error
            left = self._forsaken()
        self._settle_all(left, f"the service's {what} stopped; ask another one")

    # -- the feeding thread -------------------------------------------------------------------

    def _feed(self) -> None:
        # What waits here can still be cancelled; what is handed over cannot.
        most = IN_HAND * self._num_decoders
        while True:
            with self._change:
                self._change.wait_for(
                    lambda: (
                        self._is_over or (self._waiting and self._free and len(self._orders) < most)
                    )
                )
                if self._is_over:
                    return
                order = self._next_order()
            if not self._decoders.submit(order):
                return

    def _next_order(self) -> Order:
        """An image where few wait, several small ones where many do: each worker has its share."""
        share = -(-len(self._waiting) // self._num_decoders)
        tickets, is_slow = self._waiting.take(min(share, len(self._free)))
        jobs: list[Job] = []
        for ticket in tickets:
            ticket.row = self._free.popleft()
            self._decoding[ticket.row] = ticket
            jobs.append(Job(ticket.row, ticket.data))
            ticket.data = b""
        self._orders.append({job.row for job in jobs})
        crops = tuple(range(len(self._ring.crops)))
        return Order(0, tuple(jobs), crops, with_phash=False, is_slow=is_slow)

    # -- the decoders' threads ----------------------------------------------------------------

    def _decoded(self, order: Order, reply: Reply) -> None:
        refused: list[tuple[Ticket, Answer | Exception]] = []
        self._metrics.decode_s.inc(reply.elapsed_s)
        with self._change:
            done = {job.row for job in order.jobs}
            # After a death an order comes back image by image.
            self._orders = [left for rows in self._orders if (left := rows - done)]
            for job, outcome in zip(order.jobs, reply.outcomes, strict=True):
                ticket = self._decoding.pop(job.row)
                if isinstance(outcome, Found) and not ticket.future.cancelled():
                    ticket.found, ticket.ready_s = outcome, time.monotonic()
                    self._ready.append(ticket)
                else:
                    self._release(ticket)
                    refused += [(ticket, outcome)] if isinstance(outcome, Refused) else []
            self._change.notify_all()
        self._settle(refused)

    # -- the encoding thread ------------------------------------------------------------------

    def _encode_batches(self) -> None:
        num_failed = 0
        while tickets := self._next_batch():
            answers = self._encoding.encode(tickets)
            with self._change:
                for ticket in tickets:
                    self._release(ticket)
                self._change.notify_all()
            self._settle(list(zip(tickets, answers, strict=True)))
            self._rate.add(len(tickets), min(ticket.asked_s for ticket in tickets))
            is_bad = all(isinstance(each, HttpError) for each in answers)
            num_failed = num_failed + 1 if is_bad else 0
            if num_failed == MOST_FAILED:
                raise RuntimeError(f"{num_failed} batches in a row could not be encoded")

    def _next_batch(self) -> list[Ticket]:
        """Images that are wanted; empty once this is closed."""
        most, max_wait_s = self._settings.max_batch, self._settings.max_wait_ms / 1000
        with self._change:
            while not self._is_over:
                self._change.wait_for(lambda: self._is_over or self._ready)
                while not self._is_over and 0 < len(self._ready) < most:
                    left_s = self._ready[0].ready_s + max_wait_s - time.monotonic()
                    if left_s <= 0:
                        break
                    self._change.wait(left_s)
                batch: list[Ticket] = []
                while self._ready and len(batch) < most and not self._is_over:
                    ticket = self._ready.popleft()
                    if ticket.future.cancelled():
                        self._release(ticket)
                    else:
                        batch.append(ticket)
                if batch:
                    return batch
            return []

    def _release(self, ticket: Ticket) -> None:
        self._free.append(ticket.row)
        self._held.discard(ticket)

    def _settle(self, answers: Sequence[tuple[Ticket, Answer | Exception]]) -> None:
        """Hand answers over to the event loop, unless that is gone."""
        if answers and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._set, answers)

    def _set(self, answers: Sequence[tuple[Ticket, Answer | Exception]]) -> None:
        for ticket, each in answers:
            if ticket.future.done():
                continue
            if isinstance(each, Exception):
                ticket.future.set_exception(each)
                # Told here already; asyncio need not complain where nobody asks any more.
                ticket.future.exception()
                self._metrics.images.labels("failed").inc()
            else:
                ticket.future.set_result(each)
                outcome = each.reason.value if isinstance(each, Refused) else "embedded"
                self._metrics.images.labels(outcome).inc()
