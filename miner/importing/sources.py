"""Where imported embeddings come from: files in parts, each with the ids of its rows.

clip-retrieval   `img_emb/img_emb_N.npy` and `metadata/metadata_N.parquet`, row by row
npy              a matrix or a folder of them, and a list of ids over all their rows
parquet          a file or a folder of them, with a column of ids and one of vectors
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from miner.errors import StoreError
from miner.importing.columns import fields_of, id_column_of, listed_ids, rows_of, vector_column_of
from miner.importing.embedding_files import (
    NpyVectors,
    ParquetVectors,
    VectorFile,
    open_parquet,
    schema_of,
)
from miner.names import safe_name
from miner.records import Json

FORMATS = ("clip-retrieval", "npy", "parquet")


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Some of a source's rows: those of one file of vectors.

    Attributes:
        name: of the part; equal parts of two sources have equal names.
        vectors: its vectors.
        table: Parquet with what is known of its rows, in their order.
        id_column: of the table; None where the ids are in `listed`, or are row numbers.
        listed: the ids from a list.
    """

    name: str
    vectors: VectorFile
    table: Path | None = None
    id_column: str | None = None
    listed: Sequence[str] | None = None

    @property
    def num_rows(self) -> int:
        """Rows of the part."""
        return self.vectors.num_rows

    @property
    def files(self) -> list[Path]:
        """What it is read from."""
        return list(dict.fromkeys([self.vectors.path, *([self.table] if self.table else [])]))

    def ids(self) -> list[str | None]:
        """The id of each row."""
        if self.listed is not None:
            return list(self.listed)
        if self.id_column is None:
            return [f"{row:09d}" for row in range(self.num_rows)]
        assert self.table is not None
        return [
            None if row[self.id_column] is None else str(row[self.id_column])
            for row in rows_of(self.table, [self.id_column])
        ]

    def fields(self) -> Iterator[Json]:
        """What the table says of each row; nothing where there is no table."""
        if self.table is None:
            yield from ({} for _ in range(self.num_rows))
            return
        flat = [each.name for each in schema_of(self.table) if not pa.types.is_nested(each.type)]
        yield from fields_of(self.table, flat)


def open_source(
    format: str,
    source: Path,
    *,
    ids: Path | None = None,
    id_column: str | None = None,
    vector_column: str | None = None,
    by_position: bool = False,
) -> list[Part]:
    """The parts of a source, those without rows left out.

    Args:
        format: one of FORMATS.
        source: a local folder or file.
        ids: list of ids, one a line, or Parquet or CSV; for `npy`.
        id_column: of the ids; default: the first of ID_COLUMNS.
        vector_column: for `parquet`; default: the first of VECTOR_COLUMNS.
        by_position: an image is its number in its part.

    Raises:
        ValueError: options do not go together.
        StoreError: files are missing, broken, or do not belong together.
    """
    if by_position and (ids or id_column):
        raise ValueError("--by-position has no effect with --ids or --id-column; leave one out")
    if ids is not None and format != "npy":
        raise ValueError(f"--ids is for npy; {format} has a column of ids (--id-column)")
    if vector_column is not None and format != "parquet":
        raise ValueError(f"--vector-column is for parquet; {format} has files of vectors")
    if not source.exists():
        raise StoreError(f"{source} does not exist; give a local folder or file")
    if format == "clip-retrieval":
        parts = _clip_retrieval(source, id_column, by_position)
    elif format == "npy":
        parts = _npy(source, ids, id_column, by_position)
    else:
        parts = _parquet(source, id_column, vector_column, by_position)
    dims = {part.vectors.dim: part for part in parts if part.num_rows}
    if len(dims) > 1:
        (dim, first), (other_dim, other) = list(dims.items())[:2]
        raise StoreError(
            f"{first.vectors.path} has vectors of {dim} numbers and {other.vectors.path} of "
            f"{other_dim}; import what one encoder gave"
        )
    if not dims or 0 in dims:
        raise StoreError(f"{source} holds no vector; give a folder or file that does")
    return [part for part in parts if part.num_rows]


