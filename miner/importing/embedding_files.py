"""Vectors in other people's files, npy or Parquet, read a few rows at a time; nothing is unpickled.

Shape suffixes: N rows of a file, D width of a vector, R rows that are asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tokenize import TokenError
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from miner.errors import StoreError

CHUNK_ROWS = 8192
"""Rows that are in memory at a time."""

MAX_DIM = 65_536
"""Widest vector that is taken."""

UNREADABLE = (OSError, ValueError, TypeError, OverflowError, pa.ArrowException)
"""What numpy and pyarrow throw at files that are broken, cut or something else."""

_HEADER_BREAKS_WITH = (KeyError, SyntaxError, RecursionError, MemoryError, TokenError)
"""What numpy throws, besides, at headers that are none."""


class VectorFile(Protocol):
    """Vectors by their rows in a file.

    Attributes:
        path: of the file.
        num_rows: N.
        dim: D; 0 where the file has no rows.
        precision: short name of its numbers' type.
    """

    path: Path
    num_rows: int
    dim: int
    precision: str

    def chunks(self, rows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Some rows, as they are stored.

        Args:
            rows: [R] int64, ascending, each once.

        Yields:
            Places among `rows`, and float [few, D]; NaN where there is no vector.
        """
        ...


class NpyVectors:
    """A matrix that numpy saved, mapped into memory."""

    def __init__(self, path: Path) -> None:
        """Look at the header, and hold it against the file's length.

        Raises:
            StoreError: it is no matrix of floats, or the file is shorter or longer than it says.
        """
        self.path = path
        try:
            with path.open("rb") as file:
                version = np.lib.format.read_magic(file)
                read_header = {
                    (1, 0): np.lib.format.read_array_header_1_0,
                    (2, 0): np.lib.format.read_array_header_2_0,
                }[version]
                shape, self._is_fortran, self._dtype = read_header(file)
                self._start = file.tell()
                num_bytes = file.seek(0, 2) - self._start
        except (*UNREADABLE, *_HEADER_BREAKS_WITH) as error:
            raise StoreError(
                f"{path} is no npy file that can be read ({error}); write it with numpy.save"
            ) from error
        _check_type(path, self._dtype)
        if len(shape) != 2 or not 0 < shape[1] <= MAX_DIM or shape[0] < 0:
            raise StoreError(
                f"{path} has the shape {shape}; give a matrix of [images, numbers], at most "
                f"{MAX_DIM} numbers wide"
            )
        wanted = shape[0] * shape[1] * self._dtype.itemsize
        if num_bytes != wanted:
            raise StoreError(
                f"{path}: its header says {shape[0]} x {shape[1]} numbers, {wanted} bytes, and "
                f"{num_bytes} bytes follow it; copy the file again"
            )
        self.num_rows, self.dim = shape
        self.precision = _precision(self._dtype)

    def chunks(self, rows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Some rows; see `VectorFile`."""
        if len(rows) == 0:
            return
        order = "F" if self._is_fortran else "C"
        shape = (self.num_rows, self.dim)
        try:
            matrix_ND = np.memmap(self.path, self._dtype, "r", self._start, shape, order)  # type: ignore[call-overload]
        except UNREADABLE as error:
            raise StoreError(
                f"{self.path} cannot be read any more ({error}); restore it"
            ) from error
        for start in range(0, len(rows), CHUNK_ROWS):
            places = np.arange(start, min(start + CHUNK_ROWS, len(rows)))
            yield places, np.array(matrix_ND[rows[places]])


class ParquetVectors:
    """A column of lists of floats, of fixed length or not."""

    def __init__(self, path: Path, column: str) -> None:
        """Look at the schema and at the first row.

        Raises:
            StoreError: the column is no list of floats.
        """
        self.path, self._column = path, column
        kind = schema_of(path).field(column).type
        if not is_list(kind) or not pa.types.is_floating(kind.value_type):
            raise StoreError(
                f"{path}: its column {column} is {kind}; give one of lists of floats "
                "(--vector-column)"
            )
        self._dtype = np.dtype(kind.value_type.to_pandas_dtype())
        self.precision = _precision(self._dtype)
        with open_parquet(path) as file:
            self._group_rows = [
                file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)
            ]
        self.num_rows = sum(self._group_rows)
        self.dim = self._first_dim()

    def _first_dim(self) -> int:
        for start, lists in self._batches(range(len(self._group_rows))):
            for row, vector in enumerate(lists):
                if vector.is_valid:
                    if not 0 < len(vector) <= MAX_DIM:
                        raise StoreError(
                            f"{self.path}: the vector in row {start + row} has {len(vector)} "
                            f"numbers; give 1 to {MAX_DIM}"
                        )
                    return len(vector)
        return 0

    def chunks(self, rows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Some rows; see `VectorFile`."""
        starts = np.cumsum([0, *self._group_rows])
        groups = np.unique(np.searchsorted(starts, rows, side="right") - 1).tolist()
        for start, lists in self._batches(groups):
            first, last = np.searchsorted(rows, [start, start + len(lists)]).tolist()
            if first < last:
                wanted = lists.take(pa.array(rows[first:last] - start))
                yield np.arange(first, last), self._matrix(wanted, rows[first:last])

    def _batches(self, groups: range | list[int]) -> Iterator[tuple[int, pa.Array]]:
        """First row and lists of pieces of some row groups."""
        starts = np.cumsum([0, *self._group_rows]).tolist()
        try:
            with open_parquet(self.path) as file:
                for group in groups:
                    start = starts[group]
                    for batch in file.iter_batches(
                        CHUNK_ROWS, row_groups=[group], columns=[self._column], use_threads=False
                    ):
                        yield start, batch.column(0)
                        start += batch.num_rows
        except UNREADABLE as error:
            raise StoreError(
                f"{self.path}: its column {self._column} cannot be read ({error}); write it again"
            ) from error

    def _matrix(self, lists: pa.Array, rows: np.ndarray) -> np.ndarray:
        """Lists as [R, D]; NaN where a list or a number is missing."""
        lengths = np.asarray(lists.value_lengths().fill_null(self.dim))
        wrong = np.flatnonzero(lengths != self.dim)
        if len(wrong):
            raise StoreError(
                f"{self.path}: the vector in row {rows[wrong[0]]} has {lengths[wrong[0]]} numbers, "
                f"others have {self.dim}; write vectors of one encoder alone"
            )
        matrix = np.full((len(lists), self.dim), np.nan, self._dtype)
        is_there = np.asarray(lists.is_valid())
        flat = lists.drop_null().flatten().to_numpy(zero_copy_only=False)
        matrix[is_there] = flat.reshape(-1, self.dim)
        return matrix


def open_parquet(path: Path) -> pq.ParquetFile:
    """A Parquet file.

    Raises:
        StoreError: it is none, or cannot be read.
    """
    try:
        return pq.ParquetFile(path)
    except UNREADABLE as error:
        raise StoreError(f"{path} is no Parquet that can be read ({error}); restore it") from error


def schema_of(path: Path) -> pa.Schema:
    """The columns of a Parquet file."""
    with open_parquet(path) as file:
        return file.schema_arrow


def is_list(kind: pa.DataType) -> bool:
    """Whether a column holds lists, of fixed length or not."""
    return bool(
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def _check_type(path: Path, dtype: np.dtype) -> None:
    if dtype.kind != "f" or dtype.itemsize not in (2, 4, 8):
        raise StoreError(
            f"{path} holds {dtype}; give float16, float32 or float64 (objects are never unpickled)"
        )


def _precision(dtype: np.dtype) -> str:
    # What is wider than float32 came from float32 at best.
    return "fp16" if dtype.itemsize == 2 else "fp32"
