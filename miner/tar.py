"""A tar reader that accounts for every byte.

`tarfile` and webdataset stop, skip or merge in silence where a tar is damaged. Here the standard
library parses one header at a time (checksum, PAX records, GNU long names) and this reader decides
where the next one is: behind a bad header it looks for the next good one in steps of one block, and
what lies between is reported as damage. Each byte of the file is hashed and counted once:

    headers    header blocks, extension headers with what they carry
    data       contents of members
    padding    from the end of the contents to the next block
    damaged    regions that belong to no readable member
    end        the end-of-archive mark and the zeros behind it
"""

from __future__ import annotations

import hashlib
import io
import re
import struct
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

BLOCK = 512
CHUNK_BYTES = 2**20
BYTE_KINDS = ("headers", "data", "padding", "damaged", "end")
MAX_EXTENSION_BYTES = 2**20
"""Largest PAX or GNU extension header that is read: a larger one is an attack on memory."""
MAX_EXTENSIONS = 16
"""Most extension headers in front of one member."""
MAX_END_BYTES = 2**20
"""Zeros at the end that raise no doubt: writers fill up records, unfinished copies much more."""

_LONG_NAME_TYPES = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_PAX_TYPES = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.XGLTYPE)
_V7_TYPES = frozenset(b"\x0001234567")
_CHECKSUM_FIELD = re.compile(rb"[ 0]*[0-7]{1,7}[\0 ]+")
_PAX_RECORD = re.compile(rb"(\d{1,7}) ([^=]+)=")
_PAX_SPARSE_NAME = re.compile(rb"\d+ GNU\.sparse\.name=([^\n]+)\n")
_PAX_PATH = re.compile(rb"\d+ path=([^\n]+)\n")
_PAX_GLOBAL_HARM = re.compile(rb"\d+ (path|size|linkpath|GNU\.sparse\.[a-z.]+)=")


class ReadsBytes(Protocol):
    """Whatever gives the bytes of a file by offset."""

    def read(self, offset: int, num_bytes: int) -> bytes:
        """Exactly that many bytes, or a ShardError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One member of a tar, or the beginning of one that the file's end cuts off."""

    name: str
    """As `tarfile` gives it: bytes that are not UTF-8 are surrogate escapes."""
    kind: Literal["file", "directory", "other"]
    offset: int
    """Of the first byte of the contents, in bytes from the start of the tar."""
    num_bytes: int
    data: bytes | None = None
    """None where the contents were hashed and not kept."""
    cut: bool = False
    """The tar ends inside the contents."""
    suspect: bool = False
    """An extension header that could have renamed this member is unreadable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """A region that belongs to no readable member, from a bad header to the next good one."""

    start: int
    end: int
    name: str | None
    """The name in the bad header, where that field can still be read."""
    detail: str
    is_one_member: bool
    """The bad header's size explains the whole region, so no second member is hidden in it."""


class _BadHeader(Exception):
    """The header block at `position` cannot be trusted; `name` is what it seems to say."""

    def __init__(self, detail: str, position: int, block: bytes, name: str | None) -> None:
        super().__init__(detail)
        self.position, self.block, self.name = position, block, name


class _CutHeader(Exception):
    """The file ends inside a header."""


