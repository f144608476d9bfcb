"""From a JPEG's bytes to the crops of both default encoders: own path against its peers, per core.

    python -m bench.decode --data generated

All providers run in one process, on one thread, in turn on the same pictures; the time is the
processor's. The reference is Pillow alone. Exit code 1, and no row, where the own crops differ from
it by more than 2 of 255; how far a peer's do is a row.

Shape suffixes: H rows, W columns, C = 3 channels.
"""

from __future__ import annotations

import hashlib
import io
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click
import cv2
import numpy as np
import torch
import torchvision
from PIL import Image
from torchvision.transforms.v2 import functional

from bench.pictures import pictures_of
from bench.rows import Row, append_rows, blank_row
from bench.targets import judged
from bench.terminal import show
from miner import crops, images
from miner.config import ImageLimits
from miner.crops import CropSpec
from miner.phash import PHASH_CROP, perceptual_hash
from miner.registry import REGISTRY

NAME = "decode"
OUT = Path(__file__).parent / "results" / "decode.csv"
CROPS = tuple(REGISTRY[name].crop for name in ("clip-vit-l-14", "dinov2-vit-l-14"))
MOST_LEVELS = 2
"""How far the own path may be from Pillow, of 255."""

Crops = list[np.ndarray]
"""[3, size, size] uint8 for each of `CROPS`."""


class WrongPixelsError(Exception):
    """The own crops are not Pillow's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoder:
    """Something that makes crops of a JPEG's bytes.

    Attributes:
        name: as in the rows.
        crops: what it does.
        note: what one has to know of it.
    """

    name: str
    crops: Callable[[bytes], Crops]
    note: str = ""


def own(data: bytes) -> Crops:
    """What a decode worker does, without the hashes."""
    decoded = images.decode(data, ImageLimits())
    return [crops.cut(decoded.pixels_HWC, crop).numpy() for crop in CROPS]


def own_with_hashes(data: bytes) -> Crops:
    """All that a decode worker does, though it takes the perceptual hashes of an order at once."""
    decoded = images.decode(data, ImageLimits())
    perceptual_hash(crops.cut(decoded.pixels_HWC, PHASH_CROP))
    hashlib.sha256(data).hexdigest()
    return [crops.cut(decoded.pixels_HWC, crop).numpy() for crop in CROPS]


def all_pillow(data: bytes) -> Crops:
    """Pillow from the first byte to the last pixel, decoded once for both crops."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    found = []
    for crop in CROPS:
        height, width, top, left = _geometry(image.height, image.width, crop)
        resized = image.resize((width, height), Image.Resampling.BICUBIC)
        square = resized.crop((left, top, left + crop.size, top + crop.size))
        found.append(np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1)))
    return found


