"""Rendered scenes that come with the package: what every engine is judged on, wherever it is made.

H rows, W columns, C = 3 channels
"""

from __future__ import annotations

import tarfile
from pathlib import Path

import torch

from miner.config import ImageLimits
from miner.images import decode

SCENES = Path(__file__).parent / "scenes.tar"
"""Written by `python -m pipelines.bundle_scenes`."""


def bundled_scenes() -> list[torch.Tensor]:
    """The scenes, [256, 256, 3] uint8 each; half of them differ from another in one thing only."""
    images_HWC = []
    with tarfile.open(SCENES) as tar:
        for member in tar:
            file = tar.extractfile(member)
            assert file is not None, member.name
            images_HWC.append(decode(file.read(), ImageLimits()).pixels_HWC)
    return images_HWC