class TarReader:
    """Members and damage of one tar, in order, in one pass; then the accounts.

    Attributes:
        num_bytes: size of the file.
        num_bytes_of: bytes by kind; they sum to the size of the file once iteration is over.
        has_end: an end-of-archive mark was found.
        trailing: first byte behind the mark that is not zero, or None.
        notes: harmless oddities.
    """

    def __init__(
        self, source: ReadsBytes, num_bytes: int, wanted: Callable[[str, int], bool]
    ) -> None:
        """Prepare to read.

        Args:
            source: the file's bytes.
            num_bytes: size of the file.
            wanted: says by name and size whether a member's contents are to be kept.
        """
        self.num_bytes_of = dict.fromkeys(BYTE_KINDS, 0)
        self.has_end = False
        self.trailing: int | None = None
        self.notes: set[str] = set()
        self._source = source
        self.num_bytes = num_bytes
        self._wanted = wanted
        self._sha256 = hashlib.sha256()
        self._num_hashed = 0

    @property
    def sha256(self) -> str:
        """Hex digest of the whole file, once iteration is over."""
        assert self._num_hashed == self.num_bytes
        return self._sha256.hexdigest()

    def __iter__(self) -> Iterator[Member | Damage]:
        offset, suspect = 0, False
        while not self._is_end(offset, block := self._read(offset, BLOCK)):
            try:
                info, data_offset = self._header(offset, block)
            except _CutHeader:
                self._account("damaged", self.num_bytes - offset)
                return
            except _BadHeader as bad:
                damage = self._damage(offset, bad, is_renamed=suspect)
                # An unreadable extension header may have held the next member's real name.
                suspect = _is_extension(bad.block)
                offset = damage.end
                yield damage
                continue
            end = data_offset + _num_data_bytes(info)
            if end > self.num_bytes:
                rest = self._beyond_the_end(offset, info, data_offset)
                yield rest
                if isinstance(rest, Member):
                    return
                offset = rest.end
                continue
            self._account("headers", data_offset - offset)
            yield self._member(info, data_offset, suspect)
            offset, suspect = min(_round_up(end), self.num_bytes), False
            self._skip(end, offset)
            self._account("padding", offset - end)
        self._end(offset)

    def _member(self, info: tarfile.TarInfo, offset: int, suspect: bool) -> Member:
        num_bytes, data = _num_data_bytes(info), None
        kind = _kind(info)
        if kind == "file" and self._wanted(info.name, num_bytes):
            data = self._read(offset, num_bytes)
        else:
            self._skip(offset, offset + num_bytes)
        self._account("data", num_bytes)
        return Member(
            name=info.name,
            kind=kind,
            offset=offset,
            num_bytes=num_bytes,
            data=data,
            suspect=suspect,
        )

    def _beyond_the_end(self, offset: int, info: tarfile.TarInfo, start: int) -> Member | Damage:
        """A header announces more bytes than there are: it lies, or the file was cut."""
        stop, found = self._scan(start)
        if found:
            self._account("damaged", stop - offset)
            left = self.num_bytes - start
            detail = f"the header announces {info.size} bytes where {left} are left"
            return Damage(start=offset, end=stop, name=info.name, detail=detail, is_one_member=True)
        self._account("headers", start - offset)
        self._account("damaged", self.num_bytes - start)
        return Member(name=info.name, kind=_kind(info), offset=start, num_bytes=info.size, cut=True)

    def _damage(self, offset: int, bad: _BadHeader, *, is_renamed: bool) -> Damage:
        stop, _ = self._scan(bad.position + BLOCK)
        self._account("damaged", stop - offset)
        return Damage(
            start=offset,
            end=stop,
            name=None if is_renamed else bad.name,
            detail=f"{bad}, bytes {offset} to {stop}",
            is_one_member=bad.position + BLOCK + _announced_blocks(bad.block) == stop,
        )

    def _scan(self, start: int) -> tuple[int, bool]:
        """Where the next header-like block is; else where the zeros at the file's end begin."""
        last_nonzero = start
        for chunk_start in range(start, self.num_bytes, CHUNK_BYTES):
            chunk = self._read(chunk_start, CHUNK_BYTES)
            for position in range(0, len(chunk) - BLOCK + 1, BLOCK):
                if _looks_like_header(chunk, position):
                    return chunk_start + position, True
            if kept := len(chunk.rstrip(b"\0")):
                last_nonzero = chunk_start + kept
        zeros_start = start + _round_up(last_nonzero - start)
        has_mark = self.num_bytes - zeros_start >= 2 * BLOCK
        return (zeros_start if has_mark else self.num_bytes), False

    def _header(self, offset: int, block: bytes) -> tuple[tarfile.TarInfo, int]:
        """The header at an offset with its extensions applied, and where its data begin."""
        window, position = bytearray(), offset
        for _ in range(MAX_EXTENSIONS + 1):
            if len(block) < BLOCK:
                raise _CutHeader
            try:
                info = _parse_block(block)
                if info.type not in _LONG_NAME_TYPES + _PAX_TYPES:
                    if window:
                        info = _apply_extensions(bytes(window) + block)
                    return info, self._behind_sparse_map(position + BLOCK, block)
                if info.size > MAX_EXTENSION_BYTES:
                    raise tarfile.HeaderError(
                        f"extension header of {info.size} bytes, limit {MAX_EXTENSION_BYTES}"
                    )
                payload = self._read(position + BLOCK, _round_up(info.size))
                if len(payload) < info.size:
                    raise _CutHeader
                _check_extension(info.type, payload[: info.size])
            except tarfile.HeaderError as error:
                name = _extended_name(window) or _legible_name(block)
                detail = str(error) if block.strip(b"\0") else "one zero block instead of a header"
                raise _BadHeader(detail, position, block, name) from error
            if info.type == tarfile.XGLTYPE:
                self.notes.add("global PAX headers, not applied")
            else:
                window += block + payload
            position += BLOCK + len(payload)
            block = self._read(position, BLOCK)
        raise _BadHeader(f"more than {MAX_EXTENSIONS} extension headers", position, block, None)

    def _behind_sparse_map(self, position: int, block: bytes) -> int:
        """GNU's old sparse members carry further blocks of their map before the data."""
        is_extended = block[156:157] == tarfile.GNUTYPE_SPARSE and bool(block[482])
        while is_extended:
            block = self._read(position, BLOCK)
            if len(block) < BLOCK:
                raise _CutHeader
            is_extended, position = bool(block[504]), position + BLOCK
        return position

    def _is_end(self, offset: int, block: bytes) -> bool:
        """Two zero blocks, or nothing but fewer zeros: a lone one is a lost header."""
        return not block.strip(b"\0") and not self._read(offset + BLOCK, BLOCK).strip(b"\0")

    def _end(self, offset: int) -> None:
        """Account for the end-of-archive mark and whatever follows it."""
        num_left = self.num_bytes - offset
        self.has_end = num_left > 0
        if 0 < num_left < 2 * BLOCK:
            self.notes.add(f"end-of-archive mark of {num_left} bytes instead of {2 * BLOCK}")
        for start in range(offset, self.num_bytes, CHUNK_BYTES):
            chunk = self._read(start, CHUNK_BYTES)
            if self.trailing is None and (rest := chunk.lstrip(b"\0")):
                self.trailing = start + len(chunk) - len(rest)
        zeros_end = self.num_bytes if self.trailing is None else self.trailing
        if zeros_end - offset > MAX_END_BYTES:
            self.notes.add(f"{zeros_end - offset} zero bytes at the end, as of an unfinished copy")
        self._account("end", zeros_end - offset)
        self._account("damaged", self.num_bytes - zeros_end)

    def _read(self, offset: int, num_bytes: int) -> bytes:
        """Bytes of the file, fewer at its end; each is hashed the first time it is seen."""
        num_bytes = min(num_bytes, self.num_bytes - offset)
        if num_bytes <= 0:
            return b""
        assert offset <= self._num_hashed
        data = self._source.read(offset, num_bytes)
        if offset + num_bytes > self._num_hashed:
            self._sha256.update(memoryview(data)[self._num_hashed - offset :])
            self._num_hashed = offset + num_bytes
        return data

    def _skip(self, start: int, end: int) -> None:
        for position in range(start, end, CHUNK_BYTES):
            self._read(position, min(CHUNK_BYTES, end - position))

    def _account(self, kind: str, num_bytes: int) -> None:
        self.num_bytes_of[kind] += num_bytes


