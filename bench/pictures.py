"""JPEGs to decode: photographs where they are, and generated ones with a photograph's spectrum.

Shape suffixes: H rows, W columns, C = 3 channels.
"""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

PHOTOGRAPHS = Path(__file__).parents[2] / "shared" / "data"
"""Shards of photographs, where they exist."""


def generated(num_pictures: int, *, seed: int = 0) -> list[bytes]:
    """Noise whose amplitude falls with the frequency, as in photographs; 400 to 500 pixels a side.

    Args:
        num_pictures: how many.
        seed: other pictures for another one.
    """
    generator = np.random.default_rng(seed)
    return [_picture(generator) for _ in range(num_pictures)]


def _picture(generator: np.random.Generator) -> bytes:
    height, width = generator.integers(400, 501, 2)
    frequency_HW = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    amplitude_HW = 1 / np.maximum(frequency_HW, 1 / max(height, width))
    planes = []
    for _ in range(3):
        noise_HW = np.fft.rfft2(generator.standard_normal((height, width)))
        planes.append(np.fft.irfft2(noise_HW * amplitude_HW, (height, width)))
    # Colours of one place are alike: a common plane, and a little of each.
    pixels_HWC = np.stack([planes[0] + 0.3 * plane for plane in planes], axis=2)
    pixels_HWC = 128 + 50 * pixels_HWC / pixels_HWC.std()
    image = Image.fromarray(pixels_HWC.clip(0, 255).astype(np.uint8))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


def photographs(folder: Path = PHOTOGRAPHS) -> list[bytes]:
    """Every JPEG of the tars in a folder; none where there is no folder."""
    found = []
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                file = tar.extractfile(member)
                if file is not None and (data := file.read()).startswith(b"\xff\xd8\xff"):
                    found.append(data)
    return found


def pictures_of(data: str, num_pictures: int) -> list[bytes]:
    """The pictures that the options name, each so many times as is needed.

    Raises:
        FileNotFoundError: photographs are wanted, and there are none.
    """
    if data == "generated":
        return generated(num_pictures)
    if not (found := photographs()):
        raise FileNotFoundError(
            f"{PHOTOGRAPHS} holds no shard of photographs; give --data generated"
        )
    return [found[number % len(found)] for number in range(num_pictures)]
