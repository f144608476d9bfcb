import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from miner import schema
from miner.config import JoinSettings, SelectSettings
from miner.errors import FingerprintError, StoreError
from miner.join import join
from miner.select import select
from miner.store import FileEntry, Store, table_of, vector_table
from tests.runs import CLIP, DINO, commit_shard, make_store, unit


def test_vectors_come_back_bit_for_bit(tmp_path: Path) -> None:
    import torch

    store = Store(tmp_path)
    clip = unit(torch.randn(7, 16, generator=torch.Generator().manual_seed(0)))
    image_ids = commit_shard(store, "00000", clip, clip[:, :4])
    ids, vectors = store.vectors(CLIP, "set.00000")
    assert ids == image_ids
    assert vectors.dtype == np.float16
    np.testing.assert_array_equal(vectors, clip)


def test_vector_table_without_rows(tmp_path: Path) -> None:
    table = vector_table([], np.empty((0, 5), np.float32))
    assert table.schema.equals(schema.vectors(5))
    entry = Store(tmp_path).write_table(table, "vectors/x", "empty.parquet")
    assert pq.read_table(tmp_path / entry.path).num_rows == 0


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


def test_leftovers_are_what_no_record_names(tmp_path: Path) -> None:
    store = make_store(tmp_path, num_shards=1)
    join(store, CLIP, DINO, JoinSettings(clip_above=0.9, dino_below=0.3), SelectSettings())
    (name,) = store.joins()
    select(store, name, SelectSettings())
    assert store.leftovers() == []
    planted = [
        "samples/set.00000.dead.parquet",
        "quarantine/set.00000.dead.parquet",
        f"vectors/{DINO}/set.00000.dead.parquet",
        "samples/.set.00000.dead2.parquet.unfinished",
        "samples/set.00001.never-committed.parquet",
        "commits/samples/.set.00000.json.aa.unfinished",
        ".run.json.aa.unfinished",
        f"pairs/{name}/.join.json.aa.unfinished",
        f"pairs/{name}/raw.dead/part-00000.parquet",
    ]
    for path in planted:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    assert sorted(store.leftovers()) == sorted(planted)


def test_nobody_is_alone_while_somebody_writes(tmp_path: Path) -> None:
    store = make_store(tmp_path, num_shards=1)
    with store.writing():
        with Store(tmp_path).writing(), Store(tmp_path).alone() as alone:
            assert not alone
        with store.alone() as alone:
            assert not alone
    with store.alone() as alone:
        assert alone


def test_other_reading_settings_are_refused_field_by_field(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.update_run({"max_pixels": 5, "stem_depth": 1}, {}, {"command": "mine"})
    store.update_run({"max_pixels": 5, "stem_depth": 1}, {"a.1": {}}, {"command": "mine"})
    assert len(store.run()["commands"]) == 2
    with pytest.raises(FingerprintError, match=r"max_pixels: 5 recorded, 6 now.*another --out"):
        store.update_run({"max_pixels": 6, "stem_depth": 1}, {}, {"command": "mine"})


def test_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"holds no run .* `blindpairs mine --out`"):
        Store(tmp_path).run()


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
