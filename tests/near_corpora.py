"""Shards of pictures of which some are copies and near-copies, for tests of what needs few of them.

With the small encoders, about a third of the images has a partner with a CLIP cosine above 0.98.
"""

from __future__ import annotations

import io
from pathlib import Path

from tests.small import jpeg, picture, write_tar

THRESHOLDS = ("--clip-above", "0.98", "--dino-below", "0.95", "--max-bad-fraction", "0.2")


def write_near_corpus(folder: Path, *, num_shards: int = 3, images: int = 14) -> list[Path]:
    """Shards of pictures; in each one broken, one copy from the next shard and two near-copies."""
    paths = []
    for shard in range(num_shards):
        members = []
        for number in range(images):
            seed = shard * 1000 + number
            data = jpeg(seed)
            if number == 3:
                data = b"<html>not an image</html>"
            elif number == 5:
                data = jpeg((shard + 1) % num_shards * 1000 + 1)
            elif number in (7, 9):
                data = _again(shard * 1000 + number - 1, quality=40 + number)
            members.append((f"{shard:02d}{number:04d}.jpg", data))
        paths.append(write_tar(folder / f"{shard:05d}.tar", members))
    return paths


def _again(seed: int, quality: int) -> bytes:
    """A picture's near-copy: the same pixels, compressed more."""
    buffer = io.BytesIO()
    picture(seed).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