def _parse_block(block: bytes) -> tarfile.TarInfo:
    """One header block by the standard library, and then some doubt."""
    info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    if info.size < 0:
        raise tarfile.HeaderError(f"announces {info.size} bytes")
    if block[257:262] != b"ustar" and (block[156] not in _V7_TYPES or not block[0]):
        raise tarfile.HeaderError("neither ustar nor an old header")
    return info


def _looks_like_header(chunk: bytes, position: int) -> bool:
    """Whether a block is a header, or one that was damaged but kept its magic number."""
    if chunk.startswith(b"ustar", position + 257):
        return True
    if not _CHECKSUM_FIELD.fullmatch(chunk, position + 148, position + 156):
        return False
    try:
        _parse_block(chunk[position : position + BLOCK])
    except tarfile.HeaderError:
        return False
    return True


def _check_extension(header_type: bytes, payload: bytes) -> None:
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


def _apply_extensions(window: bytes) -> tarfile.TarInfo:
    """A chain of extension headers and the header they extend, by the standard library."""
    if b" GNU.sparse." in window:
        # The standard library would look for the map in the data, which is not in the window.
        info = _parse_block(window[-BLOCK:])
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


def _extended_name(window: bytes | bytearray) -> str | None:
    """The name that a chain of good extension headers gives to a header that is bad."""
    if match := _PAX_PATH.search(window):
        return match[1].decode("utf-8", "surrogateescape")
    if window and window[156:157] == tarfile.GNUTYPE_LONGNAME:
        return bytes(window[BLOCK:]).split(b"\0")[0].decode("utf-8", "surrogateescape")
    return None


def _legible_name(block: bytes) -> str | None:
    """The name in a bad header, if the block is a header at all and the name is clean text."""
    if block[257:262] != b"ustar" and not _CHECKSUM_FIELD.fullmatch(block, 148, 156):
        return None
    if _is_extension(block):
        return None
    name = block[:100].split(b"\0")[0]
    if block[257:263] == b"ustar\0" and (prefix := block[345:500].split(b"\0")[0]):
        name = prefix + b"/" + name
    try:
        text = name.decode()
    except UnicodeDecodeError:
        return None
    return text if text.isprintable() and text else None


def _is_extension(block: bytes) -> bool:
    """Whether a bad header seems to be one that renames the member behind it."""
    is_typed = block[156:157] in _LONG_NAME_TYPES + _PAX_TYPES and block[257:262] == b"ustar"
    return is_typed or block.startswith(b"././@")


def _announced_blocks(block: bytes) -> int:
    """Bytes that a bad header says will follow it; negative where it says nothing legible."""
    try:
        num_bytes = int(block[124:136].strip(b" \0"), 8)
    except ValueError:
        return -BLOCK - 1
    return _round_up(num_bytes) if num_bytes >= 0 else -BLOCK - 1


def _kind(info: tarfile.TarInfo) -> Literal["file", "directory", "other"]:
    if info.isdir():
        return "directory"
    return "file" if info.isreg() and info.type != tarfile.GNUTYPE_SPARSE else "other"


def _num_data_bytes(info: tarfile.TarInfo) -> int:
    """Bytes that follow the header: links, directories and devices have none."""
    has_data = info.isreg() or info.type not in tarfile.SUPPORTED_TYPES
    return info.size if has_data else 0


def _round_up(num_bytes: int) -> int:
    return -(-num_bytes // BLOCK) * BLOCK
