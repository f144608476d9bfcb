"""Files of vectors: hostile headers, every float, any order."""

import pickle
import struct
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from miner.errors import StoreError
from miner.importing.embedding_files import (
    CHUNK_ROWS,
    NpyVectors,
    ParquetVectors,
    VectorFile,
    open_parquet,
)
from tests.foreign import some_vectors


def read(vectors: VectorFile, rows: np.ndarray) -> np.ndarray:
    found = np.zeros((len(rows), vectors.dim))
    for places, chunk in vectors.chunks(rows):
        found[places] = chunk
    return found


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f4"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_of_every_float_and_order(tmp_path: Path, dtype: str, order: str) -> None:
    matrix = np.asarray(some_vectors(20).astype(dtype), order=order)  # type: ignore[call-overload]
    np.save(tmp_path / "a.npy", matrix)
    vectors = NpyVectors(tmp_path / "a.npy")
    assert (vectors.num_rows, vectors.dim) == (20, 8)
    assert vectors.precision == ("fp16" if dtype == "<f2" else "fp32")
    rows = np.array([0, 3, 4, 19])
    np.testing.assert_array_equal(read(vectors, rows), matrix[rows].astype(np.float64))


def test_more_rows_than_a_chunk(tmp_path: Path) -> None:
    matrix = some_vectors(CHUNK_ROWS + 10, 2)
    np.save(tmp_path / "a.npy", matrix)
    table = {"v": pa.array([*matrix], pa.list_(pa.float32()))}
    pq.write_table(pa.table(table), tmp_path / "a.parquet", row_group_size=5000)
    rows = np.arange(1, CHUNK_ROWS + 10, 3)
    for vectors in (NpyVectors(tmp_path / "a.npy"), ParquetVectors(tmp_path / "a.parquet", "v")):
        np.testing.assert_array_equal(read(vectors, rows), matrix[rows])
    assert len([*NpyVectors(tmp_path / "a.npy").chunks(np.arange(len(matrix)))]) == 2


class Trap:
    """Creates a file when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (Path.touch, (Path("sprung"),))


def test_objects_are_not_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save(tmp_path / "objects.npy", np.array([[Trap()]], dtype=object), allow_pickle=True)
    with pytest.raises(StoreError, match="objects are never unpickled"):
        NpyVectors(tmp_path / "objects.npy")
    (tmp_path / "pickle.npy").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(StoreError, match="no npy file that can be read"):
        NpyVectors(tmp_path / "pickle.npy")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("matrix", "what"),
    [
        (np.zeros((3, 4), np.int64), "holds int64"),
        (np.zeros((3, 4), np.longdouble), "holds float128"),
        (np.zeros(12, np.float32), r"has the shape \(12,\)"),
        (np.zeros((3, 0), np.float32), r"has the shape \(3, 0\)"),
        (np.zeros((1, 65537), np.float16), "at most 65536 numbers wide"),
    ],
)
def test_other_matrices_are_refused(
    tmp_path: Path,
    matrix: np.ndarray,
    what: str,
) -> None:
    np.save(tmp_path / "a.npy", matrix)
    with pytest.raises(StoreError, match=what):
        NpyVectors(tmp_path / "a.npy")


@pytest.mark.parametrize("change", [-4, 4])
def test_length_has_to_be_that_of_the_header(tmp_path: Path, change: int) -> None:
    np.save(tmp_path / "a.npy", some_vectors(5))
    data = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(data[:change] if change < 0 else data + b"0" * change)
    with pytest.raises(StoreError, match=rf"160 bytes, and {160 + change} bytes follow"):
        NpyVectors(tmp_path / "a.npy")


@pytest.mark.parametrize(
    "header",
    [
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (10**12, 768)}",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 8)}",
        b"__import__('pathlib').Path('sprung').touch()",
        b"{'descr': '<f4'}",
        b"(" * 5000,
    ],
)
def test_hostile_headers(tmp_path: Path, header: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header) + 1) + header + b"\n"
    (tmp_path / "a.npy").write_bytes(data)
    with pytest.raises(StoreError, match=r"a\.npy"):
        NpyVectors(tmp_path / "a.npy")
    assert not (tmp_path / "sprung").exists()


def test_npy_that_goes_away(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", some_vectors(5))
    vectors = NpyVectors(tmp_path / "a.npy")
    (tmp_path / "a.npy").unlink()
    with pytest.raises(StoreError, match="cannot be read any more"):
        read(vectors, np.arange(5))


@pytest.mark.parametrize(
    "kind",
    [pa.list_(pa.float32()), pa.large_list(pa.float64()), pa.list_(pa.float16(), 3)],
    ids=str,
)
def test_parquet_lists_with_gaps(tmp_path: Path, kind: pa.DataType) -> None:
    number = np.dtype(kind.value_type.to_pandas_dtype()).type
    rows = [None, [number(1), number(2), number(3)], [number(4), None, number(6)]]
    pq.write_table(pa.table({"v": pa.array(rows, kind)}), tmp_path / "a.parquet")
    vectors = ParquetVectors(tmp_path / "a.parquet", "v")
    nan = np.nan
    np.testing.assert_array_equal(
        read(vectors, np.arange(3)), [[nan, nan, nan], [1, 2, 3], [4, nan, 6]]
    )


def test_parquet_that_is_no_matrix(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    uneven = pa.array([[1.0, 2.0], [1.0]], pa.list_(pa.float32()))
    table = {"uneven": uneven, "text": ["a", "b"], "empty": pa.array([[], []], uneven.type)}
    table |= {"whole": pa.array([[1], [2]], pa.list_(pa.int64()))}
    pq.write_table(pa.table(table), path)
    with pytest.raises(StoreError, match="row 1 has 1 numbers, others have 2"):
        read(ParquetVectors(path, "uneven"), np.arange(2))
    for column in ("text", "whole"):
        with pytest.raises(StoreError, match="give one of lists of floats"):
            ParquetVectors(path, column)
    with pytest.raises(StoreError, match="row 0 has 0 numbers"):
        ParquetVectors(path, "empty")
    vectors = ParquetVectors(path, "uneven")
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(StoreError, match="no Parquet that can be read"):
        read(vectors, np.arange(2))
    with pytest.raises(StoreError, match="no Parquet that can be read"):
        open_parquet(tmp_path / "missing.parquet")


def test_parquet_with_broken_pages(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table({"v": pa.array([*some_vectors(500)], pa.list_(pa.float32()))})
    pq.write_table(table, path, compression="zstd")
    vectors = ParquetVectors(path, "v")
    data = bytearray(path.read_bytes())
    data[200:9000] = bytes(8800)
    path.write_bytes(data)
    with pytest.raises(StoreError, match="column v cannot be read"):
        read(vectors, np.arange(500))
