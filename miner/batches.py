"""Vectors of a shard's images, batch by batch, for several encoders.

Shape suffixes: N images, B images of a batch, D width of a vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from miner.encoders import Encoder
from miner.images import CropSpec
from miner.stats import Stats


@dataclass(kw_only=True)
class Batches:
    """Collects crops, encodes them when a batch is full, and keeps the vectors in order.

    Attributes:
        encoders: who looks at the crops.
        batch_size: images to a batch.
        stats: where the seconds of each encoder are counted.
        image_ids: [N], in the order of `add`.
    """

    encoders: Sequence[Encoder]
    batch_size: int
    stats: Stats
    image_ids: list[str] = field(default_factory=list)
    _pending: list[dict[CropSpec, torch.Tensor]] = field(default_factory=list)
    _encoded: dict[str, list[np.ndarray]] = field(default_factory=dict)

    def add(self, image_id: str, crops: dict[CropSpec, torch.Tensor]) -> None:
        """Take an image's crops, one for each encoder's CropSpec."""
        self.image_ids.append(image_id)
        self._pending.append(crops)
        if len(self._pending) == self.batch_size:
            self.flush()

    def flush(self) -> None:
        """Encode what is pending; to be called once after the last `add`."""
        if not self._pending:
            return
        for encoder in self.encoders:
            pixels_BCHW = torch.stack([crops[encoder.record.crop] for crops in self._pending])
            with self.stats.time(f"encode {encoder.record.name}"):
                vectors_BD = encoder(pixels_BCHW).cpu().numpy()
            self._encoded.setdefault(encoder.encoder_id, []).append(vectors_BD)
        self._pending.clear()

    def vectors(self, encoder: Encoder) -> np.ndarray:
        """[N, D] float32 in the order of `image_ids`; rows may hold NaN."""
        batches = self._encoded.get(encoder.encoder_id, [np.empty((0, encoder.dim), np.float32)])
        vectors_ND = np.concatenate(batches)
        assert len(vectors_ND) == len(self.image_ids), encoder.encoder_id
        return vectors_ND

    def nonfinite(self, encoder: Encoder) -> set[str]:
        """Images for which an encoder gave NaN or infinity, or no direction at all."""
        vectors_ND = self.vectors(encoder)
        bad = np.flatnonzero(~np.isfinite(vectors_ND).all(axis=1) | ~vectors_ND.any(axis=1))
        return {self.image_ids[row] for row in bad}
