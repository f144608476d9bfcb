"""How an image looks, in 64 bits: images that look alike share most of them.

The values are those of `imagehash.phash` of a small square cut from the image (the low frequencies
of a 32 x 32 gray picture, above or below their median). A worker hashes all images of an order at
once, which costs little more than one: what is small and done seldom finds no cache warm. All but
the last step is arithmetic of integers, also where float64 does it, so that no library's order of
sums decides a bit.

Shape suffixes: N images, C = 3 channels, H rows, W columns, K low frequencies.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import scipy.fftpack
import torch

from miner.crops import CropSpec

PHASH_CROP = CropSpec(mode="shortest", resize_to=64, size=64)
"""The crop that the hash is defined on; the demo's encoders take it too, so that it is cut once."""

_LUMA = np.array([19595, 38470, 7471], np.uint32)
"""Weights of red, green and blue in gray, in 1/65536 (ITU-R 601-2), as Pillow has them."""

_SIDE, _LOW = 32, 8

_UNIT = 2.0**22
"""Pillow computes in integers: its weights of pixels are multiples of 1 / _UNIT."""

_REACH = 3.0
"""Of Lanczos, in pixels of the smaller picture."""


def perceptual_hash(crop_CHW: torch.Tensor) -> int:
    """Hash how an image looks: unsigned 64 bits, of which similar images share most.

    Args:
        crop_CHW: [3, 64, 64] uint8, the image's `PHASH_CROP`.
    """
    return hashes([crop_CHW])[0]


def hashes(crops: Sequence[torch.Tensor]) -> list[int]:
    """The hashes of several images at once.

    Args:
        crops: of each image its `PHASH_CROP`, [3, 64, 64] uint8.
    """
    columns_NHW = scipy.fftpack.dct(
        shrunk(gray(np.stack([crop.numpy() for crop in crops]))), axis=1
    )
    low_NHW = scipy.fftpack.dct(columns_NHW, axis=2)[:, :_LOW, :_LOW]
    low_NK = low_NHW.reshape(len(low_NHW), _LOW * _LOW)
    ordered_NK = np.sort(low_NK, axis=1)
    middle = ordered_NK.shape[1] // 2
    median_N1 = (ordered_NK[:, middle - 1 : middle] + ordered_NK[:, middle : middle + 1]) / 2
    bits_NK = np.packbits(low_NK > median_N1, axis=1)
    return [int.from_bytes(bits_K.tobytes(), "big") for bits_K in bits_NK]


def gray(crops_NCHW: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """[N, H, W] uint8: crops without their colours, rounded as Pillow rounds."""
    gray_NHW: npt.NDArray[np.uint32] = crops_NCHW[:, 0] * _LUMA[0]
    gray_NHW += crops_NCHW[:, 1] * _LUMA[1]
    gray_NHW += crops_NCHW[:, 2] * _LUMA[2]
    gray_NHW += 1 << 15
    gray_NHW >>= 16
    return gray_NHW.astype(np.uint8)


def shrunk(gray_NHW: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """[N, 32, 32] uint8: pictures [N, 64, 64] shrunk by Pillow's Lanczos, rows first."""
    narrow_NHW = _rounded(gray_NHW @ _WEIGHTS.T)
    return _rounded(_WEIGHTS @ narrow_NHW).astype(np.uint8)


def _rounded(values_NHW: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Sums of weighted pixels to pixels, as Pillow rounds and clips between its two passes."""
    return np.floor(values_NHW / _UNIT + 0.5).clip(0, 255)


def _lanczos(large: int, small: int) -> npt.NDArray[np.float64]:
    """[small, large]: what each pixel adds to each of the smaller picture, in 1 / _UNIT."""
    scale = large / small
    centres = (np.arange(small) + 0.5) * scale
    distances = (np.arange(large) + 0.5 - centres[:, None]) / scale
    weights = np.sinc(distances) * np.sinc(distances / _REACH)
    weights[abs(distances) >= _REACH] = 0
    weights /= weights.sum(axis=1, keepdims=True)
    halves = np.where(weights < 0, -0.5, 0.5)
    return np.trunc(halves + weights * _UNIT)


_WEIGHTS = _lanczos(PHASH_CROP.size, _SIDE)
