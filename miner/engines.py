"""What the fast engines share: batches of one size, and how far from the truth they may be.

    engine_compile.py     torch.compile, batches of one size
    engine_onnx.py        ONNX Runtime, batches of any size
    engine_tensorrt.py    TensorRT, TensorRT for RTX: batches up to the one they were built for
    guarded.py            what a run calls: halves batches, mends rows that are not finite

B images, D dimensions; C, H, W channels, rows, columns
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch

from miner.encoders import check_pixels
from miner.registry import EncoderRecord


@dataclass(frozen=True, kw_only=True)
class PairLimits:
    """How far pair cosines may be from those of `TorchEncoder` in float32.

    Attributes:
        max: of any pair.
        p99: of all but one in a hundred.
    """

    max: float
    p99: float


PAIR_LIMITS = {
    "fp32": PairLimits(max=2e-3, p99=5e-4),
    "fp16": PairLimits(max=2e-3, p99=5e-4),
    "bf16": PairLimits(max=5e-3, p99=2e-3),
    "fp8": PairLimits(max=5e-3, p99=2e-3),
}
"""What an engine may do to a pair, by the precision it says it computes in."""


class FixedBatch(ABC):
    """An engine that was made for one batch size: tails are padded, and the result is cut.

    A row's vector then depends on its own pixels alone, and not on how many came with it. An
    engine implements `_encode`, and says which precision it computes in.

    Attributes:
        record: what decides its vectors, the weights' hash included.
        encoder_id: the record's.
        dim: length of a vector.
        device: where it computes.
        backend: name of the engine.
        precision: one of PAIR_LIMITS.
        deviation: how far a pair's cosine may be from that of `TorchEncoder` in float32; what the
            parity gate would let pass, until it has measured.
        batch_size: images that are computed at a time.
    """

    backend: str

    def __init__(
        self,
        record: EncoderRecord,
        device: torch.device,
        *,
        precision: str,
        batch_size: int,
    ) -> None:
        if precision not in PAIR_LIMITS:
            raise ValueError(f"precision is {precision}; give one of {', '.join(PAIR_LIMITS)}")
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; give at least 1")
        self.record = record
        self.encoder_id = record.encoder_id
        self.dim = record.dim
        self.device = device
        self.precision = precision
        self.deviation = PAIR_LIMITS[precision].max
        self.batch_size = batch_size

    @torch.inference_mode()
    def __call__(self, pixels_BCHW: torch.Tensor) -> torch.Tensor:
        """Encode pixels.

        Args:
            pixels_BCHW: [B, 3, S, S] uint8 on any device, S being the record's image size.

        Returns:
            [B, D] float32 on the engine's device, rows of unit length.

        Raises:
            ValueError: the pixels have another type or shape.
        """
        check_pixels(self.record, pixels_BCHW)
        vectors_BD = torch.empty(len(pixels_BCHW), self.dim, device=self.device)
        for start in range(0, len(pixels_BCHW), self.batch_size):
            part_BCHW = pixels_BCHW[start : start + self.batch_size]
            padded_BCHW = _padded(part_BCHW, self.batch_size)
            encoded_BD = self._encode(padded_BCHW)[: len(part_BCHW)]
            vectors_BD[start : start + len(part_BCHW)] = encoded_BD
        return vectors_BD

    def resize(self, batch_size: int) -> None:
        """Compute this many images at a time from now on."""
        self.batch_size = batch_size

    @abstractmethod
    def _encode(self, pixels_BCHW: torch.Tensor) -> torch.Tensor:
        """[batch_size, 3, S, S] uint8 on any device to [batch_size, D] on the engine's."""


def _padded(pixels_BCHW: torch.Tensor, batch_size: int) -> torch.Tensor:
    """Black images added, up to the batch size."""
    missing = batch_size - len(pixels_BCHW)
    if missing == 0:
        return pixels_BCHW
    return torch.cat([pixels_BCHW, pixels_BCHW.new_zeros(missing, *pixels_BCHW.shape[1:])])
