"""The packed vectors of a join by way of its run's storage, for nodes that share nothing else.

A join packs its rows in a local folder. Where the run lies in a bucket, other nodes do not see that
folder: whoever hands out blocks puts a copy into the bucket, and each node fetches it once.
"""

from __future__ import annotations

import mmap
import shutil
from collections.abc import Sequence
from dataclasses import replace

from filelock import FileLock

from miner.packs import PackedVectors
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


def nearby(store: Store, join: str, pack: PackedVectors) -> PackedVectors:
    """The same vectors in a folder that this node sees; fetched where they are not there yet.

    Raises:
        StoreError: they are neither here nor in the run's storage.
    """
    if pack.lie_there() or store.is_local:
        return pack
    here = replace(pack, folder=store.scratch / "fetched" / digest(pack.content)[:16])
    here.folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{here.folder}.lock"):
        if here.lie_there():
            return here
        place = _place(join, pack)
        if not store.files.exists(f"{place}/pack.json"):
            return pack
        # Of earlier joins; a worker that still reads one keeps what it has mapped.
        for old in here.folder.parent.iterdir():
            if old.is_dir():
                shutil.rmtree(old, ignore_errors=True)
        here.folder.mkdir()
        for name in pack.files:
            with (
                store.files.open(f"{place}/{name}") as source,
                (here.folder / name).open("wb") as to,
            ):
                while data := source.read(FETCH_BYTES):
                    to.write(data)
        replace_json(here.folder / "pack.json", pack.content)
    return here


def delete_copies(store: Store, join: str) -> None:
    """Remove what `put_copies` put."""
    if not store.is_local:
        store.files.delete_folder(f"packed/{join}")


def _place(join: str, pack: PackedVectors) -> str:
    return f"packed/{join}/{digest(pack.content)[:16]}"
