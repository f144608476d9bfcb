"""Hostile, odd and real images: what comes out is right, or the reason is."""

import io
import struct
import tarfile
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as tv

from miner import formats, images
from miner.config import ImageLimits
from miner.errors import ImageError
from miner.images import CropSpec, cut, decode, rgb
from miner.phash import PHASH_CROP
from miner.schema import Reason

LIMITS = ImageLimits(max_pixels=1_000_000)
PHOTOGRAPHS = sorted((Path(__file__).parents[2] / "shared" / "data").glob("*.tar"))
CROPS = [
    PHASH_CROP,
    CropSpec(mode="shortest", resize_to=256, size=224),
    CropSpec(mode="shortest", resize_to=336, size=336),
    CropSpec(mode="shortest", resize_to=64, size=64, interpolation="bilinear"),
    CropSpec(mode="shortest", resize_to=70, size=63),
    CropSpec(mode="shortest", resize_to=256, size=224, interpolation="bilinear"),
    CropSpec(mode="squash", resize_to=224, size=224),
    CropSpec(mode="squash", resize_to=64, size=64, interpolation="bilinear"),
]
WHITE, BLACK = [255, 255, 255], [0, 0, 0]


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


# Formats.


@pytest.mark.parametrize("name", FILES)
def test_every_allowed_format_gives_its_pixels(name: str) -> None:
    decoded = WHOLE[name]
    assert decoded.format.lower() == name.split("-")[0]
    assert (decoded.width, decoded.height) == (64, 48)
    assert decoded.pixels_HWC.dtype == torch.uint8
    expected_HWC = torch.from_numpy(np.array(PICTURE))
    if name == "jpeg-gray":
        expected_HWC = torch.from_numpy(np.array(PICTURE.convert("L").convert("RGB")))
    if name == "png-palette":
        mask = np.array(PICTURE.quantize(20)) == 3
        expected_HWC[torch.from_numpy(mask)] = 255
    difference = (decoded.pixels_HWC.float() - expected_HWC.float()).abs().mean()
    turned_HWC = expected_HWC.flip(0, 1)
    assert difference < (decoded.pixels_HWC.float() - turned_HWC.float()).abs().mean() / 2
    if name in ("png", "png-animated", "webp-lossless", "bmp", "tiff", "tiff-lzw"):
        assert difference == 0


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b'<?xml version="1.0"?>\n<svg xmlns="...">', "SVG"),
        (b"\xef\xbb\xbf  <SVG width='1'>", "SVG"),
        (b"<!-- a comment --><!DOCTYPE html><p>404", "HTML"),
        (b"<html><body><svg></svg>", "HTML"),
        (b"<?xml version='1.0'?><Error>AccessDenied", "XML"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "PostScript"),
        (b"\xc5\xd0\xd3\xc6" + bytes(26), "PostScript"),
        (b"%PDF-1.7", "PDF"),
        (b"8BPS\0\1", "PSD"),
        (b"\0\0\1\0\1\0", "ICO"),
        (b"\0\0\2\0\1\0", "CUR"),
        (b"\1\0\0\0" + bytes(36) + b" EMF", "EMF"),
        (b"\x1f\x8b\x08", "gzip"),
        (b"PK\3\4", "ZIP"),
        (b"RIFF\0\0\0\0WAVE", "RIFF"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom", "ISO media"),
        (b"\xff\x0a", "JPEG XL"),
    ],
)
def test_known_formats_outside_the_list_are_refused_by_name(data: bytes, name: str) -> None:
    with pytest.raises(ImageError, match=f"^format_not_allowed: the bytes are {name}") as caught:
        decode(data, LIMITS)
    assert caught.value.reason is Reason.FORMAT_NOT_ALLOWED


@pytest.mark.parametrize(
    "data", [b"\0", b"BM and then text, not a header", b"404: not found <html>"]
)
def test_other_bytes_are_of_unknown_format(data: bytes) -> None:
    with pytest.raises(ImageError, match=r"^unknown_format: the first bytes are [0-9a-f ]+; "):
        decode(data, LIMITS)


def test_no_bytes_are_empty() -> None:
    with pytest.raises(ImageError, match=r"^empty: the image has 0 bytes"):
        decode(b"", LIMITS)


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
    most = formats.MAX_SCANS
    assert decode(with_scans(most) + with_scans(most), LIMITS).width == 64
    with pytest.raises(ImageError, match=rf"^undecodable: .*: {most + 1} scans, limit {most}"):
        decode(with_scans(most + 1), LIMITS)


