"""JSON records on disk: canonical text, hashes, written whole or not at all.

A record carries the hash of its own content, so that a cut or an edit is noticed.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Mapping
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


def read_json(path: Path) -> Json:
    """A JSON object from a file.

    Raises:
        StoreError: the file cannot be read, or holds something else.
    """
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise StoreError(f"{path} cannot be read ({error}); restore it or remove it") from error
    if not isinstance(value, dict):
        raise StoreError(f"{path} holds no JSON object; restore it or remove it")
    return value


def read_record(path: Path) -> Json:
    """A record from a file, checked against the hash it carries, and without it.

    Raises:
        StoreError: the record cannot be read, was cut or edited.
    """
    record = read_json(path)
    claimed = record.pop("record_sha256", None)
    try:
        found = digest(record)
    except ValueError as error:
        # Python's parser takes NaN and 1e999, which are no JSON.
        raise StoreError(f"{path} cannot be read ({error}); restore it or remove it") from error
    if claimed != found:
        raise StoreError(
            f"{path} was cut or edited: its hash is {found[:12]}, "
            f"the record says {str(claimed)[:12]}; remove it and run the command again"
        )
    return record


def replace_json(path: Path, value: Json) -> None:
    """Write JSON so that a reader sees the old text or the new, never half of it."""
    unfinished = _write_beside(path, value)
    unfinished.rename(path)
    flush_to_disk(path.parent)


def replace_record(path: Path, record: Json) -> None:
    """Write a record, with its hash, in place of an older one."""
    replace_json(path, {**record, "record_sha256": digest(record)})


def put_record(path: Path, record: Json) -> bool:
    """Write a record, with its hash, unless there is one: of several writers one wins.

    Returns:
        Whether this call wrote it.
    """
    unfinished = _write_beside(path, {**record, "record_sha256": digest(record)})
    try:
        # A link either appears whole or fails; a rename would overwrite the winner.
        os.link(unfinished, path)
    except FileExistsError:
        return False
    finally:
        unfinished.unlink()
    flush_to_disk(path.parent)
    return True


def _write_beside(path: Path, value: Json) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{new_attempt()}.unfinished")
    unfinished.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", "utf-8")
    flush_to_disk(unfinished)
    return unfinished
