"""Image files written by hand, where no encoder would write what is wanted."""

from __future__ import annotations

import io
import struct
import zlib
from functools import cache

import numpy as np
from PIL import Image

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
END = (b"IEND", b"")


@cache
def picture(seed: int = 0, mode: str = "RGB") -> Image.Image:
    """A smooth random picture of 64 x 48."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((64, 48), Image.Resampling.BICUBIC).convert(mode)


def saved(image: Image.Image, format: str, **options: object) -> bytes:
    """An image by Pillow's encoder."""
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def chunk(name: bytes, body: bytes, *, crc: int | None = None) -> bytes:
    """One chunk of a PNG."""
    checksum = zlib.crc32(name + body) if crc is None else crc
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", checksum)


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of these chunks, with right checksums."""
    return PNG_MAGIC + b"".join(chunk(*each) for each in chunks)


def ihdr(width: int = 8, height: int = 8, depth: int = 8, colour: int = 0, *rest: int) -> tuple:
    """A PNG's header; the rest is compression, filter and interlace."""
    last = rest or (0, 0, 0)
    return b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, *last)


def idat(num_bytes: int = 72) -> tuple[bytes, bytes]:
    """Zeros, compressed: the rows of a black picture."""
    return b"IDAT", zlib.compress(bytes(num_bytes), 9)


def chunks_of(data: bytes) -> list[tuple[bytes, int, int]]:
    """Name, start and end of each chunk of a PNG."""
    found, at = [], len(PNG_MAGIC)
    while at < len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4])
        found.append((data[at + 4 : at + 8], at, end))
        at = end
    return found


def segments_of(data: bytes) -> list[tuple[str, int, int]]:
    """Name, start and end of each marker segment of a JPEG, up to its last scan's header."""
    found, at = [], 2
    while data[at] == 0xFF and data[at + 1] not in (0xD9, 0x00):
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4])
        found.append((f"{data[at + 1]:02x}", at, end))
        if data[at + 1] == 0xDA:
            break
        at = end
    return found


def with_segment(data: bytes, marker: int, body: bytes, times: int = 1) -> bytes:
    """A JPEG with further segments behind its first two bytes."""
    segment = bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body
    return data[:2] + segment * times + data[2:]


def tiff(entries: list[tuple[int, int, int, int]], tail: bytes = b"", following: int = 0) -> bytes:
    """A little-endian TIFF of tags (number, type, count, value), and what lies behind them."""
    packed = b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    directory = struct.pack("<H", len(entries)) + packed + struct.pack("<I", following)
    return b"II*\0" + struct.pack("<I", 8) + directory + tail


def tags(width: int, height: int, num_bytes: int, **others: int) -> list[tuple[int, int, int, int]]:
    """Tags of an 8-bit gray TIFF in one strip that lies behind them; `t<number>` sets another."""
    values = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 277: 1, 278: height, 279: num_bytes}
    values |= {int(name[1:]): value for name, value in others.items()}
    values[273] = 8 + 2 + 12 * (len(values) + 1) + 4
    return [(tag, 4, 1, value) for tag, value in values.items()]


def tiled(side: int, seen: int = 16) -> bytes:
    """A picture in one deflated tile that is larger than the picture."""
    tile = zlib.compress(bytes(min(side * side, 2**24)), 9)
    values = {256: seen, 257: seen, 258: 8, 259: 8, 262: 1, 277: 1, 322: side, 323: side}
    values |= {324: 8 + 2 + 12 * 10 + 4, 325: len(tile)}
    return tiff([(tag, 4, 1, value) for tag, value in values.items()], tile)


def gif(width: int, height: int, *blocks: bytes) -> bytes:
    """A GIF with a palette of two colours."""
    return (
        b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    ) + b"".join(blocks)


def gif_frame(width: int, height: int, codes: bytes = b"\x02\x02\x44\x01\x00") -> bytes:
    """One frame; the default codes are of a single black pixel."""
    return b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + codes


def webp(*chunks: tuple[bytes, bytes]) -> bytes:
    """A WebP of these chunks."""
    body = b"".join(
        name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)
        for name, data in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def exif_blob(entries: list[tuple[int, int, int, int]], following: int = 0) -> bytes:
    """EXIF: a TIFF behind six letters."""
    return b"Exif\0\0" + tiff(entries, following=following)
