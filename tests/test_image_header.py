"""What is read of an image before its pixels: sizes, tiles, scans, rotation."""

import io
import struct
import warnings
import zlib

import pytest
import torch
from PIL import Image

from miner import formats, image_header
from miner.config import ImageLimits
from miner.errors import ImageError
from miner.images import decode
from miner.schema import Reason
from tests.pictures import (
    FILES,
    LIMITS,
    PICTURE,
    WHOLE,
    encode,
    exif,
    png,
    refusal,
    set_tiff_tag,
)

# Limits.

HUGE_HEADERS = {
    "png": png(8, 0, b"", 2**31 - 1),
    "gif": b"GIF89a" + struct.pack("<HHBBB", 60000, 60000, 0, 0, 0) + b","
    + struct.pack("<HHHHBB", 0, 0, 60000, 60000, 0, 8),
    "gif-frame": b"GIF89a" + struct.pack("<HHBBB", 9, 9, 0, 0, 0) + b","
    + struct.pack("<HHHHBB", 0, 0, 60000, 60000, 0, 8),
    "webp-vp8x": b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\xff\xff\0" * 2,
    "webp-vp8l": b"RIFF\x16\0\0\0WEBPVP8L\x0a\0\0\0\x2f\xff\xff\xff\x0f" + bytes(5),
    "webp-vp8": b"RIFF\x16\0\0\0WEBPVP8 \x0a\0\0\0\x10\0\0\x9d\x01\x2a\xff\x3f\xff\x3f",
    "jpeg": FILES["jpeg"].replace(struct.pack(">HH", 48, 64), struct.pack(">HH", 65500, 65500)),
    "bmp": FILES["bmp"].replace(struct.pack("<II", 64, 48), struct.pack("<II", 60000, 60000)),
    "tiff": set_tiff_tag(set_tiff_tag(FILES["tiff"], 256, 60000), 257, 60000),
}  # fmt: skip


@pytest.mark.parametrize("name", HUGE_HEADERS)
def test_a_huge_canvas_is_refused_by_its_header(name: str) -> None:
    # 10 GB would be needed to get any farther than the header.
    with pytest.raises(ImageError, match=r"^too_many_pixels: .*[0-9]{9,} pixels"):
        decode(HUGE_HEADERS[name], ImageLimits(max_aspect_ratio=2**31))


def test_a_webp_canvas_is_refused_before_libwebp_sees_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(formats.READERS, "WEBP", lambda stream: pytest.fail("opened"))
    assert refusal(HUGE_HEADERS["webp-vp8x"]).reason is Reason.TOO_MANY_PIXELS


def test_limits_are_inclusive() -> None:
    data = encode(Image.new("L", (200, 2)), "PNG")
    decode(data, ImageLimits(max_pixels=400, max_aspect_ratio=100))
    with pytest.raises(ImageError, match=r"^too_many_pixels: 200 x 2 = 400 pixels, limit 399"):
        decode(data, ImageLimits(max_pixels=399))
    with pytest.raises(ImageError, match=r"^too_elongated: 200 x 2, limit 99\.5 : 1"):
        decode(data, ImageLimits(max_aspect_ratio=99.5))


@pytest.mark.parametrize("name", FILES)
def test_pillows_own_pixel_warning_is_not_ours(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 48 - 1)
    assert torch.equal(decode(FILES[name], LIMITS).pixels_HWC, WHOLE[name].pixels_HWC)