def by_opencv(data: bytes) -> Crops:
    """OpenCV, whose only antialiased way to shrink is by areas."""
    encoded = np.frombuffer(data, np.uint8)
    pixels_HWC = cv2.cvtColor(cv2.imdecode(encoded, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    found = []
    for crop in CROPS:
        height, width, top, left = _geometry(*pixels_HWC.shape[:2], crop)
        resized_HWC = cv2.resize(pixels_HWC, (width, height), interpolation=cv2.INTER_AREA)
        square_HWC = resized_HWC[top : top + crop.size, left : left + crop.size]
        found.append(np.ascontiguousarray(square_HWC.transpose(2, 0, 1)))
    return found


def by_torchvision(data: bytes) -> Crops:
    """Decoder and transforms of torchvision."""
    encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    with warnings.catch_warnings():
        # It is to move into another package; what is compared is what is installed.
        warnings.simplefilter("ignore", DeprecationWarning)
        pixels_CHW = torchvision.io.decode_jpeg(encoded, mode=torchvision.io.ImageReadMode.RGB)
    found = []
    for crop in CROPS:
        resized_CHW = functional.resize(
            pixels_CHW,
            [crop.resize_to],
            interpolation=torchvision.transforms.InterpolationMode.BICUBIC,
            antialias=True,
        )
        square_CHW = functional.center_crop(resized_CHW, [crop.size, crop.size])
        found.append(square_CHW.contiguous().numpy())
    return found


REFERENCE = Decoder(name="pillow", crops=all_pillow)
DECODERS = (
    Decoder(name="own", crops=own),
    Decoder(name="own, with hashes", crops=own_with_hashes, note="and sha256 and phash"),
    REFERENCE,
    Decoder(name="opencv", crops=by_opencv, note="shrinks by areas, not bicubic"),
    Decoder(name="torchvision", crops=by_torchvision),
)


def _geometry(height: int, width: int, crop: CropSpec) -> tuple[int, int, int, int]:
    """Height and width after the resize of the shorter side, and the corner of the middle."""
    scale = crop.resize_to / min(height, width)
    resized = [
        crop.resize_to if side == min(height, width) else int(side * scale)
        for side in (height, width)
    ]
    top, left = (round((side - crop.size) / 2) for side in resized)
    return *resized, top, left  # type: ignore[return-value]


def differences(decoder: Decoder, pictures: Sequence[bytes]) -> list[float]:
    """The largest difference from Pillow of each picture's crops, of 255."""
    return [
        max(
            float(np.abs(mine.astype(np.int16) - theirs).max())
            for mine, theirs in zip(decoder.crops(data), REFERENCE.crops(data), strict=True)
        )
        for data in pictures
    ]


def compare(
    data: str, pictures: Sequence[bytes], repeats: int, decoders: Sequence[Decoder] = DECODERS
) -> list[Row]:
    """All rows of some pictures.

    Raises:
        WrongPixelsError: an own path is not within `MOST_LEVELS` of Pillow.
    """
    worst = {decoder.name: max(differences(decoder, pictures)) for decoder in decoders}
    for name, levels in worst.items():
        if name.startswith("own") and levels > MOST_LEVELS:
            raise WrongPixelsError(f"{name} is {levels:g} of 255 from Pillow, limit {MOST_LEVELS}")
    seconds: dict[str, list[float]] = {decoder.name: [] for decoder in decoders}
    for _ in range(repeats):
        for decoder in decoders:
            start_s = time.process_time()
            for each in pictures:
                decoder.crops(each)
            seconds[decoder.name].append((time.process_time() - start_s) / len(pictures))
    size = sum(map(len, pictures)) / len(pictures) / 1000
    blank = replace(
        blank_row(NAME), data=data, shape=f"{len(pictures)}x{size:.0f} kB", dtype="uint8"
    )
    rows = []
    for decoder in decoders:
        base = replace(blank, provider=decoder.name)
        own_s = seconds[decoder.name]
        speeds = [1 / elapsed_s for elapsed_s in own_s]
        rows.append(base.measured("images per core second", speeds, unit="1/s", note=decoder.note))
        levels = [worst[decoder.name]]
        rows.append(base.measured("largest difference", levels, unit="of 255"))
        rows += [
            base.measured(
                f"time / {peer.name}",
                [a / b for a, b in zip(own_s, seconds[peer.name], strict=True)],
                unit="ratio",
            )
            for peer in decoders
            if peer is not decoder
        ]
    return [judged(row) for row in rows]


@click.command()
@click.option("--data", type=click.Choice(["generated", "photographs"]), default="generated")
@click.option("--pictures", "num_pictures", default=120, show_default=True)
@click.option("--repeats", default=5, show_default=True, help="rounds")
@click.option("--out", type=click.Path(path_type=Path), default=OUT, show_default=True)
def main(data: str, num_pictures: int, repeats: int, out: Path) -> None:
    """Measure decoding and both crops on one core."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        rows = compare(data, pictures_of(data, num_pictures), repeats)
    except (FileNotFoundError, WrongPixelsError) as error:
        raise click.ClickException(str(error)) from error
    append_rows(out, rows)
    show(rows)


if __name__ == "__main__":
    main()
