"""Renders the scenes on which the parity gate judges every engine: `python -m pipelines.bundle_scenes`.

They lie in the package (`export/scenes.tar`), so that engines can be judged where nothing can be
rendered; half of them are twins, near pairs for every encoder.
"""

from __future__ import annotations

import io
import tarfile

from PIL import Image

from export.scenes import SCENES
from pipelines.drawing import render
from pipelines.scenes import make_scenes

NUM_SCENES = 24
SEED = 2401
QUALITY = 85


def rendered() -> list[Image.Image]:
    """The scenes, as they were before they became files."""
    return [render(entry.scene) for entry in make_scenes(NUM_SCENES, SEED)]


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
