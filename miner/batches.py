"""Vectors of a shard's images, batch by batch, for several encoders.

On a GPU a batch is copied by a stream of its own while the one before it is encoded, and its
vectors are looked at only when the next but one has been launched: the CPU never waits for a batch
that could still overlap.

Shape suffixes: N images, B images of a batch, D width of a vector; C, H, W channels, rows, columns.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from miner.batch import Batch
from miner.crops import CropSpec
from miner.encoders import Encoder
from miner.feed import Feed
from miner.guarded import Guarded
from miner.stats import Laps
from miner.trace import Trace

IN_FLIGHT = 2
"""Batches on a GPU whose vectors nobody has waited for yet."""


class Lane:
    """The way of batches through the encoders of one run.

    Attributes:
        encoders: by role, `clip` or `dino`; all on one device.
    """

    def __init__(self, encoders: Mapping[str, Encoder], feed: Feed, laps: Laps, trace: Trace):
        self.encoders, self.feed, self.laps, self.trace = encoders, feed, laps, trace
        self._in_flight: deque[_Flight] = deque()
        (self._device,) = {encoder.device for encoder in encoders.values()}
        self._copies = _stream(self._device)

    def encode(self, batch: Batch, roles: list[str], on_done: OnDone) -> None:
        """Encode a batch and give its slot back.

        Args:
            batch: decoded pixels.
            roles: of the encoders that look at them.
            on_done: told the role and the vectors [B, D] float32, batch by batch, at once or when a
                later one was launched.
        """
        if self._copies is None:
            self._encode_here(batch, roles, on_done)
        else:
            self._in_flight.append(self._launch(batch, roles, on_done, self._copies))
            if len(self._in_flight) > IN_FLIGHT:
                self._land()
        self.trace.batch()

    def finish(self) -> None:
        """Wait for what was launched."""
        while self._in_flight:
            self._land()

    def _encode_here(self, batch: Batch, roles: list[str], on_done: OnDone) -> None:
        for role in roles:
            encoder = self.encoders[role]
            with self.trace.stage(role):
                vectors_BD = encoder(batch.pixels(encoder.record.crop)).numpy()
            on_done(role, vectors_BD)
            self.laps.lap(role)
        self.feed.release(batch)

    def _launch(
        self, batch: Batch, roles: list[str], on_done: OnDone, copies: torch.cuda.Stream
    ) -> _Flight:
        marks = [_mark(copies)]
        pixels: dict[CropSpec, torch.Tensor] = {}
        computing = torch.cuda.current_stream(self._device)
        with self.trace.stage("copy"), torch.cuda.stream(copies):
            for crop in {self.encoders[role].record.crop for role in roles}:
                pixels[crop] = batch.pixels(crop).to(self._device, non_blocking=True)
                pixels[crop].record_stream(computing)
            marks.append(_mark(copies))
        self.laps.lap("copy")
        computing.wait_event(marks[-1])
        marks.append(_mark(computing))
        flight = _Flight(batch=batch, on_done=on_done, marks=marks)
        for role in roles:
            with self.trace.stage(role):
                encoder = self.encoders[role]
                # Whether rows were lost is seen when they have landed: to look is to wait.
                encode = encoder.launch if isinstance(encoder, Guarded) else encoder
                vectors_BD = encode(pixels[encoder.record.crop])
                host_BD = torch.empty(vectors_BD.shape, dtype=vectors_BD.dtype, pin_memory=True)
                flight.vectors[role] = host_BD.copy_(vectors_BD, non_blocking=True)
                marks.append(_mark(computing))
            self.laps.lap(role)
        return flight

    def _land(self) -> None:
        flight = self._in_flight.popleft()
        flight.marks[-1].synchronize()
        # The device was at one of these while the CPU waited for it.
        copied, *launched = flight.marks[1:]
        weights = {"copy": flight.marks[0].elapsed_time(copied)}
        for role, before, after in zip(flight.vectors, launched, launched[1:], strict=False):
            weights[role] = before.elapsed_time(after)
        self.laps.split(weights)
        for role, vectors_BD in flight.vectors.items():
            encoder = self.encoders[role]
            if isinstance(encoder, Guarded):
                pixels_BCHW = flight.batch.pixels(encoder.record.crop)
                vectors_BD = encoder.mended(vectors_BD, pixels_BCHW)
            flight.on_done(role, vectors_BD.numpy())
        self.feed.release(flight.batch)


OnDone = Callable[[str, np.ndarray], None]


@dataclass(kw_only=True)
class _Flight:
    """A batch on a GPU.

    Attributes:
        marks: before and after the copy, before the first encoder, and after each.
        vectors: by role, [B, D] in pinned memory, whole once the last mark is passed.
    """

    batch: Batch
    on_done: OnDone
    marks: list[torch.cuda.Event]
    vectors: dict[str, torch.Tensor] = field(default_factory=dict)


def _stream(device: torch.device) -> torch.cuda.Stream | None:
    """A stream of its own for copies to a GPU."""
    if device.type == "cpu":
        return None
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def _mark(stream: torch.cuda.Stream) -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record(stream)
    return event


@dataclass(kw_only=True)
class Vectors:
    """One encoder's vectors of a shard's images.

    Attributes:
        encoder: whose.
        image_ids: [N], in the order of the shard.
    """

    encoder: Encoder
    image_ids: list[str]
    batches: list[np.ndarray] = field(default_factory=list)

    def add(self, vectors_BD: np.ndarray) -> None:
        """Take a batch's vectors, in the order of the batches."""
        self.batches.append(vectors_BD)

    @property
    def vectors_ND(self) -> np.ndarray:
        """[N, D] float32 in the order of `image_ids`; rows may hold NaN."""
        vectors_ND = np.concatenate([np.empty((0, self.encoder.dim), np.float32), *self.batches])
        assert len(vectors_ND) == len(self.image_ids), self.encoder.encoder_id
        return vectors_ND


def nonfinite(vectors_ND: np.ndarray) -> np.ndarray:
    """Rows that hold NaN or infinity, or no direction at all."""
    return np.flatnonzero(~np.isfinite(vectors_ND).all(axis=1) | ~vectors_ND.any(axis=1))
