"""The square that an encoder looks at, cut out of an image's pixels.

The fast path (torch's antialiased uint8 resize) differs from the reference (Pillow) by at most 2 of
255 in every value, and hands over to the reference where it could not.

Shape suffixes: B batch, H height, W width, C = 3 channels.
"""

from __future__ import annotations

from typing import Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from pydantic import Field, model_validator

from miner.config import Settings

_BOX_ABOVE_ASPECT_RATIO = 8
"""Width to height from which Pillow's resize of the middle beats torch's of the whole."""


class CropSpec(Settings):
    """How an encoder wants its square cut out of an image."""

    mode: Literal["shortest", "squash"]
    """shortest: resize the shorter side to `resize_to`, cut the middle; squash: resize both."""

    resize_to: int = Field(gt=0)
    """Length of the resized side, in pixels; at least `size`, and equal to it in a squash."""

    size: int = Field(gt=0)
    """Side of the square, in pixels."""

    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    """Kernel of the resize, always antialiased."""

    @model_validator(mode="after")
    def _square_fits(self) -> Self:
        if self.resize_to < self.size:
            raise ValueError(
                f"resize_to is {self.resize_to}, less than size ({self.size}), so the square would "
                "reach beyond the image; give at least size"
            )
        if self.mode == "squash" and self.resize_to != self.size:
            raise ValueError(
                f"resize_to is {self.resize_to}, but a squash goes straight to size ({self.size}); "
                "give the same for both"
            )
        return self


def cut(
    pixels_HWC: torch.Tensor,
    crop: CropSpec,
    *,
    reference: bool = False,
    out_CHW: torch.Tensor | None = None,
) -> torch.Tensor:
    """Resize an image and cut its middle, with the arithmetic of torchvision's transforms.

    Args:
        pixels_HWC: [H, W, 3] uint8 on the CPU.
        crop: what the encoder wants.
        reference: by Pillow alone, resizing the whole image.
        out_CHW: where the crop is to be written; default: new memory.

    Returns:
        [3, size, size] uint8, contiguous.
    """
    if out_CHW is None:
        out_CHW = torch.empty((3, crop.size, crop.size), dtype=torch.uint8)
    height, width = pixels_HWC.shape[:2]
    new_height, new_width = _resized(height, width, crop)
    size = crop.size
    top, left = round((new_height - size) / 2.0), round((new_width - size) / 2.0)
    if (
        reference
        # Two passes of bicubic clip in between, so their order shows. Pillow starts with the
        # columns in some of these cases (depending on its version), torch always with the rows.
        or (
            crop.interpolation == "bicubic"
            and height > new_height
            and height - new_height > 2 * (width - new_width)
        )
    ):
        image = Image.fromarray(pixels_HWC.numpy())
        image = image.resize((new_width, new_height), _resampling(crop))
        crop_HWC = np.array(image.crop((left, top, left + size, top + size)))
    elif crop.mode == "shortest" and width > _BOX_ABOVE_ASPECT_RATIO * height:
        crop_HWC = _cut_middle(pixels_HWC, crop, left / new_width, (left + size) / new_width)
    else:
        resized_BCHW = torch.nn.functional.interpolate(
            pixels_HWC.permute(2, 0, 1)[None],
            size=(new_height, new_width),
            mode=crop.interpolation,
            antialias=True,
        )
        return out_CHW.copy_(resized_BCHW[0, :, top : top + size, left : left + size])
    return out_CHW.copy_(torch.from_numpy(crop_HWC).permute(2, 0, 1))


def _cut_middle(
    pixels_HWC: torch.Tensor, crop: CropSpec, start: float, stop: float
) -> npt.NDArray[np.uint8]:
    """Resize from `start` to `stop` (shares of the width) without touching what lies beyond."""
    height, width = pixels_HWC.shape[:2]
    top = round((crop.resize_to - crop.size) / 2.0)
    y_scale = height / crop.resize_to
    # What bicubic, the wider kernel, reaches of its neighbours.
    reach = 2 * max(y_scale, 1) + 2
    first, last = max(int(start * width - reach), 0), min(int(stop * width + reach) + 1, width)
    image = Image.fromarray(pixels_HWC[:, first:last].numpy())
    box = (
        start * width - first,
        top * y_scale,
        stop * width - first,
        (top + crop.size) * y_scale,
    )
    return np.array(image.resize((crop.size, crop.size), _resampling(crop), box=box))


def _resized(height: int, width: int, crop: CropSpec) -> tuple[int, int]:
    """Height and width after the resize."""
    if crop.mode == "squash":
        return crop.size, crop.size
    if width <= height:
        return int(crop.resize_to * height / width), crop.resize_to
    return crop.resize_to, int(crop.resize_to * width / height)


def _resampling(crop: CropSpec) -> Image.Resampling:
    return Image.Resampling[crop.interpolation.upper()]
