import pytest

from miner.errors import ImageError
from miner.images import decode
from miner.schema import Reason
from tests.pictures import LIMITS


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
