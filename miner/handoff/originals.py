"""The images' own bytes, from wherever shards are, each checked by its sha256."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Self

from PIL import Image

from miner.config import ImageLimits
from miner.errors import ImageError, ShardError
from miner.fetch import ImageFetcher
from miner.images import decode
from miner.records import Json
from miner.reporting.images import EXTENSIONS
from miner.schema import UNKNOWN_FORMAT

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns an image as its EXIF orientation says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the bytes of an image are.

    Attributes:
        url: of the tar, or of the folder tree.
        member: the image's path in a tree.
        offset: of the first byte.
        num_bytes: their number.
    """

    url: str
    member: str
    offset: int
    num_bytes: int


class Originals:
    """Reads the images of a hand-off; one at a time, none is kept."""

    def __init__(self, places: Mapping[str, Place], limits: ImageLimits, *, bake: bool) -> None:
        """Open nothing yet.

        Args:
            places: of each image, by sha256.
            limits: under which the images were decoded before.
            bake: whether images are turned as their EXIF says.
        """
        self._places, self._limits, self._bake = places, limits, bake
        self._fetcher = ImageFetcher()

    def is_altered(self, image: Json) -> bool:
        """Whether what is handed off of an image are not its own bytes."""
        return self._bake and image["exif_orientation"] in _TURNS

    def extension(self, image: Json) -> str:
        """The extension that tells the format of what is handed off.

        Raises:
            ShardError: only an embedding of the image was imported.
        """
        _check_known(image)
        return "png" if self.is_altered(image) else EXTENSIONS[image["format"]]

    def format(self, image: Json) -> str:
        """The format of what is handed off of an image, as Pillow calls it."""
        return "PNG" if self.is_altered(image) else str(image["format"])

    def file_name(self, image: Json) -> str:
        """A name for the image's file that no key or caption has a part in."""
        return f"{image['sha256']}.{self.extension(image)}"

    def read(self, image: Json) -> bytes:
        """What is handed off of an image: its own bytes, or a turned copy.

        Raises:
            ShardError: they cannot be had, or are others than were mined.
        """
        _check_known(image)
        place = self._places[image["sha256"]]
        data = self._fetcher.read(place.url, place.member, place.offset, place.num_bytes)
        found = hashlib.sha256(data).hexdigest()
        if found != image["sha256"]:
            raise ShardError(
                f"{place.url}: the bytes of {image['image_id']} have the sha256 {found[:12]}, not "
                f"the recorded {image['sha256'][:12]}; restore the shard"
            )
        return self._turned(image, data) if self.is_altered(image) else data

    def each(self, images: Iterable[Json]) -> Iterator[tuple[Json, bytes]]:
        """Every distinct image with its bytes, in the order in which they lie in their shards."""
        distinct = {image["sha256"]: image for image in images}

        def where(image: Json) -> tuple[str, int, str]:
            place = self._places[image["sha256"]]
            return place.url, place.offset, place.member

        for image in sorted(distinct.values(), key=where):
            yield image, self.read(image)

    def lost(self, images: Iterable[Json]) -> list[tuple[Json, ShardError]]:
        """The distinct images that cannot be handed off, and why; all are read for that."""
        found = []
        for image in {image["sha256"]: image for image in images}.values():
            try:
                self.read(image)
            except ShardError as error:
                found.append((image, error))
        return found

    def _turned(self, image: Json, data: bytes) -> bytes:
        try:
            decoded = decode(data, self._limits)
        except ImageError as error:
            raise ShardError(
                f"{image['image_id']} cannot be decoded any more ({error}), so it cannot be "
                "turned; leave out --bake-orientation"
            ) from error
        picture = Image.fromarray(decoded.pixels_HWC.numpy())
        buffer = io.BytesIO()
        # No pixel is lost; JPEG would lose some again.
        picture.transpose(_TURNS[image["exif_orientation"]]).save(buffer, "PNG")
        return buffer.getvalue()

    def close(self) -> None:
        """Close all files."""
        self._fetcher.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _check_known(image: Json) -> None:
    if image["format"] == UNKNOWN_FORMAT:
        raise ShardError(
            f"{image['image_id']}: only its embeddings were imported, so its bytes are unknown; "
            "hand off without images (--images none, or csv, jsonl, clip-retrieval)"
        )