@pytest.mark.parametrize("name", FILES)
def test_pixels_converted_in_bands_are_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_BAND_PIXELS", 64 * 7)
    assert torch.equal(decode(FILES[name], LIMITS).pixels_HWC, WHOLE[name].pixels_HWC)


# Damage.


@pytest.mark.parametrize("name", FILES)
def test_half_a_file_is_truncated(name: str) -> None:
    share = 4 if "animated" in name else 2
    at = 3 * len(FILES[name]) // 4 if name == "avif" else len(FILES[name]) // share
    assert refusal(FILES[name][:at]).reason is Reason.TRUNCATED_IMAGE


@pytest.mark.parametrize("name", ["jpeg", "png", "bmp", "gif", "tiff", "webp"])
def test_a_cut_header_is_truncated(name: str) -> None:
    assert refusal(FILES[name][:25]).reason is Reason.TRUNCATED_IMAGE


def test_a_webp_without_a_picture_is_undecodable() -> None:
    with pytest.raises(ImageError, match=r"^undecodable: WEBP whose first chunk is b'JUNK'"):
        decode(FILES["webp"][:12] + b"JUNK" + FILES["webp"][16:], LIMITS)


def test_the_decoders_words_are_kept() -> None:
    damaged = FILES["png"].replace(b"IHDR\0\0\0", b"IHDR\0\0\1")
    with pytest.raises(ImageError, match=r"^undecodable: PNG of [0-9]+ bytes: SyntaxError: broken"):
        decode(damaged, LIMITS)
    assert isinstance(refusal(damaged).__cause__, SyntaxError)


@pytest.mark.parametrize(
    "error", [MemoryError(), RecursionError(), zlib.error("x"), struct.error("x"), OSError("x")]
)
def test_whatever_a_reader_throws_is_a_refusal(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def throw(stream: io.BytesIO) -> None:
        raise error

    monkeypatch.setitem(formats.READERS, "BMP", throw)
    caught = refusal(FILES["bmp"])
    assert caught.reason is Reason.UNDECODABLE
    assert caught.__cause__ is error


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(sorted(FILES)), st.floats(0, 1))
def test_a_truncated_file_is_refused_or_whole(name: str, share: float) -> None:
    try:
        decoded = decode(FILES[name][: int(share * len(FILES[name]))], LIMITS)
    except ImageError:
        return
    # Only what follows the pixels of the first frame is missing.
    assert torch.equal(decoded.pixels_HWC, WHOLE[name].pixels_HWC)


@settings(deadline=None, max_examples=500)
@given(st.sampled_from(sorted(FILES)), st.data())
def test_flipped_bits_raise_nothing_but_image_errors(name: str, draw: st.DataObject) -> None:
    damaged = bytearray(FILES[name])
    for _ in range(draw.draw(st.integers(1, 4))):
        at = draw.draw(st.integers(0, len(damaged) - 1))
        damaged[at] ^= 1 << draw.draw(st.integers(0, 7))
    outcomes: list[torch.Tensor | Reason] = []
    for reference in (False, True):
        try:
            outcomes.append(decode(bytes(damaged), LIMITS, reference=reference).pixels_HWC)
        except ImageError as error:
            outcomes.append(error.reason)
    fast, slow = outcomes
    if isinstance(fast, torch.Tensor) and isinstance(slow, torch.Tensor):
        assert largest_difference(fast, slow) <= 2
    else:
        assert fast == slow


@settings(deadline=None, max_examples=300)
@given(
    st.sampled_from([b"", *(data[:n] for data in FILES.values() for n in (16, 40))]), st.binary()
)
def test_random_bytes_raise_nothing_but_image_errors(head: bytes, tail: bytes) -> None:
    with pytest.raises(ImageError, match=": "):
        decode(head + tail, LIMITS)


def test_broken_pixels_of_a_png_are_no_black_picture() -> None:
    """Pillow looks for EXIF behind the pixels; where these are broken it swallows the error."""
    data = png(8, 0, bytes(8), 8)
    broken = zlib.compress(bytes(9))[:5] + bytes(9)
    for body in (b"no zlib stream", broken, zlib.compress(b"\x09" + bytes(8))):
        at = data.index(b"IDAT")
        chunk = b"IDAT" + body
        chunk = struct.pack(">I", len(body)) + chunk + struct.pack(">I", zlib.crc32(chunk))
        with pytest.raises(ImageError, match=r"^undecodable: PNG of .* data stream"):
            decode(data[: at - 4] + chunk + data[-12:], LIMITS)


