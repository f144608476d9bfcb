"""Rows of samples by image_id."""

from __future__ import annotations

from pathlib import Path

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
