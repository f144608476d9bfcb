"""Samples of which only metadata is at hand."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from miner.errors import StoreError
from miner.importing.embedding_files import NpyVectors
from miner.importing.samples import commit_samples, slices_of
from miner.importing.source_files import SourceFiles
from miner.importing.sources import Part
from miner.schema import has_bytes
from miner.store import Store
from tests.foreign import some_vectors


def part_of(folder: Path, name: str, num_rows: int, **more: object) -> Part:
    np.save(folder / f"{name}.npy", some_vectors(num_rows))
    return Part(name=name, vectors=NpyVectors(folder / f"{name}.npy"), **more)  # type: ignore[arg-type]


def commit(store: Store, part: Part) -> list[int]:
    return [*commit_samples(store, slices_of([part], "set"), {"encoder_id": "c"}, SourceFiles())]


def test_rows_say_what_the_metadata_says(tmp_path: Path) -> None:
    columns = {"id": [7], "TEXT": ["a\0b"], "URL": ["https://x.org/1.jpg"], "WIDTH": [640]}
    columns |= {"height": [480.0], "cls": [3], "punsafe": [0.25], "image_path": ["/etc/passwd"]}
    pd.DataFrame(columns).to_parquet(tmp_path / "t.parquet")
    store = Store(tmp_path / "run")
    part = part_of(tmp_path, "p", 1, table=tmp_path / "t.parquet", id_column="id")
    assert commit(store, part) == [1]
    assert commit(store, part) == [0]
    (row,) = store.samples("set.p").to_pylist()
    assert (row["image_id"], row["key"], row["shard"]) == ("set/p/7", "7", str(tmp_path / "p.npy"))
    assert (row["caption"], row["url"], row["label"]) == ("ab", "https://x.org/1.jpg", "3")
    assert (row["width"], row["height"], row["member"], row["offset"]) == (640, 480, "", 0)
    assert '"punsafe":0.25' in row["meta"].replace(" ", "")
    assert not has_bytes(row)
    assert has_bytes(row | {"num_bytes": 1})
    record = store.record("samples", "set.p")
    assert [file["name"] for file in record["imported"]["files"]] == ["p.npy", "t.parquet"]
    assert record["bytes"] is None


def test_two_shards_of_one_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("miner.importing.samples.SHARD_ROWS", 2)
    parts = [part_of(tmp_path, "a", 3), part_of(tmp_path, "a-001", 2)]
    with pytest.raises(StoreError, match="two parts would both be shard a-001"):
        slices_of(parts, "set")


def test_tables_and_lists_have_to_have_a_row_for_each_vector(tmp_path: Path) -> None:
    store = Store(tmp_path / "run")
    with pytest.raises(StoreError, match="part p has 2 ids and 3 vectors"):
        commit(store, part_of(tmp_path, "p", 3, listed=["a", "b"]))
    pd.DataFrame({"id": ["a", "b"]}).to_parquet(tmp_path / "t.parquet")
    part = part_of(tmp_path, "p", 3, listed=list("abc"), table=tmp_path / "t.parquet")
    with pytest.raises(StoreError, match="ends after 2 of 3 rows"):
        commit(store, part)
    assert store.committed("samples") == []
