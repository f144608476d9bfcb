"""The packed vectors of a join by way of its run's storage, for nodes that share nothing else.

A join packs its rows in a local folder. Where the run lies in a bucket, other nodes do not see that
folder: whoever hands out blocks puts a copy into the bucket, and each node fetches it once.
"""

from __future__ import annotations

import fcntl
import mmap
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TextIO

from filelock import FileLock

from miner.packed_vectors import PackedVectors
from miner.records import digest, encode_json, replace_json
from miner.store import Store

FETCH_BYTES = 64 * 2**20
"""What is read of a copy at once."""


def put_copies(store: Store, join: str, packs: Sequence[PackedVectors]) -> None:
    """Put the vectors of a join where every node can fetch them; on a shared folder they are there.

    Args:
        store: the run.
        join: the join's name.
        packs: its packs.
    """
    if store.is_local:
        return
    for pack in packs:
        place = _place(join, pack)
        # Put last, so that who finds it finds the rest.
        if store.files.exists(f"{place}/pack.json"):
            continue
        for name in pack.files:
            with (
                (pack.folder / name).open("rb") as file,
                mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
                memoryview(mapped) as data,
            ):
                store.files.write(f"{place}/{name}", data)
        store.files.write(f"{place}/pack.json", encode_json(pack.content))


class Copy:
    """A pack's vectors in a folder that this node sees, held until `close`.

    Attributes:
        pack: where they are.
    """

    def __init__(
        self, store: Store, join: str, pack: PackedVectors, scratch: Path | None = None
    ) -> None:
        """Find the vectors, or fetch them where they are not there yet.

        Args:
            store: the run.
            join: the join's name.
            pack: as the driver knows it.
            scratch: a local folder of this node's; default: the run's own.
        """
        self.pack, self._lock = pack, None
        if pack.lie_there() or store.is_local:
            return
        base = store.scratch if scratch is None else scratch / store.identity
        folder = base / "fetched" / digest(pack.content)[:16]
        folder.parent.mkdir(parents=True, exist_ok=True)
        _sweep(folder.parent)
        self.pack = replace(pack, folder=folder)
        # Shared by all who read the copy; who removes one wants it for himself.
        self._lock = Path(f"{folder}.lock").open("w")  # noqa: SIM115, it is held until `close`
        fcntl.flock(self._lock, fcntl.LOCK_SH)
        with FileLock(f"{folder}.fetching"):
            if not self.pack.lie_there() and not _fetch(store, _place(join, pack), self.pack):
                self.pack = pack

    def close(self) -> None:
        """Remove the copy, unless somebody else reads it too."""
        if self._lock is not None:
            _remove_unread(self._lock, self.pack.folder)
            self._lock.close()


def _fetch(store: Store, place: str, here: PackedVectors) -> bool:
    """Fetch a copy; whether there is one."""
    if not store.files.exists(f"{place}/pack.json"):
        return False
    shutil.rmtree(here.folder, ignore_errors=True)
    here.folder.mkdir()
    for name in here.files:
        target = here.folder / name
        with store.files.open(f"{place}/{name}") as source, target.open("wb") as to:
            while data := source.read(FETCH_BYTES):
                to.write(data)
    replace_json(here.folder / "pack.json", here.content)
    return True


def _sweep(folder: Path) -> None:
    """Remove what workers left that were killed."""
    for copy in folder.iterdir():
        if copy.is_dir():
            with Path(f"{copy}.lock").open("w") as lock:
                _remove_unread(lock, copy)


def _remove_unread(lock: TextIO, copy: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    shutil.rmtree(copy, ignore_errors=True)


def delete_copies(store: Store, join: str) -> None:
    """Remove what `put_copies` put."""
    if not store.is_local:
        store.files.delete_folder(f"packed/{join}")


def _place(join: str, pack: PackedVectors) -> str:
    return f"packed/{join}/{digest(pack.content)[:16]}"
