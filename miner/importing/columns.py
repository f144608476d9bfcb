"""Columns of other people's tables: which one holds ids, which vectors, and what they say."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from miner.arrow_values import value_of
from miner.errors import StoreError
from miner.importing.embedding_files import CHUNK_ROWS, UNREADABLE, is_list, open_parquet, schema_of
from miner.records import Json

ID_COLUMNS = ("image_id", "key", "id", "image_path", "path", "filename", "url")
"""Columns by which an image is known, the best first, in any case."""

VECTOR_COLUMNS = ("vector", "embedding", "embeddings", "image_embedding", "clip_embedding", "emb")
"""Columns that hold vectors, the likeliest first, in any case."""


def id_column_of(path: Path, wanted: str | None) -> str:
    """The column of ids, which has to be text or whole numbers."""
    schema = schema_of(path)
    name = _column_called(path, schema, wanted, ID_COLUMNS, "ids", "--id-column")
    kind = schema.field(name).type
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    if pa.types.is_dictionary(kind):
        is_text = pa.types.is_string(kind.value_type) or pa.types.is_large_string(kind.value_type)
    if not (is_text or pa.types.is_integer(kind)):
        raise StoreError(
            f"{path}: its column {name} is {kind}; ids are text or whole numbers (--id-column, or "
            "--by-position where row numbers are ids)"
        )
    return name


def vector_column_of(path: Path, wanted: str | None) -> str:
    """The column of vectors: the only one of lists, or one of the usual names."""
    schema = schema_of(path)
    lists = [each.name for each in schema if is_list(each.type)]
    if wanted is None and len(lists) == 1:
        return str(lists[0])
    return _column_called(path, schema, wanted, VECTOR_COLUMNS, "vectors", "--vector-column")


def _column_called(
    path: Path, schema: pa.Schema, wanted: str | None, usual: Sequence[str], what: str, option: str
) -> str:
    by_lower = {name.lower(): name for name in sorted(schema.names, reverse=True)}
    names = [name for name in schema.names if name == wanted]
    if wanted is None:
        names = [by_lower[name] for name in usual if name in by_lower]
    if not names or schema.names.count(names[0]) > 1:
        missing = f"no column {wanted}" if wanted else f"no usual column of {what}"
        raise StoreError(
            f"{path} has {missing}, or several of one name; its columns are "
            f"{', '.join(schema.names)}: name the one of {what} ({option})"
        )
    return str(names[0])


def rows_of(path: Path, columns: list[str]) -> Iterator[Json]:
    """Rows of a Parquet file as dicts, in order.

    Raises:
        StoreError: a value cannot be read.
    """
    for batch in _batches(path, columns):
        try:
            yield from batch.to_pylist()
        except UNREADABLE as error:
            raise _unreadable(path, columns, error) from error


def fields_of(path: Path, columns: list[str]) -> Iterator[Json]:
    """The same; a value that cannot be read costs its field."""
    for batch in _batches(path, columns):
        if not columns:
            yield from ({} for _ in range(batch.num_rows))
            continue
        values = ([value_of(scalar) for scalar in column] for column in batch.columns)
        yield from (dict(zip(columns, row, strict=True)) for row in zip(*values, strict=True))


def _batches(path: Path, columns: list[str]) -> Iterator[pa.RecordBatch]:
    try:
        with open_parquet(path) as file:
            yield from file.iter_batches(CHUNK_ROWS, columns=columns, use_threads=False)
    except UNREADABLE as error:
        raise _unreadable(path, columns, error) from error


def _unreadable(path: Path, columns: list[str], error: Exception) -> StoreError:
    return StoreError(
        f"{path}: {', '.join(columns)} cannot be read ({error}); write the file again"
    )


def listed_ids(path: Path, column: str | None) -> list[str]:
    """Ids from a text, one a line, or from a column of CSV or Parquet; all are text."""
    try:
        with path.open("rb") as file:
            is_parquet = file.read(4) == b"PAR1"
        if is_parquet:
            name = id_column_of(path, column)
            return ["" if row[name] is None else str(row[name]) for row in rows_of(path, [name])]
        with path.open(encoding="utf-8-sig", newline="") as lines:
            if path.suffix.lower() != ".csv":
                return [line.rstrip("\r\n") for line in lines]
            # Not by Arrow, which would read 000123 as a number.
            table = csv.DictReader(lines)
            schema = pa.schema([(name, pa.string()) for name in table.fieldnames or ()])
            name = _column_called(path, schema, column, ID_COLUMNS, "ids", "--id-column")
            return [row[name] or "" for row in table]
    except (*UNREADABLE, csv.Error) as error:
        raise StoreError(
            f"--ids {path} cannot be read ({error}); give UTF-8 text, one id a line, CSV or Parquet"
        ) from error
