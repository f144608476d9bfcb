"""Parquet tables that are no help: what lies beside a good tar, and what `meta` says then."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.parquet as pq


def written(*, store_schema: bool = True, **columns: object) -> bytes:
    """A Parquet file of these columns."""
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, store_schema=store_schema)
    return buffer.getvalue()


def _repeated(value: str, num_rows: int) -> pa.Array:
    """One value in many rows, in as few bytes as Parquet allows."""
    return pa.DictionaryArray.from_arrays(pa.array([0], pa.int8()).take([0] * num_rows), [value])


def _two_keys() -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_arrays([pa.array(["a"])] * 2, names=["key", "key"]), buffer)
    return buffer.getvalue()


GOOD = written(key=["a", "a", "z"], x=["first", "second", "third"])
FAR = pa.array([2**62], pa.timestamp("us"))
NOT_UTF_8 = pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff\xfe"]).buffers())

SIDECARS: dict[str, tuple[bytes, str]] = {
    "same-key-twice": (GOOD, '"x": "first"'),
    "not-parquet": (b"<html>404</html>", "{}"),
    "empty": (b"", "{}"),
    "cut": (GOOD[:-9], "{}"),
    "flipped": (GOOD[:40] + b"\xff" * 40 + GOOD[80:], "{}"),
    "no-key": (written(url=["u"]), "{}"),
    "two-keys": (_two_keys(), "{}"),
    "keys-of-numbers": (written(key=[1.5, 2.5], x=[1, 2]), "{}"),
    "keys-of-lists": (written(key=[["a"]], x=[1]), "{}"),
    "keys-of-nothing": (written(key=pa.nulls(9)), "{}"),
    "year-146000": (written(key=["a"], at=FAR, x=["y"]), '"x": "y"'),
    "not-utf-8": (written(key=["a"], at=NOT_UTF_8, x=["y"]), '"x": "y"'),
    "21-million-rows": (written(key=_repeated("a", 21_000_000)), "{}"),
    "1-GB-of-one-text": (
        written(
            key=["a", *map(str, range(999))], x=_repeated("y" * 2**20, 1000), store_schema=False
        ),
        "{}",
    ),
}
"""Bytes of a sidecar, and what the sample's `meta` has to contain."""
