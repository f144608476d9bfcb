import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from miner import schema
from miner.errors import StoreError
from miner.store import Store
from miner.tables import FileEntry, table_of
from tests.runs import CLIP, commit_shard, make_store, unit


def test_vectors_come_back_bit_for_bit(tmp_path: Path) -> None:
    import torch

    store = Store(tmp_path)
    clip = unit(torch.randn(7, 16, generator=torch.Generator().manual_seed(0)))
    image_ids = commit_shard(store, "00000", clip, clip[:, :4])
    ids, vectors = store.vectors(CLIP, "set.00000")
    assert ids == image_ids
    assert vectors.dtype == np.float16
    np.testing.assert_array_equal(vectors, clip)


def test_written_table_is_invisible_until_committed(tmp_path: Path) -> None:
    store = make_store(tmp_path, num_shards=1)
    assert store.committed("samples") == ["set.00000"]
    store.write_table(table_of([], schema.SAMPLES), "samples", "set.00007.abc.parquet")
    assert store.committed("samples") == ["set.00000"]


def test_loser_of_a_commit_withdraws(tmp_path: Path) -> None:
    store = make_store(tmp_path, num_shards=1)
    before = store.record("samples", "set.00000")
    entry = store.write_table(table_of([], schema.SAMPLES), "samples", "set.00000.late.parquet")
    assert not store.commit("samples", "set.00000", [entry], {})
    assert store.record("samples", "set.00000") == before
    assert not (tmp_path / entry.path).exists()


def test_table_errors_say_what_to_run(tmp_path: Path) -> None:
    store = make_store(tmp_path, num_shards=1)
    record = store.record("samples", "set.00000")
    with pytest.raises(StoreError, match="names no file under nothing/"):
        store.table(record, "nothing")
    with pytest.raises(StoreError, match="has 60 rows, its commit says 61"):
        store.table({"files": [{**record["files"][0], "rows": 61}]}, "samples")
    (tmp_path / record["files"][0]["path"]).write_bytes(b"PAR1")
    with pytest.raises(StoreError, match=r"cannot be read .* run `blindpairs verify"):
        store.samples("set.00000")


def test_file_entry_holds_hash_and_rows(tmp_path: Path) -> None:
    store = Store(tmp_path)
    entry = store.write_table(pa.table({"a": [1, 2]}), "samples", "x.parquet")
    assert entry == FileEntry(path="samples/x.parquet", rows=2, sha256=entry.sha256)
    assert store.is_whole({"path": entry.path, "sha256": entry.sha256})
    (tmp_path / entry.path).write_bytes(b"other")
    assert not store.is_whole({"path": entry.path, "sha256": entry.sha256})


def test_the_last_join_is_the_one_written_last(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert (store.joins(), store.last_join()) == ([], None)
    for number, name in enumerate(("b", "c", "a")):
        store.replace_record(f"pairs/{name}/join.json", {"files": []})
        os.utime(tmp_path / "pairs" / name / "join.json", (number, number))
    assert (store.joins(), store.last_join()) == (["a", "b", "c"], "a")


def test_refusals_are_counted_without_their_table_where_the_record_says(tmp_path: Path) -> None:
    store = Store(tmp_path)
    commit_shard(store, "00000", np.ones((2, 2)), np.ones((2, 2)), refused=3)
    assert store.reasons("set.00000") == {"empty": 3}
    assert store.commit("samples", "set.00001", [], {"reasons": {"empty": 1, "truncated": 2}})
    assert store.reasons("set.00001") == {"empty": 1, "truncated": 2}
