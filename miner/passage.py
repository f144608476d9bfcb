"""One shard on its way through the feed: its samples become rows of batches, and decode orders."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from miner.batch import Batch, Busy, Seen
from miner.crops import CropSpec
from miner.decode import Job, Order
from miner.law import Refusal
from miner.samples import Sample

if TYPE_CHECKING:
    from miner.feed import Feed

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


class FeedClosedError(Exception):
    """The feed was left while a thread of it was at work."""


class Reading:
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
