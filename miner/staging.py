"""Files that every node needs the same of: named by URL and sha256, fetched once for each machine.

    s3://bucket/clip.safetensors#sha256=<64 hex digits>

A URL is only taken with its hash: what lies behind it may change, and two nodes that fetched at
different times would otherwise compute different vectors. A plain path is taken as it is; with a
hash, it is checked.

    CACHE/<sha256>/<name>       a fetched file, checked whenever a process begins to use it
    CACHE/unfinished/, locks/   attempts, and who is at work
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from pathlib import Path
from urllib.parse import urlsplit

from filelock import FileLock, Timeout

from miner.errors import ResourceError, ShardError
from miner.fetch import ShardFile
from miner.records import flush_to_disk, new_attempt, remembered_sha256
from miner.tar import CHUNK_BYTES
from miner.urls import shown

log = logging.getLogger(__name__)

DEFAULT_CACHE = Path("~/.cache/blindpairs/staged")

_HASHED = re.compile(r"(?P<url>.+)#sha256=(?P<sha256>[0-9a-fA-F]{64})")


def staged(where: str, cache: Path | None = None) -> Path:
    """The local file that a path or a URL with a hash means; fetched where it is not here yet.

    Args:
        where: a path, `path#sha256=<hex>` or `URL#sha256=<hex>`.
        cache: folder of what was fetched; default: the user's own.

    Raises:
        ResourceError: a URL has no hash, cannot be read, or other bytes lie behind it.
    """
    hashed = _HASHED.fullmatch(where)
    if hashed is None:
        if "://" in where or "#sha256=" in where:
            raise ResourceError(
                f"{shown(where)}: a URL is only taken with the sha256 of its bytes, so that every "
                "node has the same; append #sha256= and 64 hex digits (sha256sum prints them)"
            )
        return Path(where)
    url, wanted = hashed["url"], hashed["sha256"].lower()
    if "://" not in url:
        return _checked(Path(url), wanted)
    name = re.sub(r"[^A-Za-z0-9._-]", "-", urlsplit(url).path.rsplit("/", 1)[-1])
    folder = (cache or DEFAULT_CACHE).expanduser().absolute()
    target = folder / wanted / (name.lstrip(".-")[-100:] or "file")
    if _is_here(target, wanted):
        return target
    for part in (folder, folder / "unfinished", folder / "locks", target.parent):
        part.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = FileLock(folder / "locks" / wanted)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.warning("another process fetches %s; waiting for it", shown(url))
        lock.acquire()
    try:
        # Another process may have fetched it before this one got the lock.
        if not _is_here(target, wanted):
            _fetch(url, wanted, folder / "unfinished" / new_attempt(), target)
    finally:
        lock.release()
    return target


def _checked(path: Path, wanted: str) -> Path:
    """A local file that has to have a hash."""
    if not path.is_file():
        raise ResourceError(f"{path}: there is no such file; mend the path")
    if (found := remembered_sha256(path)) != wanted:
        raise ResourceError(_mismatch(str(path), found, wanted))
    return path


def _is_here(path: Path, wanted: str) -> bool:
    """Whether a fetched file is here with the bytes that its folder's name says."""
    if not path.is_file():
        return False
    if (found := remembered_sha256(path)) == wanted:
        return True
    log.warning("%s has sha256 %s now, not what its folder says; fetched anew", path, found)
    return False


def _fetch(url: str, wanted: str, attempt: Path, target: Path) -> None:
    """Fetch a file; it appears whole under its name, or not at all."""
    log.warning("fetching %s to %s", shown(url), target)
    digest = hashlib.sha256()
    try:
        with ShardFile(url) as remote, attempt.open("xb") as local:
            for start in range(0, remote.num_bytes, CHUNK_BYTES):
                data = remote.read(start, min(CHUNK_BYTES, remote.num_bytes - start))
                digest.update(data)
                local.write(data)
        if digest.hexdigest() != wanted:
            raise ResourceError(_mismatch(shown(url), digest.hexdigest(), wanted))
        flush_to_disk(attempt)
        os.replace(attempt, target)
        flush_to_disk(target.parent)
    except ShardError as error:
        raise ResourceError(
            f"cannot be fetched: {error}; a run remembers no query of a URL, so give a signed one "
            "again to `blindpairs mine` or `embed`"
        ) from error
    finally:
        attempt.unlink(missing_ok=True)


def _mismatch(where: str, found: str, wanted: str) -> str:
    return (
        f"{where} has sha256 {found}, asked for is {wanted}; take the right file, or correct the "
        "hash if the change is meant"
    )
