"""The images on which an engine is judged, and how they are chosen.

What a gate sees decides what it can refuse. Photographs beside rendered scenes, because an engine
may be right on smooth ones alone; pairs near the threshold, because those are what a run is made
of; the pixels as a run cuts them beside the reference's, because preprocessing moves a cosine as
far as the thresholds are apart.

N images, P pairs, D dimensions; H, W, C rows, columns, channels; S side of the square
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch

from miner.crops import CropSpec, cut
from miner.encoders import check_pixels
from miner.registry import EncoderRecord

Cut = Callable[[torch.Tensor, CropSpec], torch.Tensor]

_LARGEST_SHARE = 0.5
"""Most that a blend takes of its second image: beyond, it belongs to that one."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Images of one kind, as the reference cuts them and as a run does.

    Attributes:
        name: what the figures of this kind are called.
        reference_NCHW: [N, 3, S, S] uint8, by Pillow.
        pixels_NCHW: [N, 3, S, S] uint8, what encoders are given.
    """

    name: str
    reference_NCHW: torch.Tensor
    pixels_NCHW: torch.Tensor

    def __post_init__(self) -> None:
        if self.reference_NCHW.shape != self.pixels_NCHW.shape:
            raise ValueError(
                f"group {self.name}: the reference has {list(self.reference_NCHW.shape)} pixels, "
                f"a run {list(self.pixels_NCHW.shape)}; give the same images for both"
            )

    @classmethod
    def of_images(
        cls,
        name: str,
        record: EncoderRecord,
        images_HWC: Sequence[torch.Tensor],
        *,
        crop: Cut = cut,
        num_blends: int = 0,
    ) -> Self:
        """Cut images for an encoder, by the reference and as a run does.

        Args:
            name: what the figures of this kind are called.
            record: the encoder's.
            images_HWC: [H, W, 3] uint8 each, decoded.
            crop: how a run cuts; with it, preprocessing is judged as well.
            num_blends: images to add that are made of two neighbours in the list, see `blends`.
        """
        reference_NCHW = torch.stack([cut(i, record.crop, reference=True) for i in images_HWC])
        pixels_NCHW = torch.stack([crop(image, record.crop) for image in images_HWC])
        check_pixels(record, pixels_NCHW)
        if num_blends:
            reference_NCHW = torch.cat([reference_NCHW, blends(reference_NCHW, num_blends)])
            pixels_NCHW = torch.cat([pixels_NCHW, blends(pixels_NCHW, num_blends)])
        return cls(name=name, reference_NCHW=reference_NCHW, pixels_NCHW=pixels_NCHW)

    def picked(self, rows: Sequence[int], *, num_blends: int) -> Self:
        """Some of these images, with blends of them added."""
        chosen = list(rows)
        reference_NCHW, pixels_NCHW = self.reference_NCHW[chosen], self.pixels_NCHW[chosen]
        return replace(
            self,
            reference_NCHW=torch.cat([reference_NCHW, blends(reference_NCHW, num_blends)]),
            pixels_NCHW=torch.cat([pixels_NCHW, blends(pixels_NCHW, num_blends)]),
        )

    @classmethod
    def of_pixels(cls, name: str, pixels_NCHW: torch.Tensor) -> Self:
        """Pixels that are cut already; how is not judged."""
        return cls(name=name, reference_NCHW=pixels_NCHW, pixels_NCHW=pixels_NCHW)

    def __len__(self) -> int:
        return len(self.pixels_NCHW)

    @property
    def sha256(self) -> str:
        """Hex hash over the name and all pixels."""
        content = hashlib.sha256(self.name.encode())
        for pixels_NCHW in (self.reference_NCHW, self.pixels_NCHW):
            content.update(str(list(pixels_NCHW.shape)).encode())
            content.update(pixels_NCHW.cpu().contiguous().numpy().tobytes())
        return content.hexdigest()


def blends(pixels_NCHW: torch.Tensor, number: int) -> torch.Tensor:
    """Images between two images: with their first one they form pairs as near as one likes.

    Blend k mixes image k with the next one (both modulo N). Its share of the second grows from
    nearly nothing to a half, so that the cosine with the first falls from nearly 1 to far below:
    whatever the encoder and its threshold, some pairs come to lie there.

    Args:
        pixels_NCHW: [N, 3, S, S] uint8.
        number: of blends.

    Returns:
        [number, 3, S, S] uint8.
    """
    first_B = torch.arange(number) % len(pixels_NCHW)
    second_B = (first_B + 1) % len(pixels_NCHW)
    share_B = torch.arange(1, number + 1) / number * _LARGEST_SHARE
    share_B111 = share_B.view(-1, 1, 1, 1)
    mixed_BCHW = torch.lerp(pixels_NCHW[first_B].float(), pixels_NCHW[second_B].float(), share_B111)
    return mixed_BCHW.round().to(torch.uint8)


def pick_images(vectors_ND: torch.Tensor, number: int) -> list[int]:
    """Choose images to judge by: half of them the nearest pairs, half spread out.

    Nearest: pairs by descending cosine, until half the places are taken. Spread: always the image
    farthest from all that were taken before (its largest cosine with them is the smallest).
    Copies (cosine above 1 - 1e-6) form no pair: a gate learns nothing from them.

    Args:
        vectors_ND: [N, D], rows of unit length.
        number: of images to choose.

    Returns:
        Ascending rows; all of them where N is no more than `number`.

    Raises:
        ValueError: fewer than 2 are asked for.
    """
    if number < 2:
        raise ValueError(f"{number} images are to be picked; give at least 2, to have a pair")
    if len(vectors_ND) <= number:
        return list(range(len(vectors_ND)))
    cosines_NN = (vectors_ND.double() @ vectors_ND.double().T).cpu()
    first_P, second_P = torch.triu_indices(len(vectors_ND), len(vectors_ND), 1)
    cosines_P = cosines_NN[first_P, second_P]
    picked: dict[int, None] = {}
    for pair in cosines_P.argsort(descending=True, stable=True).tolist():
        if len(picked) + 2 > max(number // 2, 2):
            break
        if cosines_P[pair] < 1 - 1e-6:
            picked |= dict.fromkeys((int(first_P[pair]), int(second_P[pair])))
    nearest_N = torch.full((len(vectors_ND),), -2.0, dtype=torch.float64)
    for row in picked:
        nearest_N = torch.maximum(nearest_N, cosines_NN[row])
    while len(picked) < number:
        nearest_N[list(picked)] = torch.inf
        row = int(nearest_N.argmin())
        picked[row] = None
        nearest_N = torch.maximum(nearest_N, cosines_NN[row])
    return sorted(picked)
