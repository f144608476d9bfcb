"""Hostile, odd and real images: what comes out is right, or the reason is."""

import io
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import simplejpeg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from miner import formats, images
from miner.errors import ImageError
from miner.images import decode, rgb
from miner.schema import Reason
from tests.pictures import (
    FILES,
    LIMITS,
    PICTURE,
    WHOLE,
    encode,
    largest_difference,
    png,
    refusal,
    set_tiff_tag,
)

WHITE, BLACK = [255, 255, 255], [0, 0, 0]


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


# Warnings and threads.


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
