"""What an image's header says, before any pixel of it is decoded; what is too large ends here."""

from __future__ import annotations

import io
import re
import threading
import warnings
import zlib
from typing import Literal, cast

from PIL import ExifTags, Image, ImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TILELENGTH, TILEWIDTH, TiffImageFile

from miner.config import ImageLimits
from miner.errors import ImageError
from miner.formats import READERS
from miner.schema import Reason

_AVIF_EXIF_ITEM = re.compile(rb"(infe.{8}(?:..)?)Exif", re.DOTALL)
"""Box `infe`: version and flags, item (2 or 4 bytes), protection, type (ISO/IEC 14496-12)."""

MAX_SCANS = 100
"""Most scans of a progressive JPEG; encoders write about ten, and each is a pass over the image."""

_SCAN = b"\xff\xda"


def open_header(data: bytes, limits: ImageLimits, *, format: str) -> ImageFile.ImageFile:
    """Open an image without decoding it, if its size is within the limits.

    Args:
        data: the whole file.
        limits: what the image may be.
        format: what `sniff` said.

    Raises:
        ImageError: TOO_MANY_PIXELS, TOO_ELONGATED or TRUNCATED_IMAGE.
        Exception: whatever Pillow's reader throws at a broken header.
    """
    if format == "WEBP":
        # libwebp takes the memory of two canvases as soon as it is opened.
        _check_size(_webp_size(data), limits)
    if format == "AVIF":
        # Broken EXIF makes Pillow refuse an AVIF. Rotation is not read from there but from `irot`
        # and `imir`, so the item that holds EXIF becomes one of a type that is skipped.
        data = _AVIF_EXIF_ITEM.sub(rb"\1free", data)
    stream = io.BytesIO(data)
    try:
        image = READERS[format](stream)
    except SyntaxError as error:
        if _header_is_cut(data, format, read_bytes=stream.tell()):
            raise ImageError(
                Reason.TRUNCATED_IMAGE, f"{format} of {len(data)} bytes ends within its header"
            ) from error
        raise
    _check_size(image.size, limits)
    if isinstance(image, TiffImageFile):
        # libtiff takes the memory of a whole tile, however little of it the picture fills.
        _check_tile(image.tag_v2.get(TILEWIDTH), image.tag_v2.get(TILELENGTH), limits)
    if format == "JPEG" and data.count(_SCAN) > MAX_SCANS:
        _check_scans(data)
    if format == "PNG":
        _check_idat(data)
    return image


def _header_is_cut(data: bytes, format: str, *, read_bytes: int) -> bool:
    """Whether a header could not be read because the data ends within it."""
    if format == "TIFF":
        order: Literal["little", "big"] = "little" if data[:2] == b"II" else "big"
        directory_at = int.from_bytes(data[4:8], order)
        num_entries = int.from_bytes(data[directory_at : directory_at + 2], order)
        return directory_at + 2 + 12 * num_entries > len(data)
    # WebP and AVIF are always read whole; the others no farther than their header.
    return format not in ("WEBP", "AVIF") and read_bytes >= len(data)


def exif_orientation(image: Image.Image) -> int | None:
    """The orientation tag, 1 to 8; None where it is missing, unreadable or something else.

    Raises:
        Exception: a PNG's pixels are broken; behind them its EXIF may be.
    """
    if isinstance(image, PngImageFile):
        # `getexif` would do this, and once it failed the picture counts as loaded: all black.
        image.load()
    try:
        value = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:
        # Pillow's parser throws anything at broken EXIF, which says nothing about the pixels.
        return None
    return value if isinstance(value, int) and 1 <= value <= 8 else None


def _check_size(size: tuple[int, int], limits: ImageLimits) -> None:
    width, height = size
    if width * height > limits.max_pixels:
        raise ImageError(
            Reason.TOO_MANY_PIXELS,
            f"{width} x {height} = {width * height} pixels, limit {limits.max_pixels}",
        )
    if max(width, height) > limits.max_aspect_ratio * min(width, height):
        raise ImageError(
            Reason.TOO_ELONGATED, f"{width} x {height}, limit {limits.max_aspect_ratio:g} : 1"
        )


def _check_tile(width: object, height: object, limits: ImageLimits) -> None:
    if not (isinstance(width, int) and isinstance(height, int)):
        return
    if width * height > limits.max_pixels:
        raise ImageError(
            Reason.TOO_MANY_PIXELS,
            f"tiles of {width} x {height} = {width * height} pixels, limit {limits.max_pixels}",
        )


def _check_idat(data: bytes) -> None:
    """The checksums of a PNG's pixels, which Pillow does not look at."""
    view, position = memoryview(data), 8
    while position + 12 <= len(data) and (name := data[position + 4 : position + 8]) != b"IEND":
        end = position + 12 + int.from_bytes(data[position : position + 4])
        if name == b"IDAT" and end <= len(data):
            checksum = int.from_bytes(data[end - 4 : end])
            if zlib.crc32(view[position + 4 : end - 4]) != checksum:
                raise ImageError(
                    Reason.UNDECODABLE,
                    f"PNG of {len(data)} bytes: wrong checksum of the pixels from {position} on",
                )
        position = end


def _check_scans(data: bytes) -> None:
    """Count the scans of the first picture: each one costs the time of all of its pixels."""
    position, num_scans = 2, 0
    while 0 <= (position := data.find(b"\xff", position)) < len(data) - 1:
        marker = data[position + 1]
        if marker == 0xD9:
            break
        if marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD8:
            # Bytes of a scan, markers without contents, or filling.
            position += 1
            continue
        num_scans += marker == 0xDA
        position += 2 + int.from_bytes(data[position + 2 : position + 4])
    if num_scans > MAX_SCANS:
        raise ImageError(
            Reason.UNDECODABLE, f"JPEG of {len(data)} bytes: {num_scans} scans, limit {MAX_SCANS}"
        )


def _webp_size(data: bytes) -> tuple[int, int]:
    """Width and height of the canvas, by the layout of RFC 9649."""
    chunk, head = data[12:16], data[20:30]
    if int.from_bytes(data[4:8], "little") + 8 > len(data) or len(head) < 10:
        raise ImageError(
            Reason.TRUNCATED_IMAGE,
            f"WEBP of {len(data)} bytes announces {int.from_bytes(data[4:8], 'little') + 8}",
        )
    if chunk == b"VP8X":
        return 1 + int.from_bytes(head[4:7], "little"), 1 + int.from_bytes(head[7:10], "little")
    if chunk == b"VP8L":
        bits = int.from_bytes(head[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if chunk == b"VP8 ":
        width, height = head[6:8], head[8:10]
        return int.from_bytes(width, "little") & 0x3FFF, int.from_bytes(height, "little") & 0x3FFF
    raise ImageError(Reason.UNDECODABLE, f"WEBP whose first chunk is {chunk!r}")


class _PillowWarningsIgnored:
    """Ignores Pillow's warnings while any thread is inside.

    `warnings.catch_warnings` swaps the whole list of filters, which is not thread-safe. Here the
    first thread in adds one filter, for Pillow's modules alone, and the last one out removes it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._num_inside = 0
        self._filter: object = None

    def __enter__(self) -> None:
        with self._lock:
            if self._num_inside == 0:
                warnings.filterwarnings("ignore", module=r"PIL\.")
                self._filter = warnings.filters[0]
            self._num_inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._num_inside -= 1
            filters = cast("list[object]", warnings.filters)
            if self._num_inside == 0 and self._filter in filters:
                filters.remove(self._filter)


pillow_warnings_ignored = _PillowWarningsIgnored()
