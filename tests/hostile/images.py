"""Bad and odd images: what each has to end as, and why it is here."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageCms

from miner.schema import Reason
from tests.hostile.files import (
    END,
    chunk,
    chunks_of,
    exif_blob,
    gif,
    gif_frame,
    idat,
    ihdr,
    picture,
    png,
    saved,
    segments_of,
    tags,
    tiff,
    tiled,
    webp,
    with_segment,
)

BOMB = zlib.compress(bytes(50_000_000), 9)
"""49 kB that stand for 50 MB."""

BAD, CUT, BIG, LONG, OTHER, UNKNOWN = (
    Reason.UNDECODABLE,
    Reason.TRUNCATED_IMAGE,
    Reason.TOO_MANY_PIXELS,
    Reason.TOO_ELONGATED,
    Reason.FORMAT_NOT_ALLOWED,
    Reason.UNKNOWN_FORMAT,
)


@dataclass(frozen=True, kw_only=True)
class HostileImage:
    """An image's bytes, and what has to become of them.

    Attributes:
        name: of the case.
        data: the whole file.
        outcome: the reason why it is refused, or the format as which it is embedded.
        why: what it attacks.
    """

    name: str
    data: bytes
    outcome: Reason | str
    why: str


def _cases(why: str, *cases: tuple[str, bytes, Reason | str]) -> Iterator[HostileImage]:
    for name, data, outcome in cases:
        yield HostileImage(name=name, data=data, outcome=outcome, why=why)


JPEG = saved(picture(1), "JPEG", quality=90)
PROGRESSIVE = saved(picture(2), "JPEG", progressive=True)
PNG = saved(picture(3), "PNG")
TIFF = saved(picture(4), "TIFF", compression="tiff_lzw")
WEBP = saved(picture(5), "WEBP")
LOSSLESS = saved(picture(5), "WEBP", lossless=True)
AVIF = saved(picture(6), "AVIF", quality=50)
BMP = saved(picture(7), "BMP")
GIF = saved(picture(8), "GIF")
GRAY = bytes(64)
ROWS = zlib.compress(bytes(at * at % 251 if at % 9 else 0 for at in range(72)), 0)


def _jpeg_damage() -> Iterator[HostileImage]:
    """Each segment of a JPEG: cut within, and gone."""
    for name, start, end in segments_of(JPEG):
        middle, behind = JPEG[: (start + end) // 2], JPEG[:end]
        cut = (f"jpeg-{name}-{start}-cut", middle, CUT)
        ends = (f"jpeg-{name}-{start}-last", behind, CUT)
        yield from _cases("the bytes end within or behind a segment", cut, ends)
    frame = next(start for name, start, _ in segments_of(JPEG) if name == "c0")
    sizes = {"0x0": (0, 0), "0-high": (0, 64), "65500x65500": (65500, 65500), "2x65500": (65500, 2)}
    outcomes = {"0x0": BAD, "0-high": BAD, "65500x65500": BIG, "2x65500": LONG}
    for size, (height, width) in sizes.items():
        data = JPEG[: frame + 5] + struct.pack(">HH", height, width) + JPEG[frame + 9 :]
        yield from _cases("a size in the header", (f"jpeg-{size}", data, outcomes[size]))
    wider = JPEG[: frame + 5] + struct.pack(">HH", 4800, 6400) + JPEG[frame + 9 :]
    huge = JPEG[: frame + 5] + struct.pack(">HH", 65500, 65500) + JPEG[frame + 9 :]
    last = PROGRESSIVE[PROGRESSIVE.rindex(b"\xff\xda") : -2]
    yield from _cases(
        "what the header says is not what follows",
        ("jpeg-larger-than-its-data", wider, CUT),
        ("jpeg-half-and-an-end", JPEG[: len(JPEG) // 2] + b"\xff\xd9", CUT),
        ("jpeg-precision-12", JPEG.replace(b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c"), BAD),
        ("jpeg-four-components-said", JPEG[: frame + 9] + b"\x04" + JPEG[frame + 10 :], BAD),
        ("jpeg-said-arithmetic", JPEG[: frame + 1] + b"\xc9" + JPEG[frame + 2 :], "JPEG"),
        ("jpeg-lossless", JPEG[: frame + 1] + b"\xc3" + JPEG[frame + 2 :], BAD),
        ("jpeg-two-frames", JPEG[:-2] + JPEG[frame:], BAD),
        ("jpeg-huge-thumbnail", with_segment(JPEG, 0xE1, b"Exif\0\0" + huge), "JPEG"),
        ("jpeg-two-pictures", JPEG + PROGRESSIVE, "JPEG"),
        ("jpeg-400-scans", PROGRESSIVE[:-2] + last * 400 + b"\xff\xd9", BAD),
        ("jpeg-huge-progressive", _sized(PROGRESSIVE, 65000, 65000), BIG),
    )


def _jpeg_segments() -> Iterator[HostileImage]:
    """Segments that carry bombs, loops or nonsense, and harm no pixel."""
    loop = exif_blob([(0x8769, 4, 1, 8), (0x112, 3, 1, 6)], following=8)
    far = exif_blob([(0x112, 3, 0xFFFFFFFF, 0xFFFFFFF0)])
    many = exif_blob([(0x9000 + at, 2, 0x7FFFFFFF, 0) for at in range(2000)])
    icc = b"ICC_PROFILE\0\x01\xff" + bytes(65000)
    mpf = b"MPF\0" + tiff([(0xB000, 7, 4, 0x30303130), (0xB001, 4, 1, 2**31), (0xB002, 7, 16, 26)])
    cmyk = saved(picture(9, "CMYK"), "JPEG")
    yield from _cases(
        "a segment beside the picture",
        ("jpeg-exif-loop", with_segment(JPEG, 0xE1, loop), "JPEG"),
        ("jpeg-exif-far", with_segment(JPEG, 0xE1, far), "JPEG"),
        ("jpeg-exif-2000-tags", with_segment(JPEG, 0xE1, many), "JPEG"),
        ("jpeg-exif-20000-times", with_segment(JPEG, 0xE1, b"Exif\0\0", 20_000), "JPEG"),
        ("jpeg-icc-255-parts", with_segment(JPEG, 0xE2, icc, 255), "JPEG"),
        ("jpeg-icc-none-of-0", with_segment(JPEG, 0xE2, b"ICC_PROFILE\0\0\0"), "JPEG"),
        ("jpeg-mpf-2-billion-pictures", with_segment(JPEG, 0xE2, mpf), "JPEG"),
        ("jpeg-photoshop", with_segment(JPEG, 0xED, b"Photoshop 3.0\0" + b"8BIM\4" * 999), "JPEG"),
        ("jpeg-adobe-short", with_segment(JPEG, 0xEE, b"Adobe"), BAD),
        ("jpeg-comments", with_segment(JPEG, 0xFE, b"<script>", 20_000), "JPEG"),
        ("jpeg-cmyk-bad-profile", with_segment(cmyk, 0xE2, icc), "JPEG"),
        ("jpeg-cmyk", cmyk, "JPEG"),
        ("jpeg-gray", saved(picture(1, "L"), "JPEG"), "JPEG"),
        ("jpeg-fill-bytes", JPEG[:2] + b"\xff" * 5000 + JPEG[2:], "JPEG"),
        ("jpeg-megabytes-of-nothing", b"\xff\xd8\xff" + bytes(3_000_000), CUT),
    )


def _sized(data: bytes, height: int, width: int) -> bytes:
    return data.replace(struct.pack(">HH", 48, 64), struct.pack(">HH", height, width))


def _png_damage() -> Iterator[HostileImage]:
    """Each chunk of a PNG: cut within, a bit turned in length, name, body and checksum."""
    for name, start, end in chunks_of(PNG):
        what = name.decode()
        if what != "IEND":
            yield from _cases(
                "the bytes end within a chunk", (f"png-{what}-cut", PNG[: (start + end) // 2], CUT)
            )
            wrong = PNG[: end - 4] + bytes(4) + PNG[end:]
            yield from _cases("a wrong checksum", (f"png-{what}-crc", wrong, BAD))
    whole = [ihdr(), idat(), END]
    huge = 2**31 - 1
    yield from _cases(
        "a size in the header",
        ("png-0x0", png(ihdr(0, 0), idat(), END), BAD),
        ("png-huge", png(ihdr(huge, huge), idat(), END), BIG),
        ("png-100-million-and-one", png(ihdr(100_000_001, 1), idat(), END), BIG),
        ("png-65500x2", png(ihdr(65_500, 2), idat(140_000), END), LONG),
        ("png-1x1", png(ihdr(1, 1), idat(2), END), "PNG"),
        ("png-length-of-4-GB", PNG[:33] + b"\xff" * 4 + PNG[37:], "PNG"),
        ("png-no-pixels", png(ihdr(), END), CUT),
        ("png-no-end", png(ihdr(), idat()), "PNG"),
        ("png-more-than-enough", png(ihdr(), (b"IDAT", BOMB), END), "PNG"),
        ("png-less-than-enough", png(ihdr(64, 64), idat(72), END), CUT),
        ("png-not-zlib", png(ihdr(), (b"IDAT", b"nothing of the kind"), END), BAD),
        ("png-breaks-off-inside", png(ihdr(), (b"IDAT", ROWS[:40] + b"\xff" * 50), END), BAD),
        ("png-filter-9", png(ihdr(), (b"IDAT", zlib.compress(b"\x09" * 72)), END), BAD),
        ("png-depth-3", png(ihdr(8, 8, 3), idat(), END), BAD),
        ("png-colour-5", png(ihdr(8, 8, 8, 5), idat(), END), BAD),
        ("png-no-palette", png(ihdr(8, 8, 8, 3), idat(), END), BAD),
        ("png-header-twice", png(ihdr(), ihdr(30_000, 30_000), idat(), END), BIG),
    )
    yield from _cases(
        "text and profiles that unfold",
        ("png-iccp-bomb", png(ihdr(), (b"iCCP", b"x\0\0" + BOMB), *whole[1:]), BAD),
        ("png-ztxt-bomb", png(ihdr(), (b"zTXt", b"x\0\0" + BOMB), *whole[1:]), BAD),
        ("png-itxt-bomb", png(ihdr(), (b"iTXt", b"x\0\1\0\0\0" + BOMB), *whole[1:]), BAD),
        ("png-iccp-nonsense", png(ihdr(), (b"iCCP", b"x\0\0abc"), *whole[1:]), "PNG"),
        ("png-70-texts", png(ihdr(), *[(b"tEXt", b"k\0" + bytes(10**6))] * 70, *whole[1:]), BAD),
        ("png-chunks", png(ihdr(), *[(b"tEXt", b"")] * 50_000, *whole[1:]), "PNG"),
        ("png-exif-nonsense", png(ihdr(), (b"eXIf", b"II*\0\xff\xff\xff\xff"), *whole[1:]), "PNG"),
        ("png-2-billion-frames", png(ihdr(), (b"acTL", b"\x7f" * 8), *whole[1:]), "PNG"),
        ("png-a-critical-chunk", png(ihdr(), (b"EVIL", b"x"), *whole[1:]), "PNG"),
        ("png-trns-too-long", png(ihdr(), (b"tRNS", bytes(999)), *whole[1:]), "PNG"),
        ("png-crc-of-text", PNG[:33] + chunk(b"tEXt", b"a\0b", crc=1) + PNG[33:], BAD),
    )


def _odd_pixels() -> Iterator[HostileImage]:
    """Whole images whose samples are not 8-bit RGB."""
    deep = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) * 16
    yield from _cases(
        "pixels that are easily turned into wrong ones",
        ("png-16-bit", saved(Image.fromarray(deep), "PNG"), "PNG"),
        ("png-alpha", saved(picture(3, "RGBA"), "PNG"), "PNG"),
        ("png-palette-transparent", saved(picture(3).quantize(9), "PNG", transparency=2), "PNG"),
        ("png-1-bit", saved(picture(3, "1"), "PNG"), "PNG"),
        ("png-interlaced-lie", png(ihdr(8, 8, 8, 0, 0, 0, 1), idat(20), END), CUT),
        ("tiff-16-bit", saved(Image.fromarray(deep), "TIFF"), "TIFF"),
        ("tiff-float", saved(Image.fromarray(deep.astype(np.float32)), "TIFF"), BAD),
        ("tiff-int32", saved(Image.fromarray(deep.astype(np.int32)), "TIFF"), BAD),
        ("tiff-lab", saved(Image.new("LAB", (64, 64), (99, 1, 2)), "TIFF"), "TIFF"),
        ("tiff-cmyk", saved(picture(4, "CMYK"), "TIFF"), "TIFF"),
        ("jpeg-progressive", PROGRESSIVE, "JPEG"),
        ("jpeg-srgb", saved(picture(1), "JPEG", icc_profile=_srgb()), "JPEG"),
        ("webp-alpha", saved(picture(5, "RGBA"), "WEBP", lossless=True), "WEBP"),
    )


def _srgb() -> bytes:
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    # The day and the hour when it was made.
    profile[24:36] = bytes(12)
    return bytes(profile)


def _tiffs() -> Iterator[HostileImage]:
    whole = tiff(tags(8, 8, 64), GRAY)
    yield from _cases(
        "a directory of tags that lies",
        ("tiff-cut", TIFF[: len(TIFF) // 2], CUT),
        ("tiff-cut-header", TIFF[:6], CUT),
        ("tiff-directory-beyond", b"II*\0\xff\xff\xff\x7f" + bytes(64), CUT),
        ("tiff-directory-loop", tiff(tags(8, 8, 64), GRAY, following=8), "TIFF"),
        ("tiff-huge", tiff(tags(60_000, 60_000, 64), GRAY), BIG),
        ("tiff-0x0", tiff(tags(0, 0, 64), GRAY), BAD),
        ("tiff-65500x2", tiff(tags(65_500, 2, 131_000), bytes(131_000)), LONG),
        ("tiff-strip-beyond", tiff(tags(8, 8, 64, t273=10**9), GRAY), CUT),
        ("tiff-strip-of-4-GB", tiff(tags(8, 8, 2**32 - 1), GRAY), "TIFF"),
        ("tiff-rows-per-strip-0", tiff(tags(8, 8, 64, t278=0), GRAY), BAD),
        ("tiff-lzw-nonsense", tiff(tags(8, 8, 64, t259=5), GRAY), BAD),
        ("tiff-compression-unknown", tiff(tags(8, 8, 64, t259=9999), GRAY), BAD),
        ("tiff-1000-samples", tiff(tags(8, 8, 64, t277=1000), GRAY), BAD),
        ("tiff-deflate-bomb", tiff(tags(8, 8, len(BOMB), t259=8), BOMB), "TIFF"),
        ("tiff-tile-bomb", tiled(60_000), BIG),
        ("tiff-tile-256", tiled(256), "TIFF"),
        ("tiff-big", b"II+\0\x08\0\0\0" + struct.pack("<Q", 2**60) + bytes(64), BAD),
        ("tiff-65535-entries", whole[:8] + b"\xff\xff" + whole[10:], "TIFF"),
    )


def _other_formats() -> Iterator[HostileImage]:
    frames = [picture(seed) for seed in range(9)]
    vp8x = struct.pack("<I", 0x10) + b"\x0f\0\0\x0f\0\0"
    inner = LOSSLESS[20:]
    yield from _cases(
        "an animation of which one frame counts",
        ("gif-9-frames", saved(frames[0], "GIF", save_all=True, append_images=frames[1:]), "GIF"),
        ("gif-50000-frames", gif(1, 1, gif_frame(1, 1) * 50_000, b";"), "GIF"),
        ("gif-frame-larger", gif(9, 9, gif_frame(60_000, 60_000), b";"), BIG),
        ("gif-canvas-huge", gif(60_000, 60_000, gif_frame(1, 1), b";"), BIG),
        ("gif-comment", gif(1, 1, b"!\xfe" + (b"\xff" + b"c" * 255) * 9000 + b"\0", b";"), CUT),
        ("gif-no-frame", gif(8, 8, b";"), CUT),
        ("gif-0x0", gif(0, 0, gif_frame(0, 0), b";"), BAD),
        ("gif-cut", GIF[: len(GIF) // 2], CUT),
        ("gif-cut-header", GIF[:9], CUT),
        ("gif-code-size-99", gif(8, 8, gif_frame(8, 8, b"\x63\x02\x44\x01\0"), b";"), BAD),
        ("webp-frames", saved(frames[0], "WEBP", save_all=True, append_images=frames[1:]), "WEBP"),
    )
    yield from _cases(
        "a container that lies",
        ("webp-cut", WEBP[: len(WEBP) // 2], CUT),
        ("webp-cut-header", WEBP[:18], CUT),
        ("webp-16M-x-16M", webp((b"VP8X", bytes(4) + b"\xff" * 6)), BIG),
        ("webp-frame-is-not-the-canvas", webp((b"VP8X", vp8x), (b"VP8L", inner)), BAD),
        ("webp-no-frame", webp((b"VP8X", vp8x)), BAD),
        ("webp-nonsense", webp((b"VP8 ", bytes(99))), BAD),
        ("webp-of-what", webp((b"EVIL", bytes(99))), BAD),
        ("avif-cut", AVIF[: 3 * len(AVIF) // 4], CUT),
        ("avif-says-smaller", AVIF.replace(*_sizes((64, 48), (16, 12))), "AVIF"),
        ("avif-says-huge", AVIF.replace(*_sizes((64, 48), (65_000, 65_000))), BAD),
        ("avif-0x0", AVIF.replace(*_sizes((64, 48), (0, 0))), BAD),
        ("avif-no-boxes", AVIF[:32], CUT),
        ("bmp-cut", BMP[: len(BMP) // 2], CUT),
        ("bmp-huge", BMP.replace(*_sizes((64, 48), (60_000, 60_000), "<II")), BIG),
        ("bmp-negative", BMP.replace(*_sizes((64, 48), (-64, 48), "<ii")), BIG),
        ("bmp-0x0", BMP.replace(*_sizes((64, 48), (0, 0), "<II")), BAD),
        ("bmp-depth-7", BMP[:28] + b"\x07" + BMP[29:], BAD),
    )


def _sizes(old: tuple[int, int], new: tuple[int, int], kind: str = ">II") -> tuple[bytes, bytes]:
    return struct.pack(kind, *old), struct.pack(kind, *new)


def _no_pictures() -> Iterator[HostileImage]:
    """What lies under `.jpg` on the web, and what somebody would like to see opened."""
    svg = b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
    entities = b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "bb">]><a>&b;</a>'
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%id) (w) file\n"
    ico = struct.pack("<HHHBBBBHHII", 0, 1, 1, 8, 8, 0, 0, 1, 32, len(PNG), 22) + PNG
    targa = b"\0\0\2\0\0\0\0\0\0\0\0\0\x08\0\x08\0\x18\0" + bytes(192)
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99)
    yield from _cases(
        "no picture, or none that is decoded",
        ("empty", b"", Reason.EMPTY),
        ("html", b"<!DOCTYPE html><html><script>alert(1)</script></html>", OTHER),
        ("html-late", b" " * 500 + b"<html><body>Not found</body></html>", OTHER),
        ("svg", svg, OTHER),
        ("xml-entities", entities, OTHER),
        ("eps", eps, OTHER),
        ("eps-binary", b"\xc5\xd0\xd3\xc6" + bytes(26) + eps, OTHER),
        ("pdf", b"%PDF-1.7\n1 0 obj<</OpenAction 2 0 R>>endobj\n", OTHER),
        ("psd", b"8BPS\0\1" + bytes(99), OTHER),
        ("icon", ico, OTHER),
        ("targa", targa, UNKNOWN),
        ("heic", heic, OTHER),
        ("jpeg-xl", b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(99), OTHER),
        ("jpeg-2000", b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(99), OTHER),
        ("video", b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(99), OTHER),
        ("zip", b"PK\3\4" + bytes(99), OTHER),
        ("gzip", b"\x1f\x8b\x08" + bytes(99), OTHER),
        ("pickle", b"\x80\x04cos\nsystem\n(S'id'\ntR.", UNKNOWN),
        ("netpbm", b"P6 99999 99999 255\n" + bytes(99), UNKNOWN),
        ("json", b'{"error": "rate limited"}', UNKNOWN),
        ("one-byte", b"\xff", UNKNOWN),
        ("zeros", bytes(4096), UNKNOWN),
        ("utf-16-html", "<html>".encode("utf-16"), UNKNOWN),
    )


IMAGES = [
    *_jpeg_damage(),
    *_jpeg_segments(),
    *_png_damage(),
    *_odd_pixels(),
    *_tiffs(),
    *_other_formats(),
    *_no_pictures(),
]
