"""A run's files as objects in a bucket: what `miner.files` promises, without links and renames.

`put` is a conditional request that the storage itself decides; `update` is compare-and-swap. An
object is whole or not there. A folder of objects cannot be renamed at once: it is copied file by
file, so whoever moves one removes the record that names its files first and puts it back last.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import BufferedReader
from itertools import islice
from pathlib import Path
from random import random
from typing import TYPE_CHECKING, Any

import obstore
import pyarrow as pa
from obstore.exceptions import AlreadyExistsError, PreconditionError

from miner.errors import StoreError
from miner.files import Bytes, Change, Entry
from miner.object_reader import ObjectFile, ObjectReader
from miner.objects import explained, open_bucket
from miner.records import new_attempt

if TYPE_CHECKING:
    from obstore import ObjectMeta

WHOLE_BYTES = 16 * 2**20
"""A table up to this size is read by one request; of a larger one, what is wanted."""

MAX_READERS = 64
"""Requests for small files that are under way at once."""

MAX_WRITERS = 16
"""Files of a folder that are uploaded, or copied, at once."""

MARK = "attempt"
"""The metadata of an object that says which attempt wrote it."""

MAX_SWAPS = 200
"""How often an update is tried where other writers are faster each time."""


LEAST_PART_BYTES = 5 * 2**20
"""What storage takes as a part of an object, at least."""

MOST_PARTS = 9000
"""Parts of an object; S3 takes 10,000."""


def part_bytes(num_bytes: int) -> int:
    """The size of the parts in which so many bytes are uploaded."""
    return max(LEAST_PART_BYTES, -(-num_bytes // MOST_PARTS))


class ObjectFiles:
    """A folder in a bucket."""

    def __init__(self, url: str) -> None:
        """Take a folder, as `s3://bucket/run`; it need not exist yet, the bucket has to."""
        self._url = url.rstrip("/")
        self._bucket = open_bucket(self._url)

    @property
    def address(self) -> str:
        """See `Files`."""
        return self._url

    def _explained(self, path: str) -> Any:
        return explained(f"{self._url}/{path}".rstrip("/"), StoreError)

    def read(self, path: str) -> bytes:
        """See `Files`."""
        with self._explained(path):
            return bytes(obstore.get(self._bucket, path).bytes())

    def read_many(self, paths: Iterable[str]) -> Iterator[bytes]:
        """See `Files`."""
        left = iter(paths)
        with ThreadPoolExecutor(MAX_READERS) as pool:
            while some := list(islice(left, 8 * MAX_READERS)):
                yield from pool.map(self.read, some)

    def open(self, path: str) -> pa.NativeFile:
        """See `Files`."""
        with self._explained(path):
            found = obstore.get(self._bucket, path)
            if found.meta["size"] <= WHOLE_BYTES:
                return pa.BufferReader(bytes(found.bytes()))
            reader = ObjectReader(self._bucket, path, f"{self._url}/{path}")
        return pa.PythonFile(BufferedReader(ObjectFile(reader), 2**20), mode="r")

    def sha256(self, path: str) -> str:
        """See `Files`."""
        digest = hashlib.sha256()
        with self._explained(path):
            reader = ObjectReader(self._bucket, path, f"{self._url}/{path}")
        for start in range(0, reader.num_bytes, WHOLE_BYTES):
            digest.update(reader.read(start, WHOLE_BYTES))
        return digest.hexdigest()

    def exists(self, path: str) -> bool:
        """See `Files`."""
        try:
            with self._explained(path):
                obstore.head(self._bucket, path)
        except FileNotFoundError:
            return False
        return True

    def below(self, folder: str) -> list[Entry]:
        """See `Files`."""
        with self._explained(folder):
            chunks = obstore.list(self._bucket, prefix=folder or None, chunk_size=1000)
            entries = [_entry(meta) for chunk in chunks for meta in chunk]
        return sorted(entries, key=lambda entry: entry.path)

    def names(self, folder: str) -> list[str]:
        """See `Files`."""
        with self._explained(folder):
            found = obstore.list_with_delimiter(self._bucket, prefix=folder or None)
        paths = [*found["common_prefixes"], *(meta["path"] for meta in found["objects"])]
        return sorted(path.rpartition("/")[2] for path in paths)

    def put(self, path: str, data: Bytes) -> bool:
        """See `Files`."""
        try:
            with self._explained(path):
                obstore.put(self._bucket, path, data, mode="create")
        except AlreadyExistsError:
            return False
        return True

    def write(self, path: str, data: Bytes) -> None:
        """See `Files`."""
        with self._explained(path):
            obstore.put(self._bucket, path, data, chunk_size=part_bytes(len(data)))

    def _upload(self, path: str, local: Path) -> None:
        with self._explained(path):
            size = part_bytes(local.stat().st_size)
            obstore.put(self._bucket, path, local, chunk_size=size)

    def update(self, path: str, change: Change) -> None:
        """See `Files`."""
        for attempt in range(MAX_SWAPS):
            try:
                with self._explained(path):
                    found = obstore.get(self._bucket, path)
                    old: bytes | None = bytes(found.bytes())
            except FileNotFoundError:
                old = None
            new = change(old)
            if new is None or self._swapped(path, new, None if old is None else found.meta):
                return
            # Spread, so that of many writers each has its turn.
            time.sleep(random() * min(0.02 * 2**attempt, 1))
        raise StoreError(
            f"{self._url}/{path}: other writers replaced it {MAX_SWAPS} times while this one tried "
            "to; run the same command again"
        )

    def _swapped(self, path: str, new: bytes, seen: ObjectMeta | None) -> bool:
        """Whether what was seen of a file was replaced by other bytes."""
        mode: Any = "create"
        if seen is not None:
            mode = {name: seen[name] for name in ("e_tag", "version") if seen[name]}
        # Others may write the same bytes, so that a lost answer needs a mark of its own.
        mark = new_attempt()
        try:
            with self._explained(path):
                obstore.put(self._bucket, path, new, mode=mode, attributes={MARK: mark})
        except (AlreadyExistsError, PreconditionError, FileNotFoundError):
            # The storage's own second try finds what the first one wrote.
            return self._mark(path) == mark
        except StoreError:
            if self._mark(path) != mark:
                raise
        return True

    def _mark(self, path: str) -> str | None:
        """What the last update of a file marked it with."""
        try:
            with self._explained(path):
                return obstore.get(self._bucket, path).attributes.get(MARK)
        except FileNotFoundError:
            return None

    def append(self, path: str, line: str) -> None:
        """Write a line as a file of its own beside `path`, since objects do not grow."""
        stem, _, suffix = path.rpartition(".")
        self.write(f"{stem}.{new_attempt()}.{suffix}", f"{line}\n".encode())

    def delete(self, path: str, *, prune: bool = False) -> None:
        """See `Files`; there are no empty folders that could be left."""
        self._delete([path])

    def delete_folder(self, folder: str) -> None:
        """See `Files`."""
        self._delete([entry.path for entry in self.below(folder)])

    def _delete(self, paths: list[str]) -> None:
        try:
            with self._explained(paths[0] if paths else ""):
                if paths:
                    obstore.delete(self._bucket, paths)
        except FileNotFoundError:
            # Some kinds of storage say so, and may have stopped there.
            if len(paths) > 1:
                for path in paths:
                    self._delete([path])

    def move_folder(self, source: str, target: str) -> None:
        """Copy a folder's files within the storage, and remove them then."""
        paths = [entry.path for entry in self.below(source)]
        targets = [target + path.removeprefix(source) for path in paths]
        with ThreadPoolExecutor(MAX_WRITERS) as pool:
            list(pool.map(self._copy, paths, targets))
        self._delete(paths)

    def _copy(self, path: str, target: str) -> None:
        with self._explained(path):
            obstore.copy(self._bucket, path, target)

    @contextmanager
    def new_folder(self, folder: str) -> Iterator[Path]:
        """See `Files`; a reader may see it half replaced, for as long as that takes."""
        local = Path(tempfile.mkdtemp(prefix="blindpairs-"))
        try:
            yield local
            self.delete_folder(folder)
            paths = sorted(path for path in local.rglob("*") if path.is_file())
            names = [f"{folder}/{path.relative_to(local).as_posix()}" for path in paths]
            with ThreadPoolExecutor(MAX_WRITERS) as pool:
                list(pool.map(self._upload, names, paths))
        finally:
            shutil.rmtree(local, ignore_errors=True)


def _entry(meta: ObjectMeta) -> Entry:
    modified = meta["last_modified"].timestamp()
    return Entry(
        path=meta["path"],
        num_bytes=meta["size"],
        modified=modified,
        version=f"{meta['version'] or meta['e_tag']}-{modified}",
    )
