"""Batches of pixels, read and decoded ahead of whoever encodes them.

    reading thread  -->  decode workers  -->  slots of the ring  -->  batches, in order

Several shards may be on their way, one behind the other. A batch is a run of consecutive samples of
one shard, so that it holds the same images whenever the shard is read, whoever decodes them and
however long that takes. Memory holds the ring, and a bounded number of undecoded images.

Shape suffixes: B images of a batch, C = 3 channels, H rows, W columns.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Self

import torch

from miner.batch import Batch, Busy, Seen
from miner.config import FeedSettings, ImageLimits
from miner.crops import CropSpec
from miner.decode import Decode, Job, Order, Reply, decode_order
from miner.decoders import Decoders, default_num_decoders
from miner.law import Refusal
from miner.ring import Ring
from miner.samples import Sample

NUM_SLOTS = 4
"""Batches in the ring: one is encoded, one is ready, one is being filled, and one to spare."""

ORDER_IMAGES = 16
"""Most images that a worker is given at once ..."""

ORDER_BYTES = 2**20
"""... and the bytes from which an order is full; its last image may be larger than what is left."""


class Passage:
    """One shard's samples on their way through the feed: iterate over its batches, in order.

    Each batch has to be given back with `Feed.release`.

    Attributes:
        entries: samples and refusals in the order of the shard; complete, with all outcomes, once
            iteration is over.
    """

    def __init__(
        self,
        feed: Feed,
        items: Iterable[Sample | Refusal],
        crops: Sequence[CropSpec],
        *,
        with_phash: bool,
    ) -> None:
        self.entries: list[Seen | Refusal] = []
        self.items, self.with_phash = items, with_phash
        self.crops = tuple(feed.ring.crops.index(crop) for crop in crops)
        self.batches: deque[Batch] = deque()
        self.error: BaseException | None = None
        self.is_read = False
        self._feed = feed

    def __iter__(self) -> Iterator[Batch]:
        """Batches that have at least one decoded image.

        Raises:
            MinerError: whatever reading the shard raised, after the batches before it.
        """
        while (batch := self._feed.next_of(self)) is not None:
            if batch.decoded:
                yield batch
            else:
                self._feed.release(batch)


class Feed:
    """Reads and decodes ahead. Use as a context manager; leaving it stops all of its threads.

    Attributes:
        ring: where the pixels are.
        num_decoders: decode workers.
    """

    def __init__(
        self,
        crops: Sequence[CropSpec],
        *,
        limits: ImageLimits,
        settings: FeedSettings,
        device: str = "cpu",
        decode: Decode = decode_order,
    ) -> None:
        """Prepare to read.

        Args:
            crops: every crop that is going to be wanted.
            limits: what an image may be.
            settings: batch size, kind and number of the workers.
            device: torch's name of where the pixels go.
            decode: what a worker does.
        """
        self.ring = Ring(crops, batch_size=settings.batch_size, num_slots=NUM_SLOTS)
        if torch.device(device).type == "cuda":
            self.ring.pin()
        self.num_decoders = settings.num_decoders or default_num_decoders(device)
        self._change = threading.Condition()
        self._free = deque(range(NUM_SLOTS))
        self._passages: deque[Passage] = deque()
        self._taken: dict[int, Batch] = {}
        self._busy = Busy()
        self._error: BaseException | None = None
        self._is_closed = False
        self._decoders = Decoders(
            self.ring,
            limits,
            kind=settings.decoders,
            num_decoders=self.num_decoders,
            on_reply=self._settle,
            on_error=self._fail,
            decode=decode,
        )
        self._reader = threading.Thread(target=self._read_passages, name="reader", daemon=True)
        self._reader.start()

    @property
    def busy(self) -> Busy:
        """What was done so far behind the encoding thread's back."""
        with self._change:
            return self._busy

    def open(
        self,
        items: Iterable[Sample | Refusal],
        crops: Sequence[CropSpec],
        *,
        with_phash: bool = True,
    ) -> Passage:
        """Begin to read and decode samples, behind those that are on their way already.

        Args:
            items: of one shard, in its order; they are taken one by one, in a thread.
            crops: those that are wanted, of the feed's.
            with_phash: whether the perceptual hash is wanted too.
        """
        passage = Passage(self, items, crops, with_phash=with_phash)
        with self._change:
            self._passages.append(passage)
            self._change.notify_all()
        return passage

    def next_of(self, passage: Passage) -> Batch | None:
        """The next batch of a passage once it is whole; None after the last one."""
        with self._change:
            self._change.wait_for(lambda: self._error or self._is_next_known(passage))
            if self._error is not None:
                raise self._error
            if passage.batches:
                return passage.batches.popleft()
            if passage.error is not None:
                raise passage.error
            return None

    def release(self, batch: Batch) -> None:
        """Give a batch's slot back; its pixels are overwritten from now on."""
        with self._change:
            del self._taken[batch.slot]
            self._free.append(batch.slot)
            self._change.notify_all()

    def close(self) -> None:
        """Stop; what is on its way is dropped."""
        with self._change:
            self._is_closed = True
            self._change.notify_all()
        self._decoders.close()
        self._reader.join()
        self.ring.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @staticmethod
    def _is_next_known(passage: Passage) -> bool:
        if passage.batches:
            first = passage.batches[0]
            return first.is_full and first.num_open == 0
        return passage.is_read

    # -- the reading thread -------------------------------------------------------------------

    def _read_passages(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._is_closed or self._passages)
                if self._is_closed:
                    return
                passage = self._passages.popleft()
            try:
                _Reading(self, passage).run()
            except _FeedClosedError:
                return
            except BaseException as error:
                passage.error = error
            with self._change:
                for batch in passage.batches:
                    batch.is_full = True
                passage.is_read = True
                self._change.notify_all()

    def take_slot(self, passage: Passage) -> Batch:
        """A new batch at the end of a passage, in a slot that is free."""
        with self._change:
            self._change.wait_for(lambda: self._is_closed or self._free)
            if self._is_closed:
                raise _FeedClosedError
            batch = Batch(self.ring, self._free.popleft())
            self._taken[batch.slot] = batch
            passage.batches.append(batch)
            return batch

    def place(self, batch: Batch, seen: Sequence[Seen]) -> None:
        """Give samples the next rows of a batch, before their bytes are sent to a worker."""
        with self._change:
            batch.samples += seen
            batch.num_open += len(seen)
            batch.is_full = len(batch.samples) == self.ring.batch_size

    def send(self, order: Order) -> None:
        """Hand an order to the workers."""
        if not self._decoders.submit(order):
            raise _FeedClosedError

    def spend(self, busy: Busy) -> None:
        """Add to what was done behind the encoding thread's back."""
        with self._change:
            self._busy += busy

    # -- the decoders' threads ----------------------------------------------------------------

    def _settle(self, order: Order, reply: Reply) -> None:
        with self._change:
            batch = self._taken[order.slot]
            for job, outcome in zip(order.jobs, reply.outcomes, strict=True):
                batch.samples[job.row].outcome = outcome
            batch.num_open -= len(order.jobs)
            self._busy += Busy(decode_s=reply.elapsed_s, decode_core_s=reply.core_s)
            self._change.notify_all()

    def _fail(self, error: BaseException) -> None:
        with self._change:
            self._error = self._error or error
            self._change.notify_all()


