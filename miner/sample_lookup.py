"""Rows of `samples` by image_id, for whoever asks for a few at a time, again and again."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence

import pyarrow as pa

from miner.records import Json
from miner.store import Store


class SampleLookup:
    """Keeps the tables of the shards that were asked for last; may be asked from several threads.

    Args:
        runs: where to look.
        shards: of each run the shards that count.
        max_shards: tables that are kept.
    """

    def __init__(
        self, runs: Sequence[Store], shards: Sequence[Sequence[str]], *, max_shards: int = 32
    ) -> None:
        self._run_of = {
            shard_id: run for run, ids in zip(runs, shards, strict=True) for shard_id in ids
        }
        self._urls = {
            shard_id: seen["url"] for run in runs for shard_id, seen in run.run()["shards"].items()
        }
        self._max_shards = max_shards
        self._tables: OrderedDict[str, tuple[pa.Table, dict[str, int]]] = OrderedDict()
        self._lock = threading.Lock()

    def rows(self, image_ids: Iterable[str]) -> dict[str, Json]:
        """The rows of some images, by image_id; unknown ones are left out.

        Their `shard` is where the shard was seen last, so that a corpus may move.
        """
        found: dict[str, Json] = {}
        with self._lock:
            for image_id in image_ids:
                shard_id = ".".join(image_id.split("/", 2)[:2])
                if shard_id not in self._run_of:
                    continue
                table, places = self._table(shard_id)
                if image_id in places:
                    (row,) = table.slice(places[image_id], 1).to_pylist()
                    found[image_id] = row | {"shard": self._urls.get(shard_id, row["shard"])}
        return found

    def _table(self, shard_id: str) -> tuple[pa.Table, dict[str, int]]:
        if shard_id not in self._tables:
            table = self._run_of[shard_id].samples(shard_id)
            ids = table["image_id"].to_pylist()
            self._tables[shard_id] = table, {name: row for row, name in enumerate(ids)}
            if len(self._tables) > self._max_shards:
                self._tables.popitem(last=False)
        self._tables.move_to_end(shard_id)
        return self._tables[shard_id]
