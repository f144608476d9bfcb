"""A private folder of exports and engines, each made once and known by what it was made from.

    CACHE/onnx/<digest>/        a graph and its weights
    CACHE/proven/<digest>/      an engine that was run and proven equal to its encoder
    CACHE/unproven/<digest>/    an engine that was built and never executed; nobody loads it
    CACHE/unfinished/, locks/   attempts, and who is at work

An entry is a folder with a manifest, which names its key and the sha256 of every file. It appears
whole, by a rename, under the lock of its key. Whatever does not fit (an edited manifest, a changed
file, another key) is made anew and never loaded: engines are code.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from miner.errors import EngineError, StoreError
from miner.records import Json, digest, file_sha256, new_attempt, read_record, replace_record

log = logging.getLogger(__name__)

State = Literal["onnx", "proven", "unproven"]

DEFAULT_ROOT = Path("~/.cache/blindpairs/engines")

MANIFEST = "manifest.json"

_OTHERS_MAY_WRITE = 0o022


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Something that was made and published.

    Attributes:
        folder: where its files are.
        key: everything that decided what it became.
        files: path relative to the folder, and sha256.
        facts: what was found out while it was made: deviation, nodes, ...
    """

    folder: Path
    key: Json
    files: dict[str, str]
    facts: Json


class EngineCache:
    """The folder at `root`; made when something is, for its owner alone."""

    def __init__(self, root: Path | None = None) -> None:
        """Name the cache.

        Raises:
            EngineError: others can write to the folder.
        """
        self.root = (root or DEFAULT_ROOT).expanduser().absolute()
        if not self.root.exists():
            return
        status = self.root.stat()
        if status.st_uid != os.getuid() or status.st_mode & _OTHERS_MAY_WRITE:
            raise EngineError(
                f"{self.root} belongs to user {status.st_uid} with mode "
                f"{status.st_mode & 0o777:o}, so others can put engines there, which are code; "
                f"run `chmod go-w {self.root}` if it is yours, else move it away"
            )

    def prepare(self, name: str = "") -> Path:
        """A folder in the cache, whose root is made for its owner alone, whatever the umask."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = self.root / name
        folder.mkdir(exist_ok=True)
        return folder

    def find(self, state: State, key: Mapping[str, object]) -> Entry | None:
        """What was published for a key, every hash checked; None where it has to be made."""
        folder = self.root / state / _digest(key)
        if not folder.exists():
            return None
        try:
            return _read(folder, state, key)
        except (StoreError, OSError) as error:
            log.warning("%s is made anew: %s", folder, error)
            return None

    @contextmanager
    def making(self, state: State, key: Mapping[str, object]) -> Iterator[Making]:
        """Alone with a key: look for its entry, and make it where there is none.

        A second process waits here until the first is done. What is not published when the block
        ends is removed.
        """
        name = _digest(key)
        attempt = self.root / "unfinished" / f"{name}.{new_attempt()}"
        self.prepare()
        with self._lock(state, name):
            attempt.mkdir(parents=True)
            try:
                yield Making(self, state, key, attempt)
            finally:
                shutil.rmtree(attempt, ignore_errors=True)

    def entries(self, state: State) -> list[Entry]:
        """What was published, every hash checked; damaged entries are left out, with a warning."""
        entries = []
        for folder in sorted((self.root / state).glob("*")):
            try:
                entries.append(_read(folder, state, None))
            except (StoreError, OSError) as error:
                log.warning("%s is left out: %s", folder, error)
        return entries

    def take(self, parts: Sequence[tuple[State, Path]]) -> None:
        """Publish folders that hold whole entries, where there is none of the same key.

        Args:
            parts: in this order; they lie to each other as entries of a cache do.

        Raises:
            StoreError: a hash in one of them is wrong; then none is published.
        """
        for state, folder in parts:
            _read(folder, state, None)
        for state, folder in parts:
            target = self.root / state / folder.name
            with self._lock(state, folder.name):
                if target.exists() and not self._is_whole(state, target):
                    target.rename(folder.with_suffix(".replaced"))
                if not target.exists():
                    target.parent.mkdir(exist_ok=True)
                    folder.rename(target)

    @staticmethod
    def _is_whole(state: State, folder: Path) -> bool:
        try:
            _read(folder, state, None)
        except (StoreError, OSError):
            return False
        return True

    @contextmanager
    def _lock(self, state: State, name: str) -> Iterator[None]:
        path = self.root / "locks" / f"{state}.{name}"
        path.parent.mkdir(exist_ok=True)
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            log.info("another process makes %s/%s; waiting for it", state, name)
            lock.acquire()
        try:
            yield
        finally:
            lock.release()


class Making:
    """One attempt at an entry, under the lock of its key.

    Attributes:
        folder: where its files are to be written.
    """

    def __init__(
        self, cache: EngineCache, state: State, key: Mapping[str, object], folder: Path
    ) -> None:
        self.folder = folder
        self._cache = cache
        self._state: State = state
        self._key = key

    def find(self) -> Entry | None:
        """What another process published before this one got the lock."""
        return self._cache.find(self._state, self._key)

    def publish(self, files: list[Path], facts: Json) -> Entry:
        """Make the attempt the entry of its key, in place of a damaged one.

        Args:
            files: in the attempt's folder, or in another entry's.
            facts: kept in the manifest.
        """
        # Attempts and entries lie equally deep, so that relative paths hold for both.
        names = [os.path.relpath(path, self.folder) for path in files]
        hashes = {name: file_sha256(path) for name, path in zip(names, files, strict=True)}
        manifest = {"state": self._state, "key": dict(self._key), "files": hashes, "facts": facts}
        replace_record(self.folder / MANIFEST, manifest)
        folder = self._cache.root / self._state / _digest(self._key)
        folder.parent.mkdir(exist_ok=True)
        if folder.exists():
            folder.rename(self.folder.with_suffix(".replaced"))
            shutil.rmtree(self.folder.with_suffix(".replaced"))
        self.folder.rename(folder)
        return Entry(folder=folder, key=dict(self._key), files=hashes, facts=facts)


def make(
    cache: EngineCache,
    state: State,
    key: Mapping[str, object],
    build: Callable[[Path], tuple[list[Path], Json]],
) -> Entry:
    """The entry of a key, built where there is none; eight processes build it once.

    Args:
        cache: where it is kept.
        state: onnx or unproven; a proven entry takes more than building.
        key: everything that decides what it becomes.
        build: writes files into a folder; returns them, and the facts worth keeping.
    """
    entry = cache.find(state, key)
    if entry is not None:
        return entry
    with cache.making(state, key) as making:
        return making.find() or making.publish(*build(making.folder))


def _digest(key: Mapping[str, object]) -> str:
    return digest(dict(key))[:16]


def _read(folder: Path, state: State, key: Mapping[str, object] | None) -> Entry:
    """An entry with every hash checked."""
    manifest = read_record(folder / MANIFEST)
    wanted = manifest["key"] if key is None else dict(key)
    if manifest["state"] != state or manifest["key"] != wanted or _digest(wanted) != folder.name:
        raise StoreError(f"{folder / MANIFEST} is that of another entry; remove {folder}")
    for name, sha256 in manifest["files"].items():
        path = folder / name
        if file_sha256(path) != sha256:
            raise StoreError(f"{path} has changed since it was published; remove {folder}")
    return Entry(folder=folder, key=wanted, files=manifest["files"], facts=manifest["facts"])
