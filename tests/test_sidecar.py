"""A sidecar's rows go by key, whatever the table is; memory stays bounded."""

from __future__ import annotations

import io
import json
import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from miner import samples, sidecar
from miner.metadata import read_metadata
from miner.sidecar import Sidecar
from tests.reading import read
from tests.tars import good_tar, shard_of


def parquet(**columns: object) -> bytes:
    return written(pa.table(columns))


def written(table: pa.Table, *, store_schema: bool = True) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, store_schema=store_schema)
    return buffer.getvalue()


def test_rows_go_by_key() -> None:
    table = Sidecar(parquet(url=["u2", "u1"], key=["0002", "0001"], status=["failed", "success"]))
    assert table.row("0001") == {"url": "u1", "status": "success"}
    assert table.row("0003") is None
    assert table.notes == []


def test_values_become_json() -> None:
    when = datetime(2026, 1, 2, tzinfo=UTC)
    table = Sidecar(parquet(key=["a"], raw=[b"123"], x=[float("nan")], at=[when]))
    assert json.loads(read_metadata({}, table.row("a")).meta) == {
        "at": "2026-01-02 00:00:00+00:00",
        "raw": "<3 bytes>",
        "x": None,
    }


@pytest.mark.parametrize(
    ("data", "note"),
    [
        (b"no parquet", "sidecar not read: "),
        (parquet(key=["a"])[:-20], "sidecar not read: "),
        (parquet(url=["u"]), "no column `key`"),
        (written(pa.table([["a"], ["b"]], names=["key", "key"])), "or several"),
        (parquet(key=["a", "a"]), "1 rows repeat a key"),
        (parquet(key=pa.nulls(3)), "2 rows repeat a key"),
    ],
)
def test_a_table_of_no_use_leaves_a_note(data: bytes, note: str) -> None:
    table = Sidecar(data)
    table.row("a")
    assert note in table.notes[0]


@pytest.mark.parametrize(
    "values",
    [
        pa.array([2**62], pa.timestamp("us")),
        pa.array([1], pa.timestamp("ns")),
        pa.array([1], pa.duration("ns")),
        pa.array([0], pa.timestamp("us", tz="No/Where")),
        pa.array([2**30], pa.int32()).cast(pa.date32()),
        pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff\xfe"]).buffers()),
    ],
    ids=["year 146,000", "nanosecond", "a nanosecond long", "time zone", "date", "not UTF-8"],
)
def test_an_unreadable_value_costs_its_field(values: pa.Array) -> None:
    table = Sidecar(parquet(key=["a"], odd=values, width=[3]))
    said = json.loads(read_metadata({}, table.row("a")).meta)
    assert said["width"] == 3
    assert said["odd"].startswith("<unreadable: ")
    assert table.notes == []


@pytest.mark.parametrize("kind", [pa.timestamp, pa.duration], ids=["time", "duration"])
def test_nanoseconds_are_read_as_microseconds_are(kind: Callable[[str], pa.DataType]) -> None:
    """Also where pandas is installed, which has words of its own for them."""
    said = [
        read_metadata({}, Sidecar(parquet(key=["a"], odd=pa.array([at], kind(unit)))).row("a")).meta
        for at, unit in ((86_400_000_000_000, "ns"), (86_400_000_000, "us"))
    ]
    assert said[0] == said[1]


def test_a_table_larger_than_memory_is_not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sidecar, "MAX_SIDECAR_BYTES", 10)
    table = Sidecar(parquet(key=["a"]))
    assert table.row("a") is None
    assert "bytes, limit 10" in table.notes[0]


def test_few_bytes_that_stand_for_many_rows_are_not_unfolded() -> None:
    rows = pa.DictionaryArray.from_arrays(pa.array([0] * 21_000_000, pa.int8()), ["a"])
    table = Sidecar(parquet(key=rows))
    assert len(table.data) < 100_000
    assert table.row("a") is None
    assert table.notes == ["sidecar not read: 21000000 values, limit 20000000"]


def test_one_long_text_in_every_row_is_not_unfolded() -> None:
    text = pa.DictionaryArray.from_arrays(pa.array([0] * 1000, pa.int16()), ["x" * 2**20])
    keys = [str(row) for row in range(1000)]
    # Without Arrow's own schema nobody says that the column may stay a dictionary.
    table = Sidecar(written(pa.table({"key": keys, "text": text}), store_schema=False))
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    assert table.row("7") is None
    assert tracemalloc.get_traced_memory()[1] < 2**27
    tracemalloc.stop()
    assert pa.default_memory_pool().max_memory() < before + 3 * sidecar.MAX_SIDECAR_BYTES
    assert "bytes, limit 268435456" in table.notes[0]


def test_columns_of_lists_are_left_out() -> None:
    table = Sidecar(parquet(key=["a"], boxes=[[1, 2]], width=[3]))
    assert table.row("a") == {"width": 3}
    assert table.notes == ["sidecar: columns of lists, maps and structs are not read"]


def test_broken_statistics_of_a_column_end_no_process() -> None:
    """Bits turned all over the footer: pyarrow aborts at what it reads of single columns."""
    data = parquet(key=["a", "b"], url=["u", "v"])
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    for at in range(footer, len(data) - 8):
        for bit in (1, 16):
            table = Sidecar(data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :])
            table.row("a")


def test_a_large_file_is_not_even_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "00000.parquet").write_bytes(parquet(key=["000"], seen=["yes"]))
    shard = shard_of(good_tar(), tmp_path)
    kept, _, report = read(shard)
    assert json.loads(kept["000"].meta)["seen"] == "yes"
    monkeypatch.setattr(samples, "MAX_SIDECAR_BYTES", 99)
    kept, _, small = read(shard)
    assert "seen" not in kept["000"].meta
    assert "limit 99" in small.notes[0]
    assert small.sidecar_sha256 == report.sidecar_sha256
