"""Rows of `samples` by image_id, for whoever asks for a few at a time, again and again."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence

import pyarrow as pa

from miner.records import Json
from miner.store import Store

Tables = OrderedDict[tuple[int, str], tuple[pa.Table, dict[str, int]]]


class SampleLookup:
    """Keeps the tables of the shards that were asked for last; may be asked from several threads.

    Two runs may have shards, and images, of one name; so a shard is known by its run and its name.

    Args:
        runs: where to look.
        shards: of each run the shards that count.
        max_shards: tables that are kept.
    """

    def __init__(
        self, runs: Sequence[Store], shards: Sequence[Sequence[str]], *, max_shards: int = 32
    ) -> None:
        self._runs = list(runs)
        self._shards = [frozenset(ids) for ids in shards]
        self._urls = [
            {shard_id: seen["url"] for shard_id, seen in run.run()["shards"].items()}
            for run in self._runs
        ]
        self._max_shards = max_shards
        self._tables: Tables = OrderedDict()
        self._lock = threading.Lock()

    def rows(self, image_ids: Iterable[str]) -> dict[str, Json]:
        """The rows of some images, by image_id, from the first run that has each.

        Unknown images are left out. `shard` is where the shard was seen last, so that a corpus may
        move.
        """
        found: dict[str, Json] = {}
        for image_id in image_ids:
            for number in range(len(self._runs)):
                row = self.row(number, image_id)
                if row is not None:
                    found[image_id] = row
                    break
        return found

    def row(self, number: int, image_id: str) -> Json | None:
        """The row of an image of the run with this number; None where that has no such image."""
        shard_id = ".".join(image_id.split("/", 2)[:2])
        if shard_id not in self._shards[number]:
            return None
        table, places = self._table(number, shard_id)
        if image_id not in places:
            return None
        row: Json
        (row,) = table.slice(places[image_id], 1).to_pylist()
        return row | {"shard": self._urls[number].get(shard_id, row["shard"])}

    def _table(self, number: int, shard_id: str) -> tuple[pa.Table, dict[str, int]]:
        name = (number, shard_id)
        with self._lock:
            if name in self._tables:
                self._tables.move_to_end(name)
                return self._tables[name]
        # A read that hangs holds up nobody who wants another shard; two may read the same one.
        table = self._runs[number].samples(shard_id)
        ids = table["image_id"].to_pylist()
        found = table, {image_id: row for row, image_id in enumerate(ids)}
        with self._lock:
            self._tables[name] = found
            self._tables.move_to_end(name)
            if len(self._tables) > self._max_shards:
                self._tables.popitem(last=False)
        return found
