"""The tables of a join, put in the place of an older join's."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa

from miner.records import Json, new_attempt, replace_record
from miner.store import Store

PART_ROWS = 1_000_000
"""Rows of `raw` to a part."""


def publish(
    store: Store, folder: Path, parts: Iterable[pa.Table], histogram: pa.Table, record: Json
) -> Json:
    """Replace a join's tables and record.

    The record goes first and comes back last, so that it never names a mixture of two joins. The
    caller holds the join's lock.

    Args:
        store: the run directory.
        folder: the join's folder.
        parts: the parts of `raw`, one at least.
        histogram: the table `histogram`.
        record: what join.json says besides its files.

    Returns:
        The record with the files it names.
    """
    base = folder.relative_to(store.root).as_posix()
    attempt = f"raw.{new_attempt()}"
    files = []
    for part, table in enumerate(parts):
        name = f"part-{part:05d}.parquet"
        entry = store.write_table(table, f"{base}/{attempt}", name)
        files.append({**asdict(entry), "path": f"{base}/raw/{name}"})
    for stale in ("join.json", "selected.parquet"):
        (folder / stale).unlink(missing_ok=True)
    for stale in ("raw", "report"):
        shutil.rmtree(folder / stale, ignore_errors=True)
    (folder / attempt).rename(folder / "raw")
    files.append(asdict(store.write_table(histogram, base, "histogram.parquet")))
    record = {**record, "files": files}
    replace_record(folder / "join.json", record)
    return record
