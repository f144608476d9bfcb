"""Header blocks of a tar, one at a time: what they say, and what a bad one still seems to say."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from typing import Literal

BLOCK = 512
"""Bytes of a block: all of a tar lies in whole ones."""

_LONG_NAME_TYPES = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_PAX_TYPES = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.XGLTYPE)
EXTENSION_TYPES = _LONG_NAME_TYPES + _PAX_TYPES
"""Types of headers that say more about the header behind them."""
_V7_TYPES = frozenset(b"\x0001234567")
_CHECKSUM_FIELD = re.compile(rb"[ 0]*[0-7]{1,7}[\0 ]+")
_PAX_LENGTH = re.compile(rb"(\d{1,7}) ")
_PAX_SIZE = re.compile(rb"\d{1,19}")
_PAX_GLOBAL_HARM = frozenset({b"path", b"size", b"linkpath"})
_PAX_SPARSE = b"GNU.sparse."
_PAX_SPARSE_NAME = b"GNU.sparse.name"


def parse_block(block: bytes) -> tarfile.TarInfo:
    """One header block by the standard library, and then some doubt."""
    info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    if info.size < 0:
        raise tarfile.HeaderError(f"announces {info.size} bytes")
    if block[257:262] != b"ustar" and (block[156] not in _V7_TYPES or not block[0]):
        raise tarfile.HeaderError("neither ustar nor an old header")
    return info


def looks_like_header(chunk: bytes, position: int) -> bool:
    """Whether a block is a header, or one that was damaged but kept its magic number."""
    if chunk.startswith(b"ustar", position + 257):
        return True
    if not _CHECKSUM_FIELD.fullmatch(chunk, position + 148, position + 156):
        return False
    try:
        parse_block(chunk[position : position + BLOCK])
    except tarfile.HeaderError:
        return False
    return True


def pax_records(payload: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keyword and value of each record that a PAX header carries.

    Raises:
        HeaderError: the lengths of the records do not fit.
    """
    position = 0
    while position < len(payload):
        match = _PAX_LENGTH.match(payload, position)
        end = position + int(match[1]) if match else 0
        equals = payload.find(b"=", match.end(), end) if match else -1
        if match is None or equals <= match.end() or payload[end - 1 : end] != b"\n":
            raise tarfile.HeaderError("PAX header whose records do not fit")
        yield payload[match.end() : equals], payload[equals + 1 : end - 1]
        position = end


def check_extension(header_type: bytes, payload: bytes) -> None:
    """No checksum guards what an extension header carries, but PAX records have lengths."""
    if header_type in _LONG_NAME_TYPES:
        return
    is_global = header_type == tarfile.XGLTYPE
    for keyword, _ in pax_records(payload):
        if is_global and (keyword in _PAX_GLOBAL_HARM or keyword.startswith(_PAX_SPARSE)):
            raise tarfile.HeaderError("global PAX header that renames or resizes all members")


def apply_extensions(window: bytes, block: bytes) -> tarfile.TarInfo:
    """A header with what a chain of good extension headers in front of it says.

    The standard library does the same with regular expressions that take hours over a header
    of a megabyte of digits. As there, the first header of a chain has the last word.
    """
    info = parse_block(block)
    said: dict[bytes, bytes] = {}
    for each in reversed(list(_extensions(window))):
        said |= each
    is_sparse = _PAX_SPARSE in said
    name = said.get(_PAX_SPARSE_NAME if is_sparse else b"path")
    if name is not None:
        info.name = _text_of(name).rstrip("/")
    if (size := said.get(b"size")) is not None:
        if not _PAX_SIZE.fullmatch(size):
            raise tarfile.HeaderError(f"PAX header that announces {size[:20]!r} bytes")
        info.size = int(size)
    if is_sparse:
        info.type = tarfile.GNUTYPE_SPARSE
    return info


def extended_name(window: bytes) -> str | None:
    """The name that a chain of good extension headers gives to a header that is bad."""
    names = [each[b"path"] for each in _extensions(window) if b"path" in each]
    return _text_of(names[0]) if names else None


def _extensions(window: bytes) -> Iterator[dict[bytes, bytes]]:
    """Of each header of a chain, the PAX records that matter; a GNU long name is a `path`."""
    position = 0
    while position < len(window):
        info = parse_block(window[position : position + BLOCK])
        position += BLOCK
        payload = window[position : position + info.size]
        position += round_up(info.size)
        if info.type == tarfile.GNUTYPE_LONGNAME:
            yield {b"path": payload.split(b"\0", 1)[0]}
        elif info.type in _PAX_TYPES:
            said: dict[bytes, bytes] = {}
            for keyword, value in pax_records(payload):
                if keyword in (b"path", b"size", _PAX_SPARSE_NAME):
                    said[keyword] = value
                if keyword.startswith(_PAX_SPARSE):
                    said[_PAX_SPARSE] = b""
            yield said


def _text_of(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def legible_name(block: bytes) -> str | None:
    """The name in a bad header, if the block is a header at all and the name is clean text."""
    if block[257:262] != b"ustar" and not _CHECKSUM_FIELD.fullmatch(block, 148, 156):
        return None
    if is_extension(block):
        return None
    name = block[:100].split(b"\0")[0]
    if block[257:263] == b"ustar\0" and (prefix := block[345:500].split(b"\0")[0]):
        name = prefix + b"/" + name
    try:
        text = name.decode()
    except UnicodeDecodeError:
        return None
    return text if text.isprintable() and text else None


def is_extension(block: bytes) -> bool:
    """Whether a bad header seems to be one that renames the member behind it."""
    is_typed = block[156:157] in EXTENSION_TYPES and block[257:262] == b"ustar"
    return is_typed or block.startswith(b"././@")


def announced_blocks(block: bytes) -> int:
    """Bytes that a bad header says will follow it; negative where it says nothing legible."""
    try:
        num_bytes = int(block[124:136].strip(b" \0"), 8)
    except ValueError:
        return -BLOCK - 1
    return round_up(num_bytes) if num_bytes >= 0 else -BLOCK - 1


def kind_of(info: tarfile.TarInfo) -> Literal["file", "directory", "other"]:
    """A file with plain contents, a directory, or anything else (links, devices, sparse files)."""
    if info.isdir():
        return "directory"
    return "file" if info.isreg() and info.type != tarfile.GNUTYPE_SPARSE else "other"


def num_data_bytes(info: tarfile.TarInfo) -> int:
    """Bytes that follow the header: links, directories and devices have none."""
    has_data = info.isreg() or info.type not in tarfile.SUPPORTED_TYPES
    return info.size if has_data else 0


def round_up(num_bytes: int) -> int:
    """Bytes of the whole blocks that hold so many bytes."""
    return -(-num_bytes // BLOCK) * BLOCK
