"""The images of a report: original bytes, checked, with thumbnails and copies that browsers show.

An image that cannot be had (its shard is gone, its bytes are others) is a reason, never an error:
a report is also read where the corpus is not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from miner.config import ImageLimits
from miner.errors import ImageError, ShardError
from miner.fetch import ImageFetcher
from miner.filesystems import is_tar
from miner.images import Decoded, decode
from miner.records import Json
from miner.schema import has_bytes

NOT_AT_HAND = "not at hand: only embeddings of this image were imported, so its bytes are unknown"
"""Why an image of imported embeddings is not seen."""

EXTENSIONS = {
    "JPEG": "jpg",
    "PNG": "png",
    "WEBP": "webp",
    "GIF": "gif",
    "BMP": "bmp",
    "TIFF": "tiff",
    "AVIF": "avif",
}
"""Extension of an original's file, by the format that its bytes are."""

SHOWN_BY_BROWSERS = frozenset(EXTENSIONS) - {"TIFF"}

THUMBNAIL_SIDE = 320
"""Longer side of a thumbnail, in pixels; smaller images are their own thumbnails."""

THUMBNAIL_BYTES = 2**16
"""Size up to which a small image is its own thumbnail."""

VIEW_SIDE = 2048
"""Longer side of a copy for viewing, in pixels, at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exhibit:
    """How a report shows an image.

    Attributes:
        extension: of `images/<sha256>.<extension>`, the original bytes; None where they could not
            be had.
        has_view: whether the original is seen as `images/<sha256>.view.png`.
        has_thumb: whether the list shows `thumbs/<sha256>.jpg`; else it shows the original.
        note: why the original is not what is seen; empty where it is.
    """

    extension: str | None = None
    has_view: bool = False
    has_thumb: bool = False
    note: str = ""


def write_images(samples: Iterable[Json], folder: Path, limits: ImageLimits) -> dict[str, Exhibit]:
    """Write the images of some samples under `images/` and `thumbs/` of a folder.

    Args:
        samples: rows of `samples`, with where the shards are now; of equal bytes the first is read.
        folder: the report's.
        limits: those under which the images were decoded before.

    Returns:
        What became of each, by sha256.
    """
    first: dict[str, Json] = {}
    for row in samples:
        first.setdefault(row["sha256"], row)
    for name in ("images", "thumbs"):
        (folder / name).mkdir(parents=True)
    # In the order in which they lie in their shards.
    rows = sorted(first.values(), key=lambda row: (row["shard"], row["offset"], row["member"]))
    return {sha256: _write_image(sha256, found, folder, limits) for sha256, found in _fetch(rows)}


def _fetch(rows: Iterable[Json]) -> Iterator[tuple[str, bytes | str]]:
    """Each row's sha256 with its image's bytes, or the reason why they cannot be had."""
    gone: dict[str, str] = {}
    with ImageFetcher() as fetcher:
        for row in rows:
            url, sha256 = row["shard"], row["sha256"]
            if not has_bytes(row):
                yield sha256, NOT_AT_HAND
                continue
            if url in gone:
                yield sha256, gone[url]
                continue
            try:
                data = fetcher.read(url, row["member"], row["offset"], row["num_bytes"])
            except ShardError as error:
                # Rows come by offset, so what follows in this tar is not there either.
                if is_tar(url):
                    gone[url] = str(error)
                yield sha256, str(error)
                continue
            found = hashlib.sha256(data).hexdigest()
            yield (
                sha256,
                data
                if found == sha256
                else f"{url}: the bytes at {row['offset']} have the sha256 {found[:12]}, not the "
                f"recorded {sha256[:12]}; the shard was changed",
            )


def _write_image(sha256: str, found: bytes | str, folder: Path, limits: ImageLimits) -> Exhibit:
    if isinstance(found, str):
        return Exhibit(note=found)
    try:
        decoded = decode(found, limits)
    except ImageError as error:
        return Exhibit(note=f"the image cannot be decoded: {error}")
    extension = EXTENSIONS[decoded.format]
    (folder / "images" / f"{sha256}.{extension}").write_bytes(found)
    note = _why_copied(decoded)
    if note:
        _smaller(decoded, VIEW_SIDE).save(folder / "images" / f"{sha256}.view.png", "PNG")
        note += f"; seen here is a PNG of it, at most {VIEW_SIDE} pixels wide and high"
    is_small = max(decoded.width, decoded.height) <= THUMBNAIL_SIDE
    has_thumb = bool(note) or not is_small or len(found) > THUMBNAIL_BYTES
    if has_thumb:
        thumb = folder / "thumbs" / f"{sha256}.jpg"
        _smaller(decoded, THUMBNAIL_SIDE).save(thumb, "JPEG", quality=82)
    return Exhibit(extension=extension, has_view=bool(note), has_thumb=has_thumb, note=note)


def _why_copied(decoded: Decoded) -> str:
    """Why a browser would not show the original as the encoders saw it; empty where it would."""
    if decoded.format not in SHOWN_BY_BROWSERS:
        return f"browsers do not show {decoded.format}"
    if decoded.exif_orientation not in (None, 1):
        return (
            f"EXIF orientation {decoded.exif_orientation}: browsers would turn the image, the "
            "encoders saw it unturned"
        )
    return ""


def _smaller(decoded: Decoded, side: int) -> Image.Image:
    image = Image.fromarray(decoded.pixels_HWC.numpy())
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return image