class _FeedClosedError(Exception):
    """The feed was left while a thread of it was at work."""


class _Reading:
    """One passage, from the reading thread: samples to rows of batches, and to orders."""

    def __init__(self, feed: Feed, passage: Passage) -> None:
        self._feed, self._passage = feed, passage
        self._batch: Batch | None = None
        self._seen: list[Seen] = []
        self._data: list[bytes] = []

    def run(self) -> None:
        """Read to the end of the shard."""
        try:
            for item in self._timed(iter(self._passage.items)):
                if isinstance(item, Refusal):
                    self._passage.entries.append(item)
                else:
                    self._add(item)
        finally:
            # What was read before an error is still to be told apart from what was not.
            self._send()

    def _add(self, sample: Sample) -> None:
        if self._batch is None:
            self._batch = self._feed.take_slot(self._passage)
        seen = Seen(replace(sample, data=b""), len(sample.data))
        self._passage.entries.append(seen)
        self._seen.append(seen)
        self._data.append(sample.data)
        num_rows = len(self._batch.samples) + len(self._seen)
        is_last = num_rows == self._feed.ring.batch_size
        num_bytes = sum(map(len, self._data))
        if is_last or len(self._seen) == ORDER_IMAGES or num_bytes >= ORDER_BYTES:
            self._send()
        if is_last:
            self._batch = None

    def _send(self) -> None:
        if not self._seen:
            return
        assert self._batch is not None
        first_row = len(self._batch.samples)
        jobs = tuple(Job(first_row + place, data) for place, data in enumerate(self._data))
        self._feed.place(self._batch, self._seen)
        self._seen, self._data = [], []
        self._feed.send(
            Order(self._batch.slot, jobs, self._passage.crops, self._passage.with_phash)
        )

    def _timed(self, items: Iterator[Sample | Refusal]) -> Iterator[Sample | Refusal]:
        """The items, with the time that each took to come counted as reading."""
        while True:
            start_s, start_core_s = time.perf_counter(), time.thread_time()
            item = next(items, None)
            self._feed.spend(
                Busy(
                    read_s=time.perf_counter() - start_s,
                    read_core_s=time.thread_time() - start_core_s,
                )
            )
            if item is None:
                return
            yield item
