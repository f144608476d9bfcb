"""Which image format the bytes of a file of unknown origin are.

The format is read from the first bytes, whatever the file's name. Only formats in `READERS` ever
reach a decoder; the others that we can name are refused by name, because a quarantine table with
12,000 times "SVG" says more than one with 12,000 times "unknown".
"""

from __future__ import annotations

from PIL import ImageFile
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from miner.errors import ImageError
from miner.schema import Reason

# Not Image.open: it also knows EPS, which starts Ghostscript, and its pixel cap is a global.
READERS: dict[str, type[ImageFile.ImageFile]] = {
    "JPEG": JpegImageFile,
    "PNG": PngImageFile,
    "WEBP": WebPImageFile,
    "GIF": GifImageFile,
    "BMP": BmpImageFile,
    "TIFF": TiffImageFile,
    "AVIF": AvifImageFile,
}
"""The allow-list: the formats that are decoded, each with the one reader it is given to."""

_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    # Known and refused: pictures.
    (b"icns", "ICNS"),
    (b"8BPS", "PSD"),
    (b"%!PS", "PostScript"),
    (b"\xc5\xd0\xd3\xc6", "PostScript"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    (b"\xff\x0a", "JPEG XL"),
    (b"II\xbc\1", "JPEG XR"),
    (b"\x8aMNG\r\n\x1a\n", "MNG"),
    (b"DDS ", "DDS"),
    (b"v/1\1", "OpenEXR"),
    (b"#?RADIANCE", "Radiance HDR"),
    (b"gimp xcf", "XCF"),
    (b"AT&TFORM", "DjVu"),
    (b"qoif", "QOI"),
    (b"SIMPLE  =", "FITS"),
    (b"\xd7\xcd\xc6\x9a", "WMF"),
    # Known and refused: what a web server sends in a picture's place.
    (b"%PDF-", "PDF"),
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\0", "xz"),
    (b"(\xb5/\xfd", "Zstandard"),
    (b"PK\3\4", "ZIP"),
    (b"Rar!", "RAR"),
    (b"7z\xbc\xaf\x27\x1c", "7-Zip"),
    (b"\x1aE\xdf\xa3", "Matroska"),
    (b"FLV\1", "Flash"),
    (b"FWS", "Flash"),
    (b"CWS", "Flash"),
)

_BMP_HEADER_BYTES = (12, 16, 40, 52, 56, 64, 108, 124)


def sniff(data: bytes) -> str:
    """Name the format of an image by its first bytes.

    Args:
        data: a whole file, or at least its first 1024 bytes.

    Returns:
        A name in `READERS`.

    Raises:
        ImageError: EMPTY, FORMAT_NOT_ALLOWED (naming the format) or UNKNOWN_FORMAT.
    """
    if not data:
        raise ImageError(Reason.EMPTY, "the image has 0 bytes")
    name = _by_magic(data) or _by_container(data) or _by_text(data)
    if name is None:
        raise ImageError(
            Reason.UNKNOWN_FORMAT,
            f"the first bytes are {data[:16].hex(' ')}; decoded are {', '.join(READERS)}",
        )
    if name not in READERS:
        raise ImageError(
            Reason.FORMAT_NOT_ALLOWED, f"the bytes are {name}; decoded are {', '.join(READERS)}"
        )
    return name


def _by_magic(data: bytes) -> str | None:
    return next((name for magic, name in _MAGIC if data.startswith(magic)), None)


def _by_container(data: bytes) -> str | None:
    """Formats that two letters, or a box's brand, tell from others."""
    if data[:2] == b"BM" and int.from_bytes(data[14:18], "little") in _BMP_HEADER_BYTES:
        return "BMP"
    if data[:4] in (b"\0\0\1\0", b"\0\0\2\0") and data[4:6] > b"\0\0":
        # Their number; what has none may be a TGA, which has no letters at all.
        return "ICO" if data[2] == 1 else "CUR"
    if data[:4] == b"RIFF":
        return "WEBP" if data[8:12] == b"WEBP" else "RIFF (audio or video)"
    if data[:4] == b"\1\0\0\0" and data[40:44] == b" EMF":
        return "EMF"
    if data[4:8] != b"ftyp":
        return None
    box_bytes = min(int.from_bytes(data[:4], "big"), 256)
    # The major brand, then (after a version number) the compatible ones.
    brands = {data[8:12], *(data[at : at + 4] for at in range(16, box_bytes, 4))}
    if brands & {b"avif", b"avis"}:
        return "AVIF"
    if brands & {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}:
        return "HEIC"
    return "ISO media (video)"


def _by_text(data: bytes) -> str | None:
    text = data[:1024].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if not text.startswith(b"<"):
        return None
    if any(tag in text for tag in (b"<!doctype html", b"<html", b"<head", b"<body")):
        return "HTML"
    if b"<svg" in text:
        return "SVG"
    return "XML" if text.startswith(b"<?xml") else None
