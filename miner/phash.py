"""How an image looks, in 64 bits: images that look alike share most of them.

The values are those of `imagehash.phash` (the low frequencies of a 32 x 32 gray picture, above or
below their median), computed from the planes of a crop without a detour over an RGB picture.

Shape suffixes: N images, C = 3 channels, H rows, W columns, K low frequencies.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.fftpack
import torch
from PIL import Image

from miner.images import CropSpec

PHASH_CROP = CropSpec(mode="shortest", resize_to=64, size=64)
"""The crop that `perceptual_hash` is defined on: the CLIP default's, so that it is cut once."""

_LUMA = np.array([19595, 38470, 7471], np.uint32)
"""Weights of red, green and blue in gray, in 1/65536 (ITU-R 601-2), as Pillow has them."""

_SIDE, _LOW = 32, 8


def perceptual_hash(crop_CHW: torch.Tensor) -> int:
    """Hash how an image looks: unsigned 64 bits, of which similar images share most.

    Args:
        crop_CHW: [3, 224, 224] uint8, the image's `PHASH_CROP`.
    """
    return hashes(shrunk(crop_CHW)[None])[0]


def shrunk(crop_CHW: torch.Tensor) -> npt.NDArray[np.uint8]:
    """[32, 32] uint8: all of a crop that its hash depends on."""
    image = Image.fromarray(gray(crop_CHW))
    return np.asarray(image.resize((_SIDE, _SIDE), Image.Resampling.LANCZOS))


def hashes(shrunk_NHW: npt.NDArray[np.uint8]) -> list[int]:
    """The hashes of several images at once, which costs little more than that of one.

    Args:
        shrunk_NHW: [N, 32, 32] uint8, from `shrunk`.
    """
    columns_NHW = scipy.fftpack.dct(shrunk_NHW, axis=1)
    low_NHW = scipy.fftpack.dct(columns_NHW, axis=2)[:, :_LOW, :_LOW]
    low_NK = low_NHW.reshape(len(low_NHW), _LOW * _LOW)
    ordered_NK = np.sort(low_NK, axis=1)
    middle = ordered_NK.shape[1] // 2
    median_N1 = (ordered_NK[:, middle - 1 : middle] + ordered_NK[:, middle : middle + 1]) / 2
    bits_NK = np.packbits(low_NK > median_N1, axis=1)
    return [int.from_bytes(bits_K.tobytes(), "big") for bits_K in bits_NK]


def gray(crop_CHW: torch.Tensor) -> npt.NDArray[np.uint8]:
    """[H, W] uint8: a crop [3, H, W] without its colours, rounded as Pillow rounds."""
    red_HW, green_HW, blue_HW = crop_CHW.numpy()
    gray_HW: npt.NDArray[np.uint32] = red_HW * _LUMA[0]
    gray_HW += green_HW * _LUMA[1]
    gray_HW += blue_HW * _LUMA[2]
    gray_HW += 1 << 15
    gray_HW >>= 16
    return gray_HW.astype(np.uint8)
