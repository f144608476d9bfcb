"""The tables of a join, put in the place of an older join's."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict

import pyarrow as pa

from miner.records import Json, new_attempt
from miner.store import Store

PART_ROWS = 1_000_000
"""Rows of `raw` to a part."""


def publish(
    store: Store, name: str, parts: Iterable[pa.Table], histogram: pa.Table, record: Json
) -> Json:
    """Replace a join's tables and record.

    The record goes first and comes back last, so that it never names a mixture of two joins. The
    caller holds the join's lock.

    Args:
        store: the run directory.
        name: the join's.
        parts: the parts of `raw`, one at least.
        histogram: the table `histogram`.
        record: what join.json says besides its files.

    Returns:
        The record with the files it names.
    """
    base = f"pairs/{name}"
    attempt = f"raw.{new_attempt()}"
    files = []
    for part, table in enumerate(parts):
        part_name = f"part-{part:05d}.parquet"
        entry = store.write_table(table, f"{base}/{attempt}", part_name)
        files.append({**asdict(entry), "path": f"{base}/raw/{part_name}"})
    for stale in ("join.json", "selected.parquet"):
        store.files.delete(f"{base}/{stale}")
    for stale in ("raw", "report"):
        store.files.delete_folder(f"{base}/{stale}")
    store.files.move_folder(f"{base}/{attempt}", f"{base}/raw")
    files.append(asdict(store.write_table(histogram, base, "histogram.parquet")))
    record = {**record, "files": files}
    store.replace_record(f"{base}/join.json", record)
    return record
