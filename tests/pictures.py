"""One picture in every format, and what the tests of decoding do with it."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from miner.config import ImageLimits
from miner.errors import ImageError
from miner.images import decode

LIMITS = ImageLimits(max_pixels=1_000_000)


def picture() -> Image.Image:
    """48 x 64, smooth with a noisy patch, no symmetry."""
    y, x = np.mgrid[:48, :64]
    pixels_HWC = np.stack([x * 4, y * 5, x * y % 256], -1).astype(np.uint8)
    pixels_HWC[10:20, 10:30] = np.random.default_rng(0).integers(0, 256, (10, 20, 3))
    return Image.fromarray(pixels_HWC)


def encode(image: Image.Image, format: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def png(depth: int, colour: int, row: bytes, width: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """One row of samples as a PNG, with chunks that Pillow would not write."""
    header = struct.pack(">IIBBBBB", width, 1, depth, colour, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n"
    for name, body in (
        (b"IHDR", header),
        *chunks,
        (b"IDAT", zlib.compress(b"\0" + row)),
        (b"IEND", b""),
    ):
        data += struct.pack(">I", len(body)) + name + body
        data += struct.pack(">I", zlib.crc32(name + body))
    return data


def set_tiff_tag(data: bytes, tag: int, value: int) -> bytes:
    """Overwrite a tag's only value (a short, or a long in little-endian)."""
    entry = next(
        data.index(head) for kind in (3, 4) if (head := struct.pack("<HHI", tag, kind, 1)) in data
    )
    return data[: entry + 8] + struct.pack("<H", value) + data[entry + 10 :]


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def largest_difference(a: torch.Tensor, b: torch.Tensor) -> int:
    assert a.shape == b.shape
    return int((a.int() - b.int()).abs().max())


PICTURE = picture()
TURNED = PICTURE.transpose(Image.Transpose.ROTATE_180)
FILES = {
    "jpeg": encode(PICTURE, "JPEG", quality=90),
    "jpeg-progressive": encode(PICTURE, "JPEG", progressive=True, exif=exif(6)),
    "jpeg-gray": encode(PICTURE.convert("L"), "JPEG"),
    "jpeg-cmyk": encode(PICTURE.convert("CMYK"), "JPEG"),
    "png": encode(PICTURE, "PNG", exif=exif(6)),
    "png-palette": encode(PICTURE.quantize(20), "PNG", transparency=3),
    "png-animated": encode(PICTURE, "PNG", save_all=True, append_images=[TURNED]),
    "webp": encode(PICTURE, "WEBP", exif=exif(6)),
    "webp-lossless": encode(PICTURE.convert("RGBA"), "WEBP", lossless=True),
    "webp-animated": encode(PICTURE, "WEBP", save_all=True, append_images=[TURNED]),
    "gif": encode(PICTURE, "GIF"),
    "gif-animated": encode(PICTURE, "GIF", save_all=True, append_images=[TURNED]),
    "bmp": encode(PICTURE, "BMP"),
    "tiff": encode(PICTURE, "TIFF", exif=exif(6)),
    "tiff-lzw": encode(PICTURE, "TIFF", compression="tiff_lzw"),
    "avif": encode(PICTURE, "AVIF", quality=50),
}
WHOLE = {name: decode(data, LIMITS) for name, data in FILES.items()}


def refusal(data: bytes, limits: ImageLimits = LIMITS) -> ImageError:
    with pytest.raises(ImageError) as caught:
        decode(data, limits)
    return caught.value