def test_a_wrong_checksum_of_a_pngs_pixels_is_seen() -> None:
    data = bytearray(FILES["png"])
    data[data.index(b"IEND") - 5] ^= 1
    with pytest.raises(ImageError, match=r"^undecodable: .*wrong checksum of the pixels from \d+"):
        decode(bytes(data), LIMITS)


@pytest.mark.parametrize("reference", [False, True])
def test_a_jpeg_with_an_end_that_lacks_pixels_is_truncated(reference: bool) -> None:
    data = FILES["jpeg"][: len(FILES["jpeg"]) // 2] + b"\xff\xd9"
    with pytest.raises(ImageError, match=r"^truncated_image: JPEG of .*premature end of data"):
        decode(data, LIMITS, reference=reference)


# Colours.


def trns(*samples: int) -> tuple[bytes, bytes]:
    return b"tRNS", struct.pack(f">{len(samples)}H", *samples)


RED_BLUE = (b"PLTE", bytes([255, 0, 0, 0, 0, 255]))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (png(8, 6, bytes([9, 9, 9, 0, 9, 8, 7, 255]), 2), [WHITE, [9, 8, 7]]),
        (png(8, 6, bytes([255, 0, 0, 51]), 1), [[255, 204, 204]]),
        (png(8, 4, bytes([0, 0, 50, 255]), 2), [WHITE, [50, 50, 50]]),
        (png(8, 2, bytes([1, 2, 3, 1, 2, 4]), 2, trns(1, 2, 3)), [WHITE, [1, 2, 4]]),
        (png(8, 0, bytes([7, 8]), 2, trns(7)), [WHITE, [8, 8, 8]]),
        (png(4, 0, b"\x1f", 2, trns(1)), [WHITE, WHITE]),
        (png(4, 0, b"\x10", 2, trns(1)), [WHITE, BLACK]),
        (png(2, 0, b"\x1b", 4, trns(2)), [BLACK, [85] * 3, WHITE, WHITE]),
        (png(1, 0, b"\x40", 2, trns(0)), [WHITE, WHITE]),
        (png(1, 0, b"\x40", 2), [BLACK, WHITE]),
        (png(16, 0, struct.pack(">3H", 256, 257, 65535), 3), [[1] * 3, [1] * 3, WHITE]),
        (png(16, 0, struct.pack(">2H", 256, 257), 2, trns(257)), [[1] * 3, WHITE]),
        (png(16, 2, struct.pack(">3H", 1000, 30000, 65535), 1), [[3, 117, 255]]),
        (png(16, 2, struct.pack(">6H", *[1000] * 3, *[9] * 3), 2, trns(*[1000] * 3)),
         [WHITE, BLACK]),
        (png(16, 6, struct.pack(">4H", 1000, 1000, 1000, 0), 1), [WHITE]),
        (png(8, 3, b"\0\1", 2, RED_BLUE, (b"tRNS", b"\0")), [WHITE, [0, 0, 255]]),
        (png(8, 3, b"\0\1", 2, RED_BLUE, (b"tRNS", b"\xff\x80")), [[255, 0, 0], [127, 127, 255]]),
        (png(8, 3, b"\0\1", 2, RED_BLUE), [[255, 0, 0], [0, 0, 255]]),
    ],
    ids=["rgba", "rgba-part", "gray-alpha", "rgb-key", "gray-key", "gray4-key", "gray4-black",
         "gray2-key", "gray1-key", "gray1", "gray16", "gray16-key", "rgb16", "rgb16-key", "rgba16",
         "palette-key", "palette-part", "palette"],
)  # fmt: skip
def test_png_colours(data: bytes, expected: list[list[int]]) -> None:
    assert decode(data, LIMITS).pixels_HWC[0].tolist() == expected


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("1", 1, (255, 255, 255)),
        ("L", 100, (100, 100, 100)),
        ("LA", (0, 51), (204, 204, 204)),
        ("La", (0, 51), (204, 204, 204)),
        ("RGBa", (51, 0, 0, 51), (255, 204, 204)),
        ("RGBX", (1, 2, 3, 0), (1, 2, 3)),
        ("PA", (0, 0), (255, 255, 255)),
        ("CMYK", (0, 255, 255, 0), (255, 0, 0)),
        ("YCbCr", (76, 85, 255), (254, 0, 0)),
        ("HSV", (0, 255, 255), (255, 0, 0)),
        ("LAB", (255, 128, 128), (255, 255, 255)),
        ("LAB", (138, 209, 198), (255, 0, 0)),
        ("I;16", 40000, (156, 156, 156)),
        ("I;16B", 40000, (156, 156, 156)),
    ],
)
def test_modes_to_rgb(mode: str, colour: object, expected: tuple[int, int, int]) -> None:
    converted = rgb(Image.new(mode, (2, 1), colour))
    assert converted.mode == "RGB"
    assert np.abs(np.subtract(converted.getpixel((1, 0)), expected)).max() <= 5


