"""A local folder that takes another's place; whenever this is cut off, one of both is there."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from miner.records import new_attempt

_LEFTOVER = re.compile(r"\.[0-9a-f]{12}\.(new|old)")


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder to be filled, which takes the target's place when the block ends well.

    Until then it is called `<name>.<attempt>.new`. The folder in whose place it comes is set aside
    as `<name>.<attempt>.old`, and removed last; where the new one cannot be put there, it comes
    back. What a killed attempt left is removed by the next one that ends well.

    Args:
        target: the folder; it need not exist.
    """
    attempt = new_attempt()
    unfinished = target.with_name(f"{target.name}.{attempt}.new")
    unfinished.mkdir(parents=True)
    lock = os.open(unfinished, os.O_RDONLY)
    try:
        # Where a filesystem has no locks, no other attempt gets one either, and removes nothing.
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_SH)
        yield unfinished
        _replace(target, unfinished, target.with_name(f"{target.name}.{attempt}.old"))
    finally:
        os.close(lock)
        shutil.rmtree(unfinished, ignore_errors=True)
    for path in leftovers(target):
        if path.suffix == ".old" or _is_abandoned(path):
            shutil.rmtree(path, ignore_errors=True)


def leftovers(target: Path) -> list[Path]:
    """Folders that attempts to replace a folder have left, or are at work on, sorted by name."""
    start = len(target.name)
    with suppress(FileNotFoundError):
        return sorted(
            path
            for path in target.parent.iterdir()
            if path.name.startswith(target.name) and _LEFTOVER.fullmatch(path.name[start:])
        )
    return []


def _replace(target: Path, new: Path, old: Path) -> None:
    is_aside = False
    with suppress(FileNotFoundError):
        target.rename(old)
        is_aside = True
    try:
        new.rename(target)
    except BaseException:
        if is_aside:
            old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _is_abandoned(unfinished: Path) -> bool:
    """Whether its process is gone, and with it the lock that it holds while it is at work."""
    try:
        folder = os.open(unfinished, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        # An empty one may be so new that its lock is still to come.
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return any(unfinished.iterdir())
    except OSError:
        return False
    finally:
        os.close(folder)
