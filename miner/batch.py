"""Samples on their way to the encoders: one, a batch of them, and what was done for them so far.

Shape suffixes: B images of a batch, S side of a crop.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from miner.crops import CropSpec
from miner.decode import Found, Outcome
from miner.ring import Ring
from miner.samples import Sample


@dataclass(slots=True)
class Seen:
    """A sample that was read, and what became of its image."""

    sample: Sample
    """Without its data."""
    num_bytes: int
    outcome: Outcome | None = None
    """None until it is decoded or refused."""

    @property
    def found(self) -> Found | None:
        """What is known of the image, where it was decodable."""
        return self.outcome if isinstance(self.outcome, Found) else None


@dataclass(frozen=True, slots=True)
class Busy:
    """Seconds of work behind the encoding thread's back, so far.

    Attributes:
        read_s: of the reading thread, waiting for bytes included.
        decode_s: of all decode workers together.
        read_core_s: processor time of the former.
        decode_core_s: processor time of the latter.
    """

    read_s: float = 0.0
    decode_s: float = 0.0
    read_core_s: float = 0.0
    decode_core_s: float = 0.0

    def __add__(self, other: Busy) -> Busy:
        return Busy(
            self.read_s + other.read_s,
            self.decode_s + other.decode_s,
            self.read_core_s + other.read_core_s,
            self.decode_core_s + other.decode_core_s,
        )

    def __sub__(self, other: Busy) -> Busy:
        return self + Busy(-other.read_s, -other.decode_s, -other.read_core_s, -other.decode_core_s)


@dataclass(eq=False, slots=True)
class Batch:
    """Images of one shard whose crops lie in one slot of the ring, until it is released.

    Attributes:
        slot: where.
        samples: those that have a row in the slot, in its order.
    """

    ring: Ring
    slot: int
    samples: list[Seen] = field(default_factory=list)
    num_open: int = 0
    """Samples without an outcome."""
    is_full: bool = False
    """No sample will be added."""

    @property
    def decoded(self) -> list[Seen]:
        """The samples that have pixels."""
        return [seen for seen in self.samples if seen.found]

    def pixels(self, crop: CropSpec) -> torch.Tensor:
        """[B, 3, S, S] uint8 of the decoded samples: a view of the ring, pinned where that is."""
        self._close_ranks()
        whole_BCHW = self.ring.pixels(self.slot, self.ring.crops.index(crop))
        return whole_BCHW[: len(self.samples)]

    def _close_ranks(self) -> None:
        """Give the rows of refused samples to those behind them."""
        assert self.num_open == 0
        rows = [row for row, seen in enumerate(self.samples) if seen.found]
        if len(rows) == len(self.samples):
            return
        for crop in range(len(self.ring.crops)):
            pixels_BCHW = self.ring.pixels(self.slot, crop)
            for new_row, row in enumerate(rows):
                if new_row != row:
                    pixels_BCHW[new_row] = pixels_BCHW[row]
        self.samples = self.decoded
