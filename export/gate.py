"""Between an engine that was built and one that is published: a proof on real images."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import torch

from export.engines import Prove, Source
from miner.config import ImageLimits
from miner.encoders import Encoder, load_encoder
from miner.errors import ImageError, ParityError, ShardError
from miner.images import cut, decode
from miner.samples import Sample, ShardReader
from miner.shards import list_shards

NUM_IMAGES = 64
"""Images on which an engine is proven: 2,016 pairs."""

LIMITS = {"fp32": 2e-3, "fp16": 2e-3, "bf16": 5e-3}
"""Most that a pair's cosine may be from the truth."""

_BATCH_SIZE = 16


def read_images(patterns: Sequence[str], number: int = NUM_IMAGES) -> list[torch.Tensor]:
    """The first images of some shards: [H, W, 3] uint8 each.

    Args:
        patterns: shards, as every command takes them.
        number: of images.

    Raises:
        ShardError: the shards cannot be read, or have too few images that can be decoded.
    """
    limits = ImageLimits()
    images_HWC: list[torch.Tensor] = []
    samples = chain.from_iterable(ShardReader(shard, limits) for shard in list_shards(patterns))
    for sample in samples:
        if len(images_HWC) == number:
            break
        if isinstance(sample, Sample):
            try:
                images_HWC.append(decode(sample.data, limits).pixels_HWC)
            except ImageError:
                # Which images a run refuses, it says itself; here others take their places.
                continue
    if len(images_HWC) < number:
        raise ShardError(
            f"{', '.join(patterns)}: {len(images_HWC)} images can be decoded, an engine is proven "
            f"on {number}; give more shards"
        )
    return images_HWC


def gate(source: Source, device: torch.device, images_HWC: Sequence[torch.Tensor]) -> Prove:
    """The proof of an encoder's engines on a device.

    Args:
        source: the encoder.
        device: on which `TorchEncoder` computes the truth in float32.
        images_HWC: [H, W, 3] uint8 each, decoded.

    Returns:
        What gives an engine's largest deviation of a pair's cosine, or raises ParityError.
    """
    crop = source.record.crop
    pixels_BCHW = torch.stack([cut(image_HWC, crop) for image_HWC in images_HWC])

    def prove(encoder: Encoder) -> float:
        truth = load_encoder(source.record, device=device, weights=source.weights)
        left_BB, right_BB = (_cosines(one, pixels_BCHW) for one in (encoder, truth))
        deviation = (left_BB - right_BB).abs().max().item()
        limit = LIMITS[encoder.precision]
        # NaN is not within a limit.
        if not deviation <= limit:
            raise ParityError(
                f"{encoder.encoder_id} by {encoder.backend} in {encoder.precision}: cosines of "
                f"pairs differ from TorchEncoder's in float32 by up to {deviation:.2g} (limit "
                f"{limit:.0e}, {len(images_HWC)} images); use another --precision, or --backend "
                "torch"
            )
        return deviation

    return prove


def _cosines(encoder: Encoder, pixels_BCHW: torch.Tensor) -> torch.Tensor:
    starts = range(0, len(pixels_BCHW), _BATCH_SIZE)
    parts = [encoder(pixels_BCHW[start : start + _BATCH_SIZE]) for start in starts]
    vectors_BD = torch.cat(parts).double().cpu()
    return vectors_BD @ vectors_BD.T
