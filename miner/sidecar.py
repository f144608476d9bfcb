"""The Parquet table that img2dataset writes beside a tar: its rows, by key.

It is as hostile as the tar: a few kilobytes of it may stand for a thousand million rows. So it is
read in pieces whose size is known beforehand, kept as Arrow holds it, and only the rows that are
asked for become Python values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from io import BytesIO

import pyarrow as pa
import pyarrow.parquet as pq

from miner.arrow_values import UNREADABLE, value_of
from miner.metadata import clean_text

MAX_SIDECAR_BYTES = 2**28
"""Largest table that is loaded, in bytes: as a file, before compression, and in memory."""

MAX_SIDECAR_VALUES = 20_000_000
"""Most values of a table that is loaded, over all columns."""

_BATCH_BYTES = 2**26
"""What a piece may hold, in bytes, if all of its rows were as long as the longest one can be."""

_BATCH_ROWS = 10_000


@dataclass
class Sidecar:
    """The rows of a sidecar table.

    The table also lists images that were never fetched, and in another order than the tar, so
    that rows are found by the column `key` only. A table that cannot be used leaves a note, a value
    that cannot be read costs its field.
    """

    data: bytes
    notes: list[str] = field(default_factory=list)

    def row(self, key: str) -> Mapping[str, object] | None:
        """The fields of a key, or None."""
        place = self._places.get(key)
        if place is None:
            return None
        batch, row = place
        names = batch.schema.names
        values = {name: batch.column(at)[row] for at, name in enumerate(names) if name != "key"}
        return {name: value_of(scalar) for name, scalar in values.items()}

    @cached_property
    def _places(self) -> dict[str, tuple[pa.RecordBatch, int]]:
        """Where the first row of each key is."""
        places: dict[str, tuple[pa.RecordBatch, int]] = {}
        num_rows = 0
        try:
            for batch in self._batches():
                for row, key in enumerate(batch.column("key").to_pylist()):
                    places.setdefault(str(key), (batch, row))
                num_rows += batch.num_rows
        except UNREADABLE as error:
            self.notes.append(f"sidecar not read: {clean_text(str(error), 200)}")
            return {}
        if len(places) < num_rows:
            repeated = num_rows - len(places)
            self.notes.append(f"sidecar: {repeated} rows repeat a key; the first one counts")
        return places

    def _batches(self) -> Iterator[pa.RecordBatch]:
        """The table in pieces.

        Raises:
            ValueError: it is too large, or has no keys.
        """
        file = pq.ParquetFile(BytesIO(self.data))
        info = file.metadata
        # Not by columns: at a broken one pyarrow ends the process.
        groups = [info.row_group(at).total_byte_size for at in range(info.num_row_groups)]
        _check("bytes", sum(groups))
        _check("values", info.num_rows * info.num_columns)
        flat = [each.name for each in file.schema_arrow if not pa.types.is_nested(each.type)]
        if flat.count("key") != 1:
            raise ValueError("it has no column `key`, or several")
        if len(flat) < len(file.schema_arrow):
            # A row of one may hold any number of values.
            self.notes.append("sidecar: columns of lists, maps and structs are not read")
        # A dictionary's value may stand in every row.
        num_rows = min(max(_BATCH_BYTES // max([*groups, 1]), 1), _BATCH_ROWS)
        num_bytes = 0
        for batch in file.iter_batches(num_rows, columns=flat, use_threads=False):
            num_bytes += batch.nbytes
            _check("bytes", num_bytes)
            yield batch


def _check(what: str, number: int) -> None:
    limit = {"bytes": MAX_SIDECAR_BYTES, "values": MAX_SIDECAR_VALUES}[what]
    if number > limit:
        raise ValueError(f"{number} {what}, limit {limit}")
