"""Header blocks of a tar, one at a time: what they say, and what a bad one still seems to say."""

from __future__ import annotations

import io
import re
import struct
import tarfile
from typing import Literal

BLOCK = 512
"""Bytes of a block: all of a tar lies in whole ones."""

_LONG_NAME_TYPES = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_PAX_TYPES = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.XGLTYPE)
EXTENSION_TYPES = _LONG_NAME_TYPES + _PAX_TYPES
"""Types of headers that say more about the header behind them."""
_V7_TYPES = frozenset(b"\x0001234567")
_CHECKSUM_FIELD = re.compile(rb"[ 0]*[0-7]{1,7}[\0 ]+")
_PAX_RECORD = re.compile(rb"(\d{1,7}) ([^=]+)=")
_PAX_SPARSE_NAME = re.compile(rb"\d+ GNU\.sparse\.name=([^\n]+)\n")
_PAX_PATH = re.compile(rb"\d+ path=([^\n]+)\n")
_PAX_GLOBAL_HARM = re.compile(rb"\d+ (path|size|linkpath|GNU\.sparse\.[a-z.]+)=")


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


def check_extension(header_type: bytes, payload: bytes) -> None:
    """No checksum guards what an extension header carries, but PAX records have lengths."""
    if header_type in _LONG_NAME_TYPES:
        return
    position = 0
    while position < len(payload):
        match = _PAX_RECORD.match(payload, position)
        end = position + int(match[1]) if match else 0
        if end <= position or payload[end - 1 : end] != b"\n":
            raise tarfile.HeaderError("PAX header whose records do not fit")
        position = end
    if header_type == tarfile.XGLTYPE and _PAX_GLOBAL_HARM.search(payload):
        raise tarfile.HeaderError("global PAX header that renames or resizes all members")


def apply_extensions(window: bytes) -> tarfile.TarInfo:
    """A chain of extension headers and the header they extend, by the standard library."""
    if b" GNU.sparse." in window:
        # The standard library would look for the map in the data, which is not in the window.
        info = parse_block(window[-BLOCK:])
        if match := _PAX_SPARSE_NAME.search(window):
            info.name = match[1].decode("utf-8", "surrogateescape")
        info.type = tarfile.GNUTYPE_SPARSE
        return info
    try:
        with tarfile.TarFile(
            fileobj=io.BytesIO(window), encoding="utf-8", errors="surrogateescape"
        ) as tar:
            info = tar.firstmember  # type: ignore[attr-defined]
    except (tarfile.TarError, ValueError, IndexError, struct.error) as error:
        raise tarfile.HeaderError(f"extension header: {error}") from error
    if info is None or info.size < 0:
        raise tarfile.HeaderError("extension header that gives no member")
    assert isinstance(info, tarfile.TarInfo)
    return info


def extended_name(window: bytes | bytearray) -> str | None:
    """The name that a chain of good extension headers gives to a header that is bad."""
    if match := _PAX_PATH.search(window):
        return match[1].decode("utf-8", "surrogateescape")
    if window and window[156:157] == tarfile.GNUTYPE_LONGNAME:
        return bytes(window[BLOCK:]).split(b"\0")[0].decode("utf-8", "surrogateescape")
    return None


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
