from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from miner.errors import StoreError
from miner.handoff import clip_retrieval
from miner.records import Json
from miner.store import Store
from tests.handoff_runs import SHOTS, deliver, many_shots, review, run_of, selected_of
from tests.runs import CLIP


def read(folder: Path) -> tuple[np.ndarray, list[Json]]:
    """Embeddings and rows as clip-retrieval pairs them: files by name, then row by row."""
    arrays = sorted((folder / "img_emb").iterdir(), key=lambda path: path.name)
    tables = sorted((folder / "metadata").iterdir(), key=lambda path: path.name)
    suffixes = [[path.stem.rpartition("_")[2] for path in part] for part in (arrays, tables)]
    assert suffixes[0] == suffixes[1]
    loaded = [np.load(path, mmap_mode="r", allow_pickle=False) for path in arrays]
    rows = [row for path in tables for row in pq.ParquetFile(path).read().to_pylist()]
    assert sum(map(len, loaded)) == len(rows)
    return np.concatenate(loaded), rows


def check_rows_are_aligned(store: Store, folder: Path, image_ids: set[str]) -> None:
    vectors_ND, rows = read(folder)
    assert vectors_ND.dtype == np.float16
    np.testing.assert_allclose(np.linalg.norm(vectors_ND.astype(float), axis=1), 1, atol=2e-3)
    assert {row["image_id"] for row in rows} == image_ids
    ids, stored_ND = store.vectors(CLIP, "set.00000")
    stored = dict(zip(ids, stored_ND, strict=True))
    samples = {row["image_id"]: row for row in store.samples("set.00000").to_pylist()}
    for vector_D, row in zip(vectors_ND, rows, strict=True):
        np.testing.assert_array_equal(vector_D, stored[row["image_id"]])
        sample = samples[row["image_id"]]
        assert row["caption"] == sample["caption"]
        assert row["image_path"] == sample["member"]
        assert row["sha256"] == sample["sha256"]
        assert "secret" not in (row["url"] or "")


def test_images_of_the_pairs_with_their_vectors(tmp_path: Path) -> None:
    store = run_of(tmp_path, SHOTS)
    rows = selected_of(store)[:5]
    review(store, rows)
    deliver(store, "clip-retrieval", tmp_path / "out")
    named = {row[name] for row in rows for name in ("image_1", "image_2")}
    assert 2 <= len(named) < len(SHOTS)
    check_rows_are_aligned(store, tmp_path / "out", named)


def test_all_images(reviewed: Store, tmp_path: Path) -> None:
    deliver(reviewed, "clip-retrieval", tmp_path / "out", all_images=True, limit=1)
    everything = set(reviewed.samples("set.00000")["image_id"].to_pylist())
    check_rows_are_aligned(reviewed, tmp_path / "out", everything)


def test_names_of_many_parts_sort_as_their_numbers(
    reviewed: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deliver(reviewed, "clip-retrieval", tmp_path / "whole", all_images=True)
    monkeypatch.setattr(clip_retrieval, "PART_ROWS", 1)
    deliver(reviewed, "clip-retrieval", tmp_path / "parts", all_images=True)
    names = sorted(path.name for path in (tmp_path / "parts" / "img_emb").iterdir())
    assert (names[0], names[-1]) == ("img_emb_00.npy", "img_emb_11.npy")
    whole, parts = read(tmp_path / "whole"), read(tmp_path / "parts")
    np.testing.assert_array_equal(whole[0], parts[0])
    assert whole[1] == parts[1]
    assert (tmp_path / "whole" / "img_emb" / "img_emb_0.npy").exists()


def test_images_without_a_vector_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = run_of(tmp_path, many_shots(2))

    def fewer(self: Store, encoder_id: str, shard_id: str) -> tuple[list[str], np.ndarray]:
        ids, vectors_ND = vectors(self, encoder_id, shard_id)
        return ids[1:], vectors_ND[1:]

    vectors = Store.vectors
    monkeypatch.setattr(Store, "vectors", fewer)
    with pytest.raises(StoreError, match=r"1 images of shard set.00000 have no CLIP vector"):
        deliver(store, "clip-retrieval", tmp_path / "out")
    assert not (tmp_path / "out").exists()
