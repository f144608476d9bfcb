"""Images on their way to the service: what they may be given as, and how many go together."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

Picture = bytes | Path | Image.Image
"""An image: the bytes of its file, the file's path, or its pixels."""

REQUEST_BYTES = 8 * 2**20
"""Of the images of one request together; one larger than that goes alone."""

PNG_MODES = frozenset({"1", "L", "LA", "P", "RGB", "RGBA", "I;16"})
"""Of Pillow, which a PNG holds without loss."""


def encoded(picture: object) -> str:
    """An image as base64 of a file's bytes; pixels become a PNG, which loses nothing.

    Raises:
        TypeError: it is none of what an image may be given as.
        ValueError: a PNG cannot hold the pixels.
    """
    if not isinstance(picture, Picture):
        remedy = "Path(...)" if isinstance(picture, str) else "Image.fromarray(...) of Pillow"
        raise TypeError(
            f"an image is given as {type(picture).__name__}; give its file's bytes, its path as "
            f"a Path, or its pixels as a Pillow image: {remedy}"
        )
    if isinstance(picture, Image.Image):
        if picture.mode not in PNG_MODES:
            raise ValueError(
                f"an image has the mode {picture.mode}, which PNG does not hold; give its file's "
                'bytes, or image.convert("RGB")'
            )
        buffer = io.BytesIO()
        picture.save(buffer, "PNG", compress_level=1)
        data = buffer.getvalue()
    else:
        data = picture.read_bytes() if isinstance(picture, Path) else picture
    return base64.b64encode(data).decode("ascii")


def parcels(images: Sequence[Picture], most_images: int) -> Iterator[tuple[int, list[str]]]:
    """Encoded images, as many as go into one request, and the place of the first."""
    parcel: list[str] = []
    num_chars = 0
    for place, picture in enumerate(images):
        text = encoded(picture)
        if parcel and (len(parcel) == most_images or num_chars + len(text) > REQUEST_BYTES * 4 / 3):
            yield place - len(parcel), parcel
            parcel, num_chars = [], 0
        parcel.append(text)
        num_chars += len(text)
    if parcel:
        yield len(images) - len(parcel), parcel
