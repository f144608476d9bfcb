"""Where a run's files lie: what a run needs of storage, and that on a local folder.

Paths are relative to the run, with `/`. Two kinds of storage have these functions: `LocalFiles`
here, and `miner.object_files.ObjectFiles` on S3 and Google Cloud Storage. Both promise:

    put      of several writers of one path one wins; a reader sees all of its bytes or no file
    write    a reader sees the old bytes or the new, never a part of them
    update   no change of another writer is lost
    all      what a call that has returned wrote outlives the machine that wrote it
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pyarrow as pa
from filelock import FileLock

from miner.errors import StoreError
from miner.folders import new_folder
from miner.records import file_sha256, flush_to_disk, write_beside, write_whole

Bytes = bytes | memoryview

Change = Callable[[bytes | None], bytes | None]
"""From the bytes of a file (None: there is none) to those in their place (None: leave it)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A file in a listing.

    Attributes:
        path: relative to the run.
        num_bytes: its size.
        modified: when it was written, in seconds, by the storage's clock.
        version: differs from that of another file that lay at this path before.
    """

    path: str
    num_bytes: int
    modified: float
    version: str


class Files(Protocol):
    """What a run needs of storage.

    A file that is not there is a FileNotFoundError. Whatever else goes wrong is an OSError, or a
    MinerError that says what to do.
    """

    @property
    def address(self) -> str:
        """The run's folder, as an absolute path or a URL."""

    def read(self, path: str) -> bytes:
        """A file's bytes."""

    def read_many(self, paths: Iterable[str]) -> Iterator[bytes]:
        """The bytes of many small files, in their order."""

    def open(self, path: str) -> pa.NativeFile:
        """A file to read parts of."""

    def sha256(self, path: str) -> str:
        """Hex sha256 of a file."""

    def exists(self, path: str) -> bool:
        """Whether there is such a file."""

    def below(self, folder: str) -> list[Entry]:
        """All files below a folder, sorted by path; none where there is no such folder."""

    def names(self, folder: str) -> list[str]:
        """What lies directly in a folder, files and folders, sorted."""

    def put(self, path: str, data: Bytes) -> bool:
        """Write a file unless there is one; whether this call wrote it."""

    def write(self, path: str, data: Bytes) -> None:
        """Write a file whole, in the place of an older one."""

    def update(self, path: str, change: Change) -> None:
        """Replace a file by what `change` makes of it; it may be asked again."""

    def append(self, path: str, line: str) -> None:
        """Add a line to a file, or to the files that together stand for it."""

    def delete(self, path: str, *, prune: bool = False) -> None:
        """Remove a file, if it is there; `prune` folders, too, that are empty without it."""

    def delete_folder(self, folder: str) -> None:
        """Remove a folder with all that lies in it, if it is there."""

    def move_folder(self, source: str, target: str) -> None:
        """Give a folder another name, under which there is nothing."""

    def new_folder(self, folder: str) -> AbstractContextManager[Path]:
        """A local folder to be filled; it takes the place of `folder` when the block ends well."""


def put_own(files: Files, path: str, data: bytes) -> bool:
    """Write a file unless another writer did, even where the storage's answer is lost.

    A call may fail, or say that the file is there already, although it was this very call (or the
    storage's own second try) that wrote it. So the file is read back and known by its bytes.

    Args:
        files: the storage.
        path: where to.
        data: bytes that no other writer writes, as a record that names an attempt's own files.

    Returns:
        Whether the file holds these bytes.
    """
    while True:
        lost: Exception | None = None
        try:
            if files.put(path, data):
                return True
        except (OSError, StoreError) as error:
            lost = error
        try:
            return files.read(path) == data
        except FileNotFoundError:
            # It was refused, and taken back before it could be read: there is room again.
            if lost is not None:
                raise lost from None


class LocalFiles:
    """A local folder, or one on a shared filesystem with hard links and locks."""

    def __init__(self, root: Path) -> None:
        """Take a folder; it need not exist yet."""
        self.root = root

    @property
    def address(self) -> str:
        """See `Files`."""
        return str(self.root.resolve())

    def read(self, path: str) -> bytes:
        """See `Files`."""
        return (self.root / path).read_bytes()

    def read_many(self, paths: Iterable[str]) -> Iterator[bytes]:
        """See `Files`."""
        return map(self.read, paths)

    def open(self, path: str) -> pa.NativeFile:
        """See `Files`."""
        return pa.OSFile(str(self.root / path))

    def sha256(self, path: str) -> str:
        """See `Files`."""
        return file_sha256(self.root / path)

    def exists(self, path: str) -> bool:
        """See `Files`."""
        return (self.root / path).is_file()

    def below(self, folder: str) -> list[Entry]:
        """See `Files`."""
        return sorted(self._below(self.root / folder), key=lambda entry: entry.path)

    def _below(self, folder: Path) -> Iterator[Entry]:
        for parent, _, names in os.walk(folder):
            for name in names:
                path = Path(parent) / name
                try:
                    status = path.stat()
                except FileNotFoundError:
                    # Another process renamed or removed it since the folder was read.
                    continue
                yield Entry(
                    path=path.relative_to(self.root).as_posix(),
                    num_bytes=status.st_size,
                    modified=status.st_mtime,
                    version=f"{status.st_ino}-{status.st_mtime_ns}",
                )

    def names(self, folder: str) -> list[str]:
        """See `Files`."""
        try:
            return sorted(os.listdir(self.root / folder))
        except FileNotFoundError:
            return []

    def put(self, path: str, data: Bytes) -> bool:
        """See `Files`."""
        unfinished = write_beside(self.root / path, data)
        try:
            # A link either appears whole or fails; a rename would overwrite the winner.
            os.link(unfinished, self.root / path)
        except FileExistsError:
            return False
        finally:
            unfinished.unlink()
        flush_to_disk((self.root / path).parent)
        return True

    def write(self, path: str, data: Bytes) -> None:
        """See `Files`."""
        write_whole(self.root / path, data)

    def update(self, path: str, change: Change) -> None:
        """See `Files`."""
        locks = self.root / ".locks"
        locks.mkdir(parents=True, exist_ok=True)
        with FileLock(locks / f"{path.replace('/', '~')}.lock"):
            new = change(self.read(path) if self.exists(path) else None)
            if new is not None:
                self.write(path, new)

    def append(self, path: str, line: str) -> None:
        """See `Files`."""
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        with (self.root / path).open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def delete(self, path: str, *, prune: bool = False) -> None:
        """See `Files`."""
        (self.root / path).unlink(missing_ok=True)
        for folder in (self.root / path).parents if prune else ():
            if folder == self.root or any(folder.iterdir()):
                return
            folder.rmdir()

    def delete_folder(self, folder: str) -> None:
        """See `Files`."""
        while (self.root / folder).exists():
            # Another process may remove the same files meanwhile.
            with suppress(FileNotFoundError):
                shutil.rmtree(self.root / folder)

    def move_folder(self, source: str, target: str) -> None:
        """See `Files`."""
        (self.root / source).rename(self.root / target)

    def new_folder(self, folder: str) -> AbstractContextManager[Path]:
        """See `Files`."""
        return new_folder(self.root / folder)
