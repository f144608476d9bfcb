"""JSON records: canonical text and hashes, and local files written whole or not at all.

A record carries the hash of its own content, so that a cut or an edit is noticed.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from miner.errors import StoreError

Json = dict[str, Any]


def canonical(value: object) -> str:
    """JSON text that is the same for equal values: sorted keys, no spaces, no NaN."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def digest(value: object) -> str:
    """Hex sha256 of a value's canonical JSON."""
    return hashlib.sha256(canonical(value).encode("utf-8", "surrogatepass")).hexdigest()


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remembered_sha256(path: Path) -> str:
    """Hex sha256 of a file; read again only where its size or its time is another."""
    status = path.stat()
    return _sha256_at(path, status.st_size, status.st_mtime_ns)


@lru_cache
def _sha256_at(path: Path, num_bytes: int, mtime_ns: int) -> str:
    return file_sha256(path)


def differences(recorded: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """One line for each field in which two flat mappings differ."""
    return [
        f"{name}: {recorded.get(name)!r} recorded, {current.get(name)!r} now"
        for name in sorted(recorded.keys() | current.keys())
        if recorded.get(name) != current.get(name)
    ]


def new_attempt() -> str:
    """A name that no other attempt has."""
    return uuid.uuid4().hex[:12]


def flush_to_disk(path: Path) -> None:
    """Wait until a file's, or a folder's, content is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_beside(path: Path, data: bytes | memoryview) -> Path:
    """Write bytes to the disk under a name beside `path`, from where they can be linked to it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{new_attempt()}.unfinished")
    try:
        with unfinished.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        unfinished.unlink(missing_ok=True)
        raise
    return unfinished


def write_whole(path: Path, data: bytes | memoryview) -> None:
    """Write a file so that a reader sees the old bytes or the new, never a part of them."""
    write_beside(path, data).rename(path)
    flush_to_disk(path.parent)


def encode_json(value: Json) -> bytes:
    """A JSON object as the text that we keep."""
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


def encode_record(record: Json) -> bytes:
    """A record, with its hash, as text."""
    return encode_json({**record, "record_sha256": digest(record)})


def decode_json(data: bytes, place: str) -> Json:
    """A JSON object from its text.

    Args:
        data: the text.
        place: where it lies, for messages.

    Raises:
        StoreError: it is something else.
    """
    try:
        value = json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{place} cannot be read ({error}); restore it or remove it") from error
    if not isinstance(value, dict):
        raise StoreError(f"{place} holds no JSON object; restore it or remove it")
    return value


def decode_record(data: bytes, place: str) -> Json:
    """A record from its text, checked against the hash it carries, and without it.

    Raises:
        StoreError: the record was cut or edited.
    """
    record = decode_json(data, place)
    claimed = record.pop("record_sha256", None)
    try:
        found = digest(record)
    except ValueError as error:
        # Python's parser takes NaN and 1e999, which are no JSON.
        raise StoreError(f"{place} cannot be read ({error}); restore it or remove it") from error
    if claimed != found:
        raise StoreError(
            f"{place} was cut or edited: its hash is {found[:12]}, "
            f"the record says {str(claimed)[:12]}; remove it and run the command again"
        )
    return record


def read_json(path: Path) -> Json:
    """A JSON object from a local file.

    Raises:
        StoreError: the file cannot be read, or holds something else.
    """
    return decode_json(_read(path), str(path))


def read_record(path: Path) -> Json:
    """A record from a local file; see `decode_record`.

    Raises:
        StoreError: the record cannot be read, was cut or edited.
    """
    return decode_record(_read(path), str(path))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StoreError(f"{path} cannot be read ({error}); restore it or remove it") from error


def replace_json(path: Path, value: Json) -> None:
    """Write JSON to a local file so that a reader sees the old text or the new."""
    write_whole(path, encode_json(value))


def replace_record(path: Path, record: Json) -> None:
    """Write a record, with its hash, in place of an older one."""
    write_whole(path, encode_record(record))
