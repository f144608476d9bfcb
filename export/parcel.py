"""Proven engines in one tar, on their way from the machine that built them to nodes like it.

An engine is code. So a node takes a parcel only by its sha256 (`miner/staging.py`), from whoever
gave the command that it runs anyway; takes nothing out of it but whole entries with their hashes;
and holds every engine against float32 once more, on its own device, before it sees an image. An
entry's key names the GPU model and the runtime's version: on other nodes it is never looked up.
"""

from __future__ import annotations

import re
import shutil
import tarfile
from pathlib import Path

from export.cache import MANIFEST, EngineCache, State
from miner.errors import EngineError, StoreError
from miner.records import file_sha256, new_attempt

STATES: tuple[State, ...] = ("onnx", "proven")
"""What a parcel holds, in the order in which it is taken: engines name files of their graphs."""

_MEMBER = re.compile(r"(onnx|proven)/[0-9a-f]{16}/[A-Za-z0-9][A-Za-z0-9._-]*")


def pack(cache: EngineCache, path: Path) -> str:
    """Write every proven engine of a cache, and every graph, to a tar: equal bytes for equal ones.

    Args:
        cache: where they are.
        path: of the tar.

    Returns:
        The tar's sha256.

    Raises:
        EngineError: there is no proven engine.
    """
    entries = [(state, entry) for state in STATES for entry in cache.entries(state)]
    if not any(state == "proven" for state, _ in entries):
        raise EngineError(f"{cache.root} holds no proven engine; run `blindpairs export-engine`")
    unfinished = path.with_name(f".{path.name}.unfinished")
    with tarfile.open(unfinished, "w", format=tarfile.GNU_FORMAT) as tar:
        for state, entry in entries:
            # Files of other entries, which a path leads up to, come with those.
            own = [name for name in entry.files if "/" not in name]
            for name in (MANIFEST, *sorted(own)):
                info = tarfile.TarInfo(f"{state}/{entry.folder.name}/{name}")
                info.size = (entry.folder / name).stat().st_size
                with (entry.folder / name).open("rb") as file:
                    tar.addfile(info, file)
    unfinished.rename(path)
    return file_sha256(path)


def unpack(cache: EngineCache, path: Path) -> list[str]:
    """Publish what a parcel holds and the cache does not.

    Args:
        cache: where entries go.
        path: of a tar by `pack`.

    Returns:
        The entries that were new here, `<state>/<digest>`.

    Raises:
        EngineError: it is no tar, a member is none of an entry's files, or a hash is wrong.
    """
    here = {f"{state}/{entry.folder.name}" for state in STATES for entry in cache.entries(state)}
    attempt = cache.prepare("unfinished") / f"parcel.{new_attempt()}"
    try:
        with tarfile.open(path, "r:") as tar:
            held = _entries(tar)
            if held <= here:
                return []
            for member in tar.getmembers():
                _extract(tar, member, attempt / member.name)
        cache.take([(s, attempt / name) for s in STATES for name in held if name.startswith(s)])
    except (tarfile.TarError, StoreError, OSError) as error:
        raise EngineError(f"{path} is no parcel of engines ({error}); pack it again") from error
    finally:
        shutil.rmtree(attempt, ignore_errors=True)
    return sorted(held - here)


def _entries(tar: tarfile.TarFile) -> set[str]:
    """The entries of a tar, whose members are files of entries and nothing else."""
    for member in tar.getmembers():
        if member.type != tarfile.REGTYPE or not _MEMBER.fullmatch(member.name):
            raise tarfile.TarError(f"{member.name!r} is none of an entry's files")
    return {member.name.rpartition("/")[0] for member in tar.getmembers()}


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    source = tar.extractfile(member)
    assert source is not None
    with source, path.open("xb") as target:
        shutil.copyfileobj(source, target)
