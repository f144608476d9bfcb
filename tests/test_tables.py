import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from miner import schema
from miner.tables import encode_table, table_of, vector_table, vectors_of


def read(data: memoryview) -> pa.Table:
    return pq.ParquetFile(io.BytesIO(data)).read()


def test_vectors_become_float16_and_come_back_bit_for_bit() -> None:
    vectors_ND = np.random.default_rng(0).standard_normal((7, 16), np.float32)
    table = vector_table([f"set/0/{row}" for row in range(7)], vectors_ND)
    again = read(encode_table(table))
    assert again.schema.equals(schema.vectors(16))
    assert vectors_of(again).dtype == np.float16
    np.testing.assert_array_equal(vectors_of(again), vectors_ND.astype(np.float16))
    # Rows that come in several chunks, as from several row groups.
    both = pa.concat_tables([again.slice(3), again.slice(0, 3)])
    np.testing.assert_array_equal(vectors_of(both), np.roll(vectors_of(again), -3, axis=0))


def test_vectors_are_stored_plain_and_all_else_compressed() -> None:
    vectors = encode_table(vector_table(["a"], np.ones((1, 4))))
    column = pq.ParquetFile(io.BytesIO(vectors)).metadata.row_group(0).column(1)
    assert (column.compression, column.has_dictionary_page) == ("UNCOMPRESSED", False)
    assert "PLAIN" in column.encodings
    others = encode_table(pa.table({"reason": ["empty"] * 9}))
    column = pq.ParquetFile(io.BytesIO(others)).metadata.row_group(0).column(0)
    assert (column.compression, column.has_dictionary_page) == ("ZSTD", True)


def test_rows_become_a_table_of_the_schema() -> None:
    target = pa.schema({"key": pa.string(), "rows": pa.int32()})
    table = table_of([{"key": "a", "rows": 1}, {"key": "b"}], target)
    assert table.schema.equals(target)
    assert table["rows"].to_pylist() == [1, None]


def test_vector_table_without_rows() -> None:
    table = vector_table([], np.empty((0, 5), np.float32))
    assert table.schema.equals(schema.vectors(5))
    assert vectors_of(table).shape == (0, 5)
    assert read(encode_table(table)).equals(table)
