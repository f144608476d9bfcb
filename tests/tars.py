"""Tars for tests: good ones, and ways to damage them."""

from __future__ import annotations

import io
import json
import random
import tarfile
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

from PIL import Image
from webdataset import TarWriter

from miner.shards import Shard, list_shards

BLOCK = 512
END = bytes(2 * BLOCK)


@cache
def jpeg(seed: int, side: int = 24) -> bytes:
    """A small JPEG that differs from seed to seed."""
    noise = random.Random(seed).randbytes(side * side * 3)
    buffer = io.BytesIO()
    Image.frombytes("RGB", (side, side), noise).save(buffer, "JPEG", quality=60)
    return buffer.getvalue()


def member(
    name: str | bytes,
    data: bytes = b"",
    *,
    kind: bytes = tarfile.REGTYPE,
    size: int | None = None,
    tar_format: int = tarfile.USTAR_FORMAT,
    pax: Mapping[str, str] | None = None,
) -> bytes:
    """One member as it lies in a tar: header, data, padding."""
    shown = name if isinstance(name, str) else name.decode("utf-8", "surrogateescape")
    info = tarfile.TarInfo(shown)
    info.size, info.type, info.pax_headers = len(data), kind, dict(pax or {})
    if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
        info.linkname = "elsewhere.jpg"
    header = info.tobuf(tar_format, "utf-8", "surrogateescape")
    if size is not None:
        header = with_field(header, 124, b"%011o\0" % size)
    return header + padded(data)


def padded(data: bytes) -> bytes:
    """Data filled up to whole blocks."""
    return data + bytes(-len(data) % BLOCK)


def with_field(header: bytes, offset: int, value: bytes) -> bytes:
    """A header with one field changed and its checksum put right: a lie, not damage."""
    block = bytearray(header[-BLOCK:])
    block[offset : offset + len(value)] = value
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return header[:-BLOCK] + bytes(block)


def sample(key: str, seed: int = 0, **kwargs: int) -> bytes:
    """Members of one whole sample in img2dataset's layout."""
    fields = json.dumps({"key": key, "url": f"https://example.org/{seed}", "width": 24})
    return (
        member(f"{key}.jpg", jpeg(seed), **kwargs)
        + member(f"{key}.txt", f"caption {seed}".encode(), **kwargs)
        + member(f"{key}.json", fields.encode(), **kwargs)
    )


def good_tar(keys: Iterable[str] = ("000", "001", "002"), **kwargs: int) -> bytes:
    """A whole tar of jpg, txt and json members."""
    return b"".join(sample(key, seed, **kwargs) for seed, key in enumerate(keys)) + END


def webdataset_tar(keys: Iterable[str]) -> bytes:
    """The same by webdataset's own writer."""
    buffer = io.BytesIO()
    with TarWriter(buffer) as writer:
        for seed, key in enumerate(keys):
            writer.write({"__key__": key, "jpg": jpeg(seed), "txt": "a", "json": {"key": key}})
    return buffer.getvalue()


def header_of(tar: bytes, name: str) -> int:
    """Offset of a member's header."""
    with tarfile.open(fileobj=io.BytesIO(tar)) as file:
        return file.getmember(name).offset


def flip(tar: bytes, offset: int, bit: int = 0) -> bytes:
    """One bit turned."""
    return overwrite(tar, offset, bytes([tar[offset] ^ (1 << bit)]))


def overwrite(tar: bytes, offset: int, data: bytes) -> bytes:
    """Some bytes replaced, the length kept."""
    return tar[:offset] + data + tar[offset + len(data) :]


def noise(num_bytes: int) -> bytes:
    """Bytes that no header has."""
    return random.Random(7).randbytes(num_bytes)


def shard_of(data: bytes, folder: Path, name: str = "00000.tar") -> Shard:
    """A tar written into a folder, as a listed shard."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)
    (shard,) = list_shards([str(folder / name)])
    return shard


def put(folder: Path, *names: str) -> None:
    """Files of these names in a folder: whole tars, and JPEGs for every other ending."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(good_tar() if name.endswith(".tar") else jpeg(len(name)))
