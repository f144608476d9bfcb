"""The tables of a run: rows and vectors to Parquet, and back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from miner import schema
from miner.records import Json


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """A file that a commit record names: path relative to the run, rows, sha256 (hex)."""

    path: str
    rows: int
    sha256: str


def table_of(rows: list[Json], table_schema: pa.Schema) -> pa.Table:
    """Rows (dicts) as a table of a schema."""
    return pa.Table.from_pylist(rows, schema=table_schema)


def vector_table(image_ids: list[str], vectors_ND: np.ndarray) -> pa.Table:
    """Image ids [N] and vectors [N, D] as the table that the store keeps (float16)."""
    num_rows, dim = vectors_ND.shape
    flat = pa.array(np.ascontiguousarray(vectors_ND, dtype=np.float16).reshape(-1))
    target = schema.vectors(dim)
    vectors = pa.FixedSizeListArray.from_arrays(flat, type=target.field("vector").type)
    assert len(vectors) == num_rows
    return pa.Table.from_arrays([pa.array(image_ids, pa.string()), vectors], schema=target)


def vectors_of(table: pa.Table) -> np.ndarray:
    """The vectors [N, D] float16 of a table that the store kept."""
    column = table["vector"].combine_chunks()
    dim = table.schema.field("vector").type.list_size
    vectors_ND: np.ndarray = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, dim)
    return vectors_ND


def encode_table(table: pa.Table) -> memoryview:
    """A table as the bytes of a Parquet file; vectors are stored plain, so that reading is fast."""
    is_vectors = "vector" in table.column_names
    sink = pa.BufferOutputStream()
    pq.write_table(
        table,
        sink,
        compression="none" if is_vectors else "zstd",
        use_dictionary=not is_vectors,
        column_encoding={"vector.list.element": "PLAIN"} if is_vectors else None,
    )
    return memoryview(sink.getvalue()).cast("B")
