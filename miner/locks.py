"""Who is at work on a run: locks for what is replaced, and writers whom nobody takes for dead."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from filelock import FileLock


class Locks(Protocol):
    """What keeps processes that work on one run out of each other's way."""

    def lock(self, name: str) -> AbstractContextManager[object]:
        """A lock for what is replaced and not put once, as a join's tables; waits for it."""

    def writing(self) -> AbstractContextManager[None]:
        """Held by everyone who writes, so that nobody takes an attempt at work for a dead one."""

    def alone(self) -> AbstractContextManager[bool]:
        """Whether nobody writes; while the block runs, nobody begins to."""

    def is_written(self) -> bool:
        """Whether somebody writes at this moment."""

    def check(self) -> None:
        """Raise where this process was taken for dead while it wrote (never, of local locks)."""


class LocalLocks:
    """Locks of the operating system; they end with the process that holds them."""

    def __init__(self, root: Path) -> None:
        """Take a run's folder."""
        self._folder = root / ".locks"

    def lock(self, name: str) -> FileLock:
        """See `Locks`."""
        return FileLock(self._path(f"{name}.lock"))

    @contextmanager
    def writing(self) -> Iterator[None]:
        """See `Locks`."""
        with self._path("writers").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            yield

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """See `Locks`."""
        with self._path("writers").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True

    def is_written(self) -> bool:
        """See `Locks`; a folder that may only be read is looked at, too."""
        try:
            with (self._folder / "writers").open("r") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    def check(self) -> None:
        """See `Locks`."""

    def _path(self, name: str) -> Path:
        self._folder.mkdir(parents=True, exist_ok=True)
        return self._folder / name
