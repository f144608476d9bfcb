"""Renders the pictures on which the parity gate judges every engine.

    python -m pipelines.bundle_scenes

They lie in the package (`export/scenes.tar`), so that engines can be judged where nothing can be
rendered. More than half of the scenes are twins, near pairs for every encoder; the patterns are
like no scene, so that cosines spread.
"""

from __future__ import annotations

import io
import tarfile

import numpy as np
from PIL import Image

from export.scenes import SCENES
from pipelines.drawing import SIZE, render
from pipelines.scenes import make_scenes

NUM_SCENES = 24
SEED = 2401
QUALITY = 85


def rendered() -> list[Image.Image]:
    """The scenes and the patterns, as they were before they became files."""
    return [*(render(entry.scene) for entry in make_scenes(NUM_SCENES, SEED)), *patterns()]


def patterns() -> list[Image.Image]:
    """Noise, planes, stripes, squares and rings: pictures of nothing."""
    rng = np.random.default_rng(SEED)
    y_HW, x_HW = np.mgrid[:SIZE, :SIZE] / SIZE
    radius_HW = np.hypot(x_HW - 0.5, y_HW - 0.5)
    gray = (
        rng.random((SIZE, SIZE)),
        np.full((SIZE, SIZE), 0.02),
        x_HW * y_HW,
        np.sin(60 * x_HW) > 0,
        (np.floor(8 * x_HW) + np.floor(8 * y_HW)) % 2,
        np.sin(50 * radius_HW) > 0,
    )
    shades = [np.repeat(np.asarray(shade_HW, float)[..., None], 3, axis=2) for shade_HW in gray]
    coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    return [
        *(Image.fromarray((255 * shade_HWC).round().astype(np.uint8)) for shade_HWC in shades),
        Image.fromarray(rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)),
        coarse.resize((SIZE, SIZE), Image.Resampling.NEAREST),
    ]


def main() -> None:
    """Write the scenes as a tar of JPEGs."""
    with tarfile.open(SCENES, "w", format=tarfile.USTAR_FORMAT) as tar:
        for number, image in enumerate(rendered()):
            buffer = io.BytesIO()
            image.save(buffer, "JPEG", quality=QUALITY)
            member = tarfile.TarInfo(f"{number:03d}.jpg")
            member.size = buffer.tell()
            buffer.seek(0)
            tar.addfile(member, buffer)


if __name__ == "__main__":
    main()
