"""Images of many requests to vectors, in batches that form by themselves.

    requests -> waiting -> decode workers -> rows of the ring -> ready -> one encode thread

Each image is decoded on its own as soon as a worker is free, so that a slow one holds up nobody.
Those that are decoded wait for a full batch, but no longer than `max_wait_ms`; both encoders then
look at the same pixels. A request that is cancelled leaves the queue at once, or, where a worker
has its image in hand, unseen at the next step.

Shape suffixes: B images of a batch, C = 3 channels, H, W rows and columns, D width of a vector.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from functools import partial

from miner.decode import Decode, Found, Job, Order, Refused, Reply, decode_order
from miner.decoders import Decoders, default_num_decoders
from miner.encoders import Encoder
from miner.passage import ORDER_BYTES, ORDER_IMAGES
from miner.ring import Ring
from pipelines.serving.batch_encoding import Answer, BatchEncoding, Future, Ticket
from pipelines.serving.errors import HttpError
from pipelines.serving.metrics import ServeMetrics
from pipelines.serving.settings import ServeSettings

log = logging.getLogger(__name__)

BATCHES_HELD = 3
"""Room in the ring, in batches: one is encoded, one is ready, one is being decoded."""

LONGEST_RETRY_S = 60


class Batcher:
    """Takes images from an event loop and gives futures. `close` ends its threads.

    Attributes:
        encoders: by role, `clip` and `dino`; all on one device.
        error: what stopped the decoders; nothing can be embedded from then on.
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
        self._waiting: deque[Ticket] = deque()
        self._decoding: dict[int, Ticket] = {}
        self._ready: deque[Ticket] = deque()
        self._num_held, self._images_per_s = 0, 0.0
        self._change = threading.Condition()
        self._is_closed = False
        self._num_decoders = settings.num_decoders or default_num_decoders(str(self._device))
        self._decoders = Decoders(
            self._ring,
            settings.image_limits,
            kind=settings.decoders,
            num_decoders=self._num_decoders,
            on_reply=self._decoded,
            on_error=self._fail,
            decode=decode,
        )
        self._encoding = BatchEncoding(encoders, self._ring, metrics)
        metrics.queue_depth.set_function(lambda: self._num_held)
        self._threads = [
            threading.Thread(target=work, name=name, daemon=True)
            for name, work in (("feeder", self._feed), ("encode", self._encode_batches))
        ]
        for thread in self._threads:
            thread.start()

    @property
    def num_held(self) -> int:
        """Images that are waiting, decoded or encoded."""
        return self._num_held

    def submit(self, images: Sequence[bytes], roles: Sequence[str]) -> list[Future]:
        """Hand over the images of a request, all or none; called on the event loop.

        Args:
            images: undecoded.
            roles: of the encoders that shall look at them.

        Raises:
            HttpError: the queue is full (429), or the decoders stopped (503).
        """
        tickets = [Ticket(data, frozenset(roles), self._loop.create_future()) for data in images]
        with self._change:
            if self.error is not None or self._is_closed:
                raise HttpError(503, "unavailable", "the service is stopping; ask another one")
            room = self._settings.max_queue - self._num_held
            if len(tickets) > room:
                raise HttpError(
                    429,
                    "queue_full",
                    f"{self._num_held} images are in the queue, its limit is "
                    f"{self._settings.max_queue}; come again after Retry-After",
                    retry_after_s=self._retry_after_s(),
                )
            self._num_held += len(tickets)
            self._waiting += tickets
            self._change.notify_all()
        for ticket in tickets:
            ticket.future.add_done_callback(partial(self._forget, ticket))
        return [ticket.future for ticket in tickets]

    def close(self) -> None:
        """Stop; what is still held fails. Called on the event loop, and again for nothing."""
        with self._change:
            if self._is_closed:
                return
            self._is_closed = True
            left = [*self._waiting, *self._decoding.values(), *self._ready]
            self._waiting.clear()
            self._change.notify_all()
        self._decoders.close()
        for thread in self._threads:
            thread.join()
        self._ring.close()
        stopped = HttpError(503, "unavailable", "the service stopped; ask another one")
        for ticket in left:
            if not ticket.future.done():
                ticket.future.set_exception(stopped)

    def _retry_after_s(self) -> int:
        if self._images_per_s == 0:
            return 1
        return min(max(math.ceil(self._num_held / self._images_per_s), 1), LONGEST_RETRY_S)

    def _forget(self, ticket: Ticket, done: Future) -> None:
        """Take a cancelled image out of the queue, if no worker has it yet."""
        if not done.cancelled():
            return
        self._metrics.images.labels("cancelled").inc()
        with self._change:
            if ticket in self._waiting:
                self._waiting.remove(ticket)
                self._num_held -= 1

    # -- the feeding thread -------------------------------------------------------------------

    def _feed(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._is_closed or (self._waiting and self._free))
                if self._is_closed:
                    return
                order = self._next_order()
            if not self._decoders.submit(order):
                return

    def _next_order(self) -> Order:
        """An image where few wait, several where many do: each worker gets its share."""
        share = -(-len(self._waiting) // self._num_decoders)
        number = min(share, ORDER_IMAGES, len(self._free))
        jobs: list[Job] = []
        num_bytes = 0
        while len(jobs) < number and num_bytes < ORDER_BYTES:
            ticket = self._waiting.popleft()
            ticket.row = self._free.popleft()
            self._decoding[ticket.row] = ticket
            jobs.append(Job(ticket.row, ticket.data))
            num_bytes += len(ticket.data)
            ticket.data = b""
        return Order(0, tuple(jobs), tuple(range(len(self._ring.crops))), with_phash=False)

    # -- the decoders' threads ----------------------------------------------------------------

    def _decoded(self, order: Order, reply: Reply) -> None:
        refused: list[tuple[Ticket, Answer | Exception]] = []
        self._metrics.decode_s.inc(reply.elapsed_s)
        with self._change:
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

    def _fail(self, error: BaseException) -> None:
        """The decoders stopped: everyone who waits is told, and nobody is let in any more."""
        log.error("the decoders stopped: %s", error)
        with self._change:
            self.error = error
            left = [*self._waiting, *self._decoding.values()]
            self._waiting.clear()
        stopped = HttpError(503, "unavailable", "the service's decoders stopped; ask another one")
        self._settle([(ticket, stopped) for ticket in left])

    # -- the encoding thread ------------------------------------------------------------------

    def _encode_batches(self) -> None:
        while tickets := self._next_batch():
            start_s = time.monotonic()
            answers = self._encoding.encode(tickets)
            with self._change:
                for ticket in tickets:
                    self._release(ticket)
                self._change.notify_all()
            self._settle(list(zip(tickets, answers, strict=True)))
            rate = len(tickets) / max(time.monotonic() - start_s, 1e-6)
            self._images_per_s = (
                rate if not self._images_per_s else (0.8 * self._images_per_s + 0.2 * rate)
            )

    def _next_batch(self) -> list[Ticket]:
        """Images that are wanted; empty once this is closed."""
        most, max_wait_s = self._settings.max_batch, self._settings.max_wait_ms / 1000
        with self._change:
            while not self._is_closed:
                self._change.wait_for(lambda: self._is_closed or self._ready)
                while not self._is_closed and 0 < len(self._ready) < most:
                    left_s = self._ready[0].ready_s + max_wait_s - time.monotonic()
                    if left_s <= 0:
                        break
                    self._change.wait(left_s)
                batch: list[Ticket] = []
                while self._ready and len(batch) < most and not self._is_closed:
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
        self._num_held -= 1

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
                self._metrics.images.labels("failed").inc()
            else:
                ticket.future.set_result(each)
                outcome = each.reason.value if isinstance(each, Refused) else "embedded"
                self._metrics.images.labels(outcome).inc()
