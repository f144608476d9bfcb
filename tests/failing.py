"""A run's storage of which the k-th operation goes wrong: a second storage, not a patched one.

store = Store(root, files=FailingFiles(LocalFiles(root), k, "EIO"))
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, TypeVar

import pyarrow as pa

from miner.errors import StoreError
from miner.files import Bytes, Change, Entry, Files

T = TypeVar("T")

How = Literal["ENOSPC", "EIO", "503", "timeout", "timeout after success"]

HOWS: tuple[How, ...] = ("ENOSPC", "EIO", "503", "timeout", "timeout after success")


class FailingFiles:
    """Another storage, and one operation of it that fails.

    Attributes:
        num_done: operations so far, the failed one too.
        failed: the name of the operation that failed, once it has.
    """

    def __init__(self, files: Files, k: int, how: How) -> None:
        """Wrap a storage.

        Args:
            files: what does the work.
            k: which operation fails, from 1; 0 for none.
            how: `timeout after success` does what was asked first.
        """
        self._files, self._k, self._how = files, k, how
        self.num_done = 0
        self.failed: str | None = None

    def _do(self, name: str, action: Callable[[], T]) -> T:
        self.num_done += 1
        if self.num_done != self._k:
            return action()
        self.failed = name
        if self._how == "timeout after success":
            action()
        raise self._error()

    def _error(self) -> Exception:
        if self._how in ("ENOSPC", "EIO"):
            number = getattr(errno, self._how)
            return OSError(number, os.strerror(number))
        if self._how == "503":
            return StoreError("503 Service Unavailable, after 6 retries")
        return TimeoutError("no answer came in time")

    @property
    def address(self) -> str:
        return self._files.address

    def read(self, path: str) -> bytes:
        return self._do("read", lambda: self._files.read(path))

    def read_many(self, paths: Iterable[str]) -> Iterator[bytes]:
        return map(self.read, paths)

    def open(self, path: str) -> pa.NativeFile:
        return self._do("open", lambda: self._files.open(path))

    def sha256(self, path: str) -> str:
        return self._do("sha256", lambda: self._files.sha256(path))

    def exists(self, path: str) -> bool:
        return self._do("exists", lambda: self._files.exists(path))

    def below(self, folder: str) -> list[Entry]:
        return self._do("below", lambda: self._files.below(folder))

    def names(self, folder: str) -> list[str]:
        return self._do("names", lambda: self._files.names(folder))

    def put(self, path: str, data: Bytes) -> bool:
        return self._do("put", lambda: self._files.put(path, data))

    def write(self, path: str, data: Bytes) -> None:
        self._do("write", lambda: self._files.write(path, data))

    def update(self, path: str, change: Change) -> None:
        self._do("update", lambda: self._files.update(path, change))

    def append(self, path: str, line: str) -> None:
        self._do("append", lambda: self._files.append(path, line))

    def delete(self, path: str, *, prune: bool = False) -> None:
        self._do("delete", lambda: self._files.delete(path, prune=prune))

    def delete_folder(self, folder: str) -> None:
        self._do("delete_folder", lambda: self._files.delete_folder(folder))

    def move_folder(self, source: str, target: str) -> None:
        self._do("move_folder", lambda: self._files.move_folder(source, target))

    @contextmanager
    def new_folder(self, folder: str) -> Iterator[Path]:
        with self._files.new_folder(folder) as local:
            yield local
            if self._how != "timeout after success":
                self._do("new_folder", lambda: None)
        if self._how == "timeout after success":
            self._do("new_folder", lambda: None)