def _clip_retrieval(source: Path, id_column: str | None, by_position: bool) -> list[Part]:
    vectors = _numbered(source / "img_emb", "img_emb_", ".npy")
    tables = _numbered(source / "metadata", "metadata_", ".parquet")
    if alone := sorted(vectors.keys() ^ tables.keys()):
        lacking = "metadata/metadata" if alone[0] in vectors else "img_emb/img_emb"
        raise StoreError(
            f"{source}: part {alone[0]} has no {lacking}_{alone[0]} ({len(alone)} parts without a "
            "partner); fetch the missing files, or move their partners away"
        )
    if not vectors:
        raise StoreError(
            f"{source} holds no img_emb/img_emb_0.npy with metadata/metadata_0.parquet; give the "
            "output folder of clip-retrieval's inference"
        )
    parts = []
    for number, path in sorted(vectors.items()):
        table = tables[number]
        with open_parquet(table) as file:
            num_rows = file.metadata.num_rows
        matrix = NpyVectors(path)
        if num_rows != matrix.num_rows:
            raise StoreError(
                f"{table} has {num_rows} rows and {path} {matrix.num_rows}; they are aligned row "
                "by row, so fetch both again"
            )
        column = None if by_position else id_column_of(table, id_column)
        parts.append(Part(name=f"{number:05d}", vectors=matrix, table=table, id_column=column))
    return parts


def _npy(source: Path, ids: Path | None, id_column: str | None, by_position: bool) -> list[Part]:
    if ids is None and not by_position:
        raise ValueError(
            "npy files hold no ids; give --ids FILE, or --by-position where row numbers are ids"
        )
    matrices = {name: NpyVectors(path) for name, path in _named(source, ".npy").items()}
    if ids is None:
        return [Part(name=name, vectors=each) for name, each in matrices.items()]
    listed = listed_ids(ids, id_column)
    num_rows = sum(each.num_rows for each in matrices.values())
    if len(listed) != num_rows:
        raise StoreError(
            f"{ids} names {len(listed)} ids for {num_rows} vectors of {source}; give one id for "
            "each row, in the order of the rows and of the files' numbers"
        )
    parts, start = [], 0
    for name, each in matrices.items():
        own = listed[start : start + each.num_rows]
        parts.append(Part(name=name, vectors=each, listed=own))
        start += each.num_rows
    return parts


def _parquet(
    source: Path, id_column: str | None, vector_column: str | None, by_position: bool
) -> list[Part]:
    parts = []
    for name, path in _named(source, ".parquet").items():
        vectors = ParquetVectors(path, vector_column_of(path, vector_column))
        column = None if by_position else id_column_of(path, id_column)
        parts.append(Part(name=name, vectors=vectors, table=path, id_column=column))
    return parts


def _numbered(folder: Path, prefix: str, suffix: str) -> dict[int, Path]:
    """Files named by a number, which may be padded with zeros."""
    found: dict[int, Path] = {}
    pattern = re.compile(re.escape(prefix) + r"([0-9]{1,12})" + re.escape(suffix))
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if match := pattern.fullmatch(path.name):
            other = found.setdefault(int(match[1]), path)
            if other != path:
                raise StoreError(f"{other} and {path} have one number; remove one of them")
    return found


def _named(source: Path, suffix: str) -> dict[str, Path]:
    """Files by the names of their parts: the numbers in which their names end, where all do.

    SRC itself, if it is a file, is part 00000, whatever it is called, as it may have a partner
    elsewhere; so is the only file of a folder, if its name has no number.
    """
    paths = [source]
    if source.is_dir():
        paths = sorted(
            path
            for path in source.iterdir()
            if path.name.endswith(suffix) and not path.name.startswith((".", "_"))
        )
    if not paths:
        raise StoreError(f"{source} holds no *{suffix}; give the folder or file that does")
    if paths == [source]:
        return {"00000": source}
    numbers = [re.search(r"([0-9]{1,12})$", path.name.removesuffix(suffix)) for path in paths]
    found = {int(number[1]): path for number, path in zip(numbers, paths, strict=True) if number}
    if len(found) == len(paths):
        return {f"{number:05d}": path for number, path in sorted(found.items())}
    if len(paths) == 1:
        return {"00000": paths[0]}
    return {safe_name(path.name.removesuffix(suffix)): path for path in paths}
