"""Batches of pixels, read and decoded ahead of whoever encodes them.

    reading thread  -->  decode workers  -->  slots of the ring  -->  batches, in order

Several shards may be on their way, one behind the other. A batch is a run of consecutive samples of
one shard, so that it holds the same images whenever the shard is read, whoever decodes them and
however long that takes. Memory holds the ring, and a bounded number of undecoded images.

Shape suffixes: B images of a batch, C = 3 channels, H rows, W columns.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Self

import torch

from miner.batch import Batch, Busy, Seen
from miner.config import FeedSettings, ImageLimits
from miner.crops import CropSpec
from miner.decode import Decode, Order, Reply, decode_order
from miner.decoders import Decoders, default_num_decoders
from miner.law import Refusal
from miner.passage import FeedClosedError, Passage, Reading
from miner.ring import Ring
from miner.samples import Sample

NUM_SLOTS = 4
"""Batches in the ring: one is encoded, one is ready, one is being filled, and one to spare."""


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
                Reading(self, passage).run()
            except FeedClosedError:
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
                raise FeedClosedError
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
            raise FeedClosedError

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
