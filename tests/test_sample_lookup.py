"""Rows of samples by image_id."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest

from miner.sample_lookup import SampleLookup
from miner.store import Store
from tests.runs import make_store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return make_store(tmp_path / "run", num_shards=4, rows=5)


def test_rows_are_those_of_the_tables(store: Store) -> None:
    shards = store.committed("samples")
    lookup = SampleLookup([store], [shards], max_shards=2)
    wanted = {row["image_id"]: row for name in shards for row in store.samples(name).to_pylist()}
    assert lookup.rows(wanted) == wanted
    assert lookup.rows(reversed(wanted)) == wanted
    assert len(lookup._tables) == 2


def test_unknown_images_are_left_out(store: Store) -> None:
    lookup = SampleLookup([store], [["set.00000"]])
    ids = ["set/00000/000001", "set/00001/000001", "set/00000/none", "a", "", "../..", "set/00000"]
    assert list(lookup.rows(ids)) == ["set/00000/000001"]


def test_a_shard_that_moved_is_where_it_was_seen_last(store: Store) -> None:
    run = store.run()
    moved = {"set.00001": {"url": "/elsewhere/00001.tar"}}
    store.update_run(run["reading"], moved, {"command": "test"})
    lookup = SampleLookup([store], [store.committed("samples")])
    rows = lookup.rows(["set/00001/000000", "set/00002/000000"])
    assert [row["shard"] for row in rows.values()] == ["/elsewhere/00001.tar", "/corpus/00002.tar"]


def test_runs_with_shards_and_images_of_one_name_are_told_apart(tmp_path: Path) -> None:
    runs = [
        make_store(tmp_path / name, num_shards=1, rows=rows) for name, rows in (("a", 3), ("b", 5))
    ]
    (table,) = [runs[1].samples("set.00000")]
    runs[1].update_run(
        runs[1].run()["reading"], {"set.00000": {"url": "/b.tar"}}, {"command": "test"}
    )
    lookup = SampleLookup(runs, [["set.00000"], ["set.00000"]])
    assert lookup.row(0, "set/00000/000004") is None
    assert lookup.row(1, "set/00000/000004") == table.to_pylist()[4] | {"shard": "/b.tar"}
    urls = [(lookup.row(number, "set/00000/000001") or {})["shard"] for number in (0, 1)]
    assert urls == ["/corpus/00000.tar", "/b.tar"]
    # Without a number it is the first run that has the image.
    rows = lookup.rows(["set/00000/000001", "set/00000/000004"])
    assert [row["shard"] for row in rows.values()] == ["/corpus/00000.tar", "/b.tar"]


def test_a_shard_that_cannot_be_read_yet_holds_up_no_other(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, answered = threading.Event(), threading.Event()
    read = store.samples

    def samples(shard_id: str) -> pa.Table:
        if shard_id == "set.00001":
            asked.set()
            assert answered.wait(60)
        return read(shard_id)

    monkeypatch.setattr(store, "samples", samples)
    lookup = SampleLookup([store], [store.committed("samples")])
    with ThreadPoolExecutor(2) as pool:
        try:
            late = pool.submit(lookup.row, 0, "set/00001/000000")
            assert asked.wait(60)
            other = pool.submit(lookup.row, 0, "set/00000/000000").result(timeout=60)
            assert not late.done()
        finally:
            answered.set()
    for row, image_id in ((other, "set/00000/000000"), (late.result(), "set/00001/000000")):
        assert row is not None
        assert row["image_id"] == image_id
