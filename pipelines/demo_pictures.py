"""What the demo's encoders look at in training: a pool of rendered scenes, and views of them.

Views are never mirrored or rotated, so that direction, place and letters stay a difference.

    B images, N pictures of the pool; C, H, W channels, rows, columns
"""

from __future__ import annotations

import io
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from pipelines.drawing import encode, render
from pipelines.scenes import Scene, draw_scene

Bytes = np.ndarray[Any, np.dtype[np.uint8]]

IMAGE_SIZE = 64
"""Side of what both encoders look at, in pixels."""

MEAN, STD = 0.5, 0.25
"""Of every channel, in units of 0..1."""

POOL_SEED = 1_000_003
"""Scene k of the training pool is drawn from the generator seeded by (POOL_SEED, k)."""


@dataclass(frozen=True, kw_only=True)
class Views:
    """How strongly a training picture is distorted; every field is the largest deviation."""

    shift_px: float
    """Moved by up to so many pixels."""
    zoom: float
    """Scaled by up to this share."""
    gain: float
    """Brightness changed by up to this share."""
    offset: float
    """Brightened or darkened by up to so much, in units of 0..1."""
    cast: float
    """Each channel besides by up to this share."""
    noise: float
    """Standard deviation of the grain, in units of 0..1."""
    grey: float
    """Share of pictures that lose their colour, to a grey of randomly weighed channels."""


def pool_scene(number: int) -> Scene:
    """One scene of the training pool."""
    return draw_scene(np.random.default_rng((POOL_SEED, number)))


def small(jpeg: bytes) -> Bytes:
    """A scene's file as both encoders see it: [H, W, C] uint8 by antialiased bicubic."""
    image = Image.open(io.BytesIO(jpeg)).convert("RGB")
    return np.asarray(image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC))


def _pool_picture(number: int) -> Bytes:
    return small(encode(render(pool_scene(number))))


def render_pool(num_scenes: int, processes: Executor) -> Bytes:
    """The training pictures: [N, C, H, W] uint8."""
    pictures = list(processes.map(_pool_picture, range(num_scenes), chunksize=64))
    return np.ascontiguousarray(np.stack(pictures).transpose(0, 3, 1, 2))


def normalise(pixels_BCHW: torch.Tensor) -> torch.Tensor:
    """Pixels in 0..1 to what the towers take."""
    return (pixels_BCHW - MEAN) / STD


def distort(pixels_BCHW: torch.Tensor, views: Views, generator: torch.Generator) -> torch.Tensor:
    """Another view of every picture: moved, scaled, in another light, grainy; never mirrored."""
    num = len(pixels_BCHW)

    def deviation(*shape: int) -> torch.Tensor:
        return torch.rand(num, *shape, generator=generator) * 2 - 1

    affine_B23 = torch.zeros(num, 2, 3)
    zoom_B = 1 + views.zoom * deviation()
    affine_B23[:, 0, 0] = affine_B23[:, 1, 1] = zoom_B
    affine_B23[:, :, 2] = views.shift_px * 2 / IMAGE_SIZE * deviation(2)
    grid = functional.affine_grid(affine_B23, list(pixels_BCHW.shape), align_corners=False)
    moved_BCHW = functional.grid_sample(
        pixels_BCHW, grid, padding_mode="border", align_corners=False
    )
    lit_BCHW = moved_BCHW * (1 + views.gain * deviation(1, 1, 1))
    lit_BCHW = lit_BCHW * (1 + views.cast * deviation(3, 1, 1))
    weights_B311 = torch.rand(num, 3, 1, 1, generator=generator) + 0.1
    grey_B1HW = (lit_BCHW * weights_B311).sum(1, True) / weights_B311.sum(1, True)
    is_grey = torch.rand(num, 1, 1, 1, generator=generator) < views.grey
    seen_BCHW = torch.where(is_grey, grey_B1HW, lit_BCHW) + views.offset * deviation(1, 1, 1)
    return seen_BCHW + views.noise * torch.randn(seen_BCHW.shape, generator=generator)
