"""A tar reader that accounts for every byte.

`tarfile` and webdataset stop, skip or merge in silence where a tar is damaged. Here the standard
library parses one header block at a time (fields, checksum) and this reader decides where the next
one is: behind a bad header it looks for the next good one in steps of one block, and
what lies between is reported as damage. Each byte of the file is hashed and counted once:

    headers    header blocks, extension headers with what they carry
    data       contents of members
    padding    from the end of the contents to the next block
    damaged    regions that belong to no readable member
    end        the end-of-archive mark and the zeros behind it
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

from miner.tar_header import (
    BLOCK,
    EXTENSION_TYPES,
    announced_blocks,
    apply_extensions,
    check_extension,
    extended_name,
    is_extension,
    kind_of,
    legible_name,
    looks_like_header,
    num_data_bytes,
    parse_block,
    round_up,
)

CHUNK_BYTES = 2**20
BYTE_KINDS = ("headers", "data", "padding", "damaged", "end")
MAX_EXTENSION_BYTES = 2**20
"""Largest PAX or GNU extension header that is read: a larger one is an attack on memory."""
MAX_EXTENSIONS = 16
"""Most extension headers in front of one member."""
MAX_END_BYTES = 2**20
"""Zeros at the end that raise no doubt: writers fill up records, unfinished copies much more."""


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
                suspect = is_extension(bad.block)
                offset = damage.end
                yield damage
                continue
            end = data_offset + num_data_bytes(info)
            if end > self.num_bytes:
                rest = self._beyond_the_end(offset, info, data_offset)
                yield rest
                if isinstance(rest, Member):
                    return
                offset = rest.end
                continue
            self._account("headers", data_offset - offset)
            yield self._member(info, data_offset, suspect)
            offset, suspect = min(round_up(end), self.num_bytes), False
            self._skip(end, offset)
            self._account("padding", offset - end)
        self._end(offset)

    def _member(self, info: tarfile.TarInfo, offset: int, suspect: bool) -> Member:
        num_bytes, data = num_data_bytes(info), None
        kind = kind_of(info)
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
        return Member(
            name=info.name, kind=kind_of(info), offset=start, num_bytes=info.size, cut=True
        )

    def _damage(self, offset: int, bad: _BadHeader, *, is_renamed: bool) -> Damage:
        stop, _ = self._scan(bad.position + BLOCK)
        self._account("damaged", stop - offset)
        return Damage(
            start=offset,
            end=stop,
            name=None if is_renamed else bad.name,
            detail=f"{bad}, bytes {offset} to {stop}",
            is_one_member=bad.position + BLOCK + announced_blocks(bad.block) == stop,
        )

    def _scan(self, start: int) -> tuple[int, bool]:
        """Where the next header-like block is; else where the zeros at the file's end begin."""
        last_nonzero = start
        for chunk_start in range(start, self.num_bytes, CHUNK_BYTES):
            chunk = self._read(chunk_start, CHUNK_BYTES)
            for position in range(0, len(chunk) - BLOCK + 1, BLOCK):
                if looks_like_header(chunk, position):
                    return chunk_start + position, True
            if kept := len(chunk.rstrip(b"\0")):
                last_nonzero = chunk_start + kept
        zeros_start = start + round_up(last_nonzero - start)
        has_mark = self.num_bytes - zeros_start >= 2 * BLOCK
        return (zeros_start if has_mark else self.num_bytes), False

    def _header(self, offset: int, block: bytes) -> tuple[tarfile.TarInfo, int]:
        """The header at an offset with its extensions applied, and where its data begin."""
        window, position = bytearray(), offset
        for _ in range(MAX_EXTENSIONS + 1):
            if len(block) < BLOCK:
                raise _CutHeader
            try:
                info = parse_block(block)
                if info.type not in EXTENSION_TYPES:
                    if window:
                        info = apply_extensions(bytes(window), block)
                    return info, self._behind_sparse_map(position + BLOCK, block)
                if info.size > MAX_EXTENSION_BYTES:
                    raise tarfile.HeaderError(
                        f"extension header of {info.size} bytes, limit {MAX_EXTENSION_BYTES}"
                    )
                payload = self._read(position + BLOCK, round_up(info.size))
                if len(payload) < info.size:
                    raise _CutHeader
                check_extension(info.type, payload[: info.size])
            except tarfile.HeaderError as error:
                name = extended_name(bytes(window)) or legible_name(block)
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
