"""Engines that fail as large ones do: fixed batches, little memory, lost rows."""

from __future__ import annotations

import pytest
import torch

from miner.encoders import Encoder, TorchEncoder, check_pixels
from miner.engines import FixedBatch
from tests.small import small_encoders


class Padded(FixedBatch):
    """The truth behind a fixed batch; remembers the sizes it was called with."""

    backend = "padded"

    def __init__(self, truth: TorchEncoder, *, batch_size: int, room: int = 10**6) -> None:
        super().__init__(truth.record, truth.device, precision="fp32", batch_size=batch_size)
        self.truth, self.room, self.sizes = truth, room, list[int]()

    def _encode(self, pixels_BCHW: torch.Tensor) -> torch.Tensor:
        self.sizes.append(len(pixels_BCHW))
        if len(pixels_BCHW) > self.room:
            raise torch.OutOfMemoryError("no room")
        return self.truth(pixels_BCHW)


class Cramped:
    """An encoder that has memory for so many images, and numbers for so many rows."""

    backend = "cramped"

    def __init__(self, truth: Encoder, *, room: int = 10**6, lost: dict[int, float] | None = None):
        self.truth, self.room, self.lost, self.sizes = truth, room, lost or {}, list[int]()
        self.record, self.encoder_id, self.dim = truth.record, truth.encoder_id, truth.dim
        self.device, self.precision, self.deviation = truth.device, "fp16", 1e-3

    def __call__(self, pixels_BCHW: torch.Tensor) -> torch.Tensor:
        check_pixels(self.record, pixels_BCHW)
        self.sizes.append(len(pixels_BCHW))
        if len(pixels_BCHW) > self.room:
            raise torch.OutOfMemoryError("no room")
        vectors_BD = self.truth(pixels_BCHW).clone()
        for row, value in self.lost.items():
            vectors_BD[row, 1:] = value
            vectors_BD[row, 0] = 0 if value == 0 else vectors_BD[row, 0]
        return vectors_BD


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> TorchEncoder:
    """The truth: 48 numbers for an image."""
    return small_encoders(tmp_path_factory.mktemp("weights"))[0]


@pytest.fixture(scope="module")
def pixels_BCHW() -> torch.Tensor:
    """Eleven images of noise."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (11, 3, 64, 64), dtype=torch.uint8, generator=generator)