@pytest.mark.parametrize(("mode", "word"), [("I", "integers"), ("F", "floats")])
def test_32_bit_samples_are_refused(mode: str, word: str) -> None:
    with pytest.raises(ImageError, match=f"^undecodable: samples are 32-bit {word}, and no header"):
        decode(encode(Image.new(mode, (2, 2), 1), "TIFF"), LIMITS)


def test_16_bit_gray_tiff_is_scaled_and_other_kinds_refused() -> None:
    data = encode(Image.fromarray(np.array([[0, 256, 65535]], np.uint16)), "TIFF")
    assert decode(data, LIMITS).pixels_HWC[0, :, 0].tolist() == [0, 1, 255]
    for tag, value in ((258, 12), (262, 0)):
        with pytest.raises(ImageError, match=r"gray of \(1[26],\) bits, photometric [01], is not"):
            decode(set_tiff_tag(data, tag, value), LIMITS)


def test_lab_tiff() -> None:
    data = encode(Image.new("LAB", (2, 2), (138, 209, 198)), "TIFF")
    assert np.abs(decode(data, LIMITS).pixels_HWC[0, 0].numpy() - [255.0, 0, 0]).max() <= 5


def test_cmyk_jpeg_is_pillows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simplejpeg, "decode_jpeg", lambda *_, **__: pytest.fail("not by Pillow"))
    red = encode(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG")
    assert b"Adobe" in red
    for reference in (False, True):
        decoded = decode(red, LIMITS, reference=reference)
        assert np.abs(decoded.pixels_HWC[8, 8].numpy() - [255.0, 0, 0]).max() <= 2


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_an_animation_gives_its_first_frame(format: str) -> None:
    frames = [Image.new("RGB", (20, 10), colour) for colour in ("red", "lime")]
    options = {"lossless": True} if format == "WEBP" else {}
    data = encode(frames[0], format, save_all=True, append_images=frames[1:], **options)
    assert decode(data, LIMITS).pixels_HWC.unique(dim=0).tolist() == [[[255, 0, 0]] * 20]
    image = Image.open(io.BytesIO(data))
    image.seek(1)
    assert rgb(image).getpixel((0, 0)) == (255, 0, 0)


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


# Warnings and threads.


def test_pillow_warns_nobody_and_others_still_do() -> None:
    noisy = encode(PICTURE, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x09\0")
    with pytest.warns(UserWarning, match="EXIF"):
        Image.open(io.BytesIO(noisy)).getexif()
    before = list(warnings.filters)
    decode(noisy, LIMITS)
    assert warnings.filters == before
    with formats.pillow_warnings_ignored:
        with formats.pillow_warnings_ignored:
            pass
        # One is out, the other still in.
        Image.open(io.BytesIO(noisy)).getexif()
        with pytest.warns(UserWarning, match="not Pillow's"):
            warnings.warn("not Pillow's", stacklevel=1)
    assert warnings.filters == before


def test_threads_decode_alike() -> None:
    before = list(warnings.filters)
    names = sorted(FILES) * 8
    with ThreadPoolExecutor(8) as pool:
        decoded = list(pool.map(lambda name: decode(FILES[name], LIMITS), names))
    for name, image in zip(names, decoded, strict=True):
        assert torch.equal(image.pixels_HWC, WHOLE[name].pixels_HWC)
    assert warnings.filters == before


# The fast path against the reference.


def test_pillow_judges_a_jpeg_that_the_fast_decoder_complains_of() -> None:
    noisy = FILES["jpeg"].replace(b"\xff\xdb", bytes(3) + b"\xff\xdb", 1)
    with pytest.raises(ValueError, match="extraneous bytes"):
        simplejpeg.decode_jpeg(noisy)
    assert torch.equal(decode(noisy, LIMITS).pixels_HWC, WHOLE["jpeg"].pixels_HWC)


@pytest.fixture(scope="module")
def photographs() -> list[bytes]:
    found = []
    for path in PHOTOGRAPHS:
        with tarfile.open(path) as tar:
            found += [tar.extractfile(member).read() for member in tar if ".jpg" in member.name]
    if not found:
        pytest.skip("no photographs in ../shared/data")
    return found


def test_photographs_by_both_paths(photographs: list[bytes]) -> None:
    for at, data in enumerate(photographs):
        fast = decode(data, ImageLimits())
        slow = decode(data, ImageLimits(), reference=True)
        assert largest_difference(fast.pixels_HWC, slow.pixels_HWC) <= 2
        for crop in CROPS if at % 8 == 0 else CROPS[:2]:
            fast_CHW = cut(fast.pixels_HWC, crop)
            assert largest_difference(fast_CHW, cut(slow.pixels_HWC, crop, reference=True)) <= 2


def texture(kind: str, height: int, width: int, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    period = 1 + seed % 9
    pixels_HWC = {
        "noise": lambda: rng.integers(0, 256, (height, width, 3)),
        "salt": lambda: rng.integers(0, 2, (height, width, 3)) * 255,
        "checkers": lambda: np.repeat(((y // period + x // period) % 2 * 255)[..., None], 3, 2),
        "stripes": lambda: np.repeat((x // period % 2 * 255)[..., None], 3, 2),
        "ramp": lambda: np.stack([x * 255 // width, y * 255 // height, (x + y) % 256], -1),
    }[kind]()
    return torch.from_numpy(pixels_HWC.astype(np.uint8))


@st.composite
def textures(draw: st.DrawFn) -> torch.Tensor:
    short = draw(st.one_of(st.integers(1, 12), st.integers(1, 400)))
    long = draw(st.integers(short, min(100 * short, max(600, 2 * short))))
    height, width = draw(st.permutations([short, long]))
    kind = draw(st.sampled_from(["noise", "salt", "checkers", "stripes", "ramp"]))
    return texture(kind, height, width, draw(st.integers(0, 99)))


@settings(deadline=None, max_examples=250)
@given(textures(), st.sampled_from(CROPS))
def test_any_image_by_both_paths(pixels_HWC: torch.Tensor, crop: CropSpec) -> None:
    fast_CHW = cut(pixels_HWC, crop)
    assert fast_CHW.shape == (3, crop.size, crop.size)
    assert fast_CHW.dtype == torch.uint8
    assert fast_CHW.is_contiguous()
    assert largest_difference(fast_CHW, cut(pixels_HWC, crop, reference=True)) <= 2


@pytest.mark.parametrize("crop", CROPS, ids=str)
@pytest.mark.parametrize(
    ("height", "width"),
    [(1, 1), (2, 200), (200, 2), (480, 239), (2460, 345), (670, 76), (300, 2500), (361, 5),
     (8, 790), (224, 224), (225, 224), (224, 500), (63, 64), (1, 7)],
)  # fmt: skip
def test_hard_contrast_by_both_paths(height: int, width: int, crop: CropSpec) -> None:
    pixels_HWC = texture("salt", height, width)
    slow_CHW = cut(pixels_HWC, crop, reference=True)
    assert largest_difference(cut(pixels_HWC, crop), slow_CHW) <= 2


@pytest.mark.parametrize("crop", CROPS, ids=str)
@pytest.mark.parametrize(("height", "width"), [(375, 500), (501, 333), (3, 5), (50, 431)])
def test_the_reference_is_torchvisions_transforms(height: int, width: int, crop: CropSpec) -> None:
    pixels_HWC = texture("noise", height, width)
    size = [crop.size, crop.size] if crop.mode == "squash" else [crop.resize_to]
    image = Image.fromarray(pixels_HWC.numpy())
    image = tv.resize(image, size, InterpolationMode(crop.interpolation))
    expected_HWC = np.asarray(tv.center_crop(image, [crop.size, crop.size]))
    assert np.array_equal(cut(pixels_HWC, crop, reference=True).permute(1, 2, 0), expected_HWC)


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"mode": "shortest", "resize_to": 200, "size": 224}, r"resize_to is 200, less than size"),
        ({"mode": "squash", "resize_to": 256, "size": 224}, r"resize_to is 256, but a squash goes"),
        ({"mode": "shortest", "resize_to": 0, "size": 0}, "greater than 0"),
    ],
)
def test_impossible_crops_are_refused(fields: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        CropSpec(**fields)
