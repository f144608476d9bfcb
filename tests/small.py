"""Small seeded encoders and corpora for tests of the whole way from shards to pairs."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from miner.encoders import TorchEncoder, load_encoder
from tests.towers import clip_record, dino_record, write_clip_weights, write_dino_weights

PHOTOGRAPHS = Path(__file__).parents[2] / "shared" / "data"
"""Two shards of ImageNet photographs, where they exist."""


def picture(seed: int, size: tuple[int, int] = (96, 80)) -> Image.Image:
    """A smooth random picture."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def jpeg(seed: int, size: tuple[int, int] = (96, 80)) -> bytes:
    """A smooth random picture as JPEG bytes."""
    buffer = io.BytesIO()
    picture(seed, size).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def write_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    """A tar of these members, in this order, the same bytes every time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def write_corpus(
    folder: Path, *, num_shards: int = 3, images: int = 12, first_shard: int = 0
) -> list[Path]:
    """Shards of random pictures in img2dataset's layout; one image in each is broken."""
    paths = []
    for shard in range(first_shard, first_shard + num_shards):
        members = []
        for number in range(images):
            seed = shard * 1000 + number
            key = f"{shard:05d}{number:04d}"
            data = jpeg(seed) if number != 5 else b"<html>not an image</html>"
            meta = {"key": key, "url": f"https://example.org/{seed}.jpg", "caption": f"n {seed}"}
            members += [(f"{key}.jpg", data), (f"{key}.json", json.dumps(meta).encode())]
        paths.append(write_tar(folder / f"{shard:05d}.tar", members))
    return paths


def write_weights(folder: Path) -> tuple[Path, Path]:
    """Seeded weights of the two small encoders: CLIP's and DINO's."""
    folder.mkdir(parents=True, exist_ok=True)
    clip = write_clip_weights(folder / "clip.safetensors")
    return clip, write_dino_weights(folder / "dino.safetensors")


def small_encoders(folder: Path) -> list[TorchEncoder]:
    """The two small encoders, loaded on the CPU."""
    clip, dino = write_weights(folder)
    return [
        load_encoder(clip_record(), weights=clip),
        load_encoder(dino_record(), weights=dino),
    ]