def tiled_tiff(side: int) -> bytes:
    """A picture of 16 x 16 in one tile, which may be much larger."""
    tags = {256: 16, 257: 16, 258: 8, 259: 8, 262: 1, 277: 1, 284: 1, 322: side, 323: side}
    tile = zlib.compress(bytes(side * side))
    tags |= {324: 8 + 2 + 12 * 11 + 4, 325: len(tile)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + tile


def test_a_tile_may_be_no_larger_than_a_picture() -> None:
    assert decode(tiled_tiff(256), LIMITS).width == 16
    with pytest.raises(ImageError, match=r"^too_many_pixels: tiles of 1008 x 1008 = 1016064 pix"):
        decode(tiled_tiff(1008), LIMITS)


def with_scans(num_scans: int) -> bytes:
    """A progressive JPEG whose last scan comes again and again."""
    data = FILES["jpeg-progressive"]
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * (num_scans - data.count(b"\xff\xda")) + b"\xff\xd9"


def test_scans_are_counted_up_to_the_end_of_the_first_picture() -> None:
    most = image_header.MAX_SCANS
    assert decode(with_scans(most) + with_scans(most), LIMITS).width == 64
    with pytest.raises(ImageError, match=rf"^undecodable: .*: {most + 1} scans, limit {most}"):
        decode(with_scans(most + 1), LIMITS)


@pytest.mark.parametrize("name", ["jpeg", "png", "bmp", "gif", "tiff", "webp"])
def test_a_cut_header_is_truncated(name: str) -> None:
    assert refusal(FILES[name][:25]).reason is Reason.TRUNCATED_IMAGE


def test_a_webp_without_a_picture_is_undecodable() -> None:
    with pytest.raises(ImageError, match=r"^undecodable: WEBP whose first chunk is b'JUNK'"):
        decode(FILES["webp"][:12] + b"JUNK" + FILES["webp"][16:], LIMITS)


def test_a_wrong_checksum_of_a_pngs_pixels_is_seen() -> None:
    data = bytearray(FILES["png"])
    data[data.index(b"IEND") - 5] ^= 1
    with pytest.raises(ImageError, match=r"^undecodable: .*wrong checksum of the pixels from \d+"):
        decode(bytes(data), LIMITS)


# EXIF.


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_recorded_and_not_applied(format: str, orientation: int) -> None:
    upright = decode(encode(PICTURE, format), LIMITS)
    decoded = decode(encode(PICTURE, format, exif=exif(orientation)), LIMITS)
    # AVIF states rotation elsewhere, and says nothing where there is none.
    assert decoded.exif_orientation == (
        None if (format, orientation) == ("AVIF", 1) else orientation
    )
    assert (decoded.width, decoded.height) == (64, 48)
    assert torch.equal(decoded.pixels_HWC, upright.pixels_HWC)
    assert upright.exif_orientation in (None, 1)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "AVIF"])
@pytest.mark.parametrize(
    "tags",
    [b"Exif\0\0", b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", exif(9).tobytes()],
    ids=["empty", "no-tiff", "far-offset", "no-such-orientation"],
)
def test_broken_exif_is_no_failure(format: str, tags: bytes) -> None:
    if format == "AVIF":
        # Pillow writes no broken EXIF into an AVIF: break what it wrote.
        whole = Image.Exif()
        whole[0x010E] = "a description"
        data = encode(PICTURE, format, exif=whole)
        at = data.index(whole.tobytes()[6:])
        data = data[:at] + tags[6:].ljust(16, b"\xff") + data[at + max(16, len(tags) - 6) :]
    else:
        data = encode(PICTURE, format, exif=tags)
    decoded = decode(data, LIMITS)
    assert decoded.exif_orientation is None
    assert torch.equal(decoded.pixels_HWC, decode(encode(PICTURE, format), LIMITS).pixels_HWC)


def test_pillow_warns_nobody_and_others_still_do() -> None:
    noisy = encode(PICTURE, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x09\0")
    with pytest.warns(UserWarning, match="EXIF"):
        Image.open(io.BytesIO(noisy)).getexif()
    before = list(warnings.filters)
    decode(noisy, LIMITS)
    assert warnings.filters == before
    with image_header.pillow_warnings_ignored:
        with image_header.pillow_warnings_ignored:
            pass
        # One is out, the other still in.
        Image.open(io.BytesIO(noisy)).getexif()
        with pytest.warns(UserWarning, match="not Pillow's"):
            warnings.warn("not Pillow's", stacklevel=1)
    assert warnings.filters == before
