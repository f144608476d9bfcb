"""The law of imports: every row is a sample or refused, every sample a vector or refused."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import miner.importing.into_run
from miner.audit import verify
from miner.errors import FingerprintError, StoreError
from miner.importing.encoder import imported_encoder
from miner.importing.into_run import Imported, dataset_of, import_embeddings
from miner.importing.sources import open_source
from miner.store import Store
from tests.foreign import some_vectors, write_clip_retrieval

ORIGIN = {"format": "clip-retrieval", "source": "/somewhere", "ids": "key"}


def run_import(
    root: Path,
    source: Path,
    name: str,
    format: str = "clip-retrieval",
    *,
    dataset: str = "set",
    ids_are: str = "key",
    **how: Any,
) -> tuple[Store, Imported]:
    store, parts = Store(root), open_source(format, source, **how)
    encoder = imported_encoder(name, parts[0].vectors.dim, declared_dim=parts[0].vectors.dim)
    done = import_embeddings(
        store,
        parts,
        encoder,
        dataset=dataset,
        origin=ORIGIN | {"ids": ids_are},
        command={"command": "import"},
        by_position=how.get("by_position", False),
    )
    assert verify(store) == []
    assert store.leftovers() == []
    return store, done


def hostile_part() -> tuple[np.ndarray, dict[str, list[Any]]]:
    vectors = some_vectors(9).astype(np.float64)
    vectors[1], vectors[2, 3] = 0, np.nan
    keys = ["a", "zero", "nan", "a", "../../etc/passwd", "", "x\ny", None, "<script>"]
    captions = ["=1+1", None, "", "b", "\0", "ok", "ok", "ok", "</script>"]
    return vectors, {"key": keys, "caption": captions, "width": [1.0, -1, 2**40, *[0.5] * 6]}


def test_nothing_is_lost(tmp_path: Path) -> None:
    source = write_clip_retrieval(tmp_path / "src", [hostile_part()])
    store, done = run_import(tmp_path / "run", source, "c")
    samples = store.samples("set.00000").to_pylist()
    refused = store.quarantine("set.00000").to_pylist()
    assert [row["key"] for row in samples] == ["a", "zero", "nan", "../../etc/passwd", "<script>"]
    assert [(row["reason"], row["detail"][:5]) for row in refused] == [
        ("duplicate_key", "row 3"),
        ("unsafe_name", "row 5"),
        ("unsafe_name", "row 6"),
        ("unsafe_name", "row 7"),
    ]
    assert [row["width"] for row in samples] == [1, 0, 0, 0, 0]
    assert {(row["num_bytes"], row["format"], row["phash"]) for row in samples} == {
        (0, "unknown", 0)
    }
    (encoder_id,) = store.encoder_ids()
    ids, vectors_ND = store.vectors(encoder_id, "set.00000")
    assert [name.split("/", 2)[2] for name in ids] == ["a", "../../etc/passwd", "<script>"]
    assert np.isfinite(vectors_ND).all()
    record = store.record(f"vectors/{encoder_id}", "set.00000")
    assert record["reasons"] == {"nonfinite": 1, "zero_vector": 1}
    assert dict(done.refused) == {
        "duplicate_key": 1,
        "unsafe_name": 3,
        "zero_vector": 1,
        "nonfinite": 1,
    }
    assert (done.num_bad, done.num_unknown, done.is_partial) == (6, 0, True)
    assert {path.parent.parent for path in tmp_path.rglob("passwd*")} == set()


def test_sha256_is_the_metadatas_or_marked_as_made_up(tmp_path: Path) -> None:
    columns = {"key": ["a", "b", "c"], "sha256": ["A" * 64, "a" * 63, None]}
    source = write_clip_retrieval(tmp_path / "src", [(some_vectors(3), columns)])
    store, _ = run_import(tmp_path / "run", source, "c")
    rows = store.samples("set.00000").to_pylist()
    assert rows[0]["sha256"] == "a" * 64
    assert '"sha256_of":"metadata"' in rows[0]["meta"].replace(" ", "")
    assert len({row["sha256"] for row in rows}) == 3
    assert all('"image_id"' in row["meta"] for row in rows[1:])


def test_large_parts_become_several_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("miner.importing.samples.SHARD_ROWS", 4)
    keys = [f"k{row}" for row in range(10)]
    keys[9] = "k0"
    vectors = some_vectors(10)
    source = write_clip_retrieval(tmp_path / "src", [(vectors, {"key": keys})])
    store, done = run_import(tmp_path / "run", source, "c")
    shards = ["set.00000-000", "set.00000-001", "set.00000-002"]
    assert store.committed("samples") == shards
    assert [store.samples(name).num_rows for name in shards] == [4, 4, 1]
    # An id counts once in a part, also where a later shard has it again.
    assert done.refused["duplicate_key"] == 1
    order = np.random.default_rng(0).permutation(9)
    np.save(tmp_path / "d.npy", vectors[order])
    listed = tmp_path / "ids.txt"
    listed.write_text("".join(f"{keys[row]}\n" for row in order))
    _, second = run_import(tmp_path / "run", tmp_path / "d.npy", "d", "npy", ids=listed)
    assert not second.is_partial
    for name in shards:
        first, other = (store.vectors(each, name) for each in store.encoder_ids())
        assert first[0] == other[0]
        np.testing.assert_array_equal(first[1], other[1])


def interrupted_import(
    root: Path, source: Path, monkeypatch: pytest.MonkeyPatch, function: str, calls: int
) -> None:
    """An import that dies after so many calls of a function that it uses."""
    true, seen = getattr(miner.importing.into_run, function), []

    def dying(*args: Any, **more: Any) -> Any:
        seen.append(1)
        if len(seen) > calls:
            raise KeyboardInterrupt
        return true(*args, **more)

    with monkeypatch.context() as patch:
        patch.setattr(miner.importing.into_run, function, dying)
        with pytest.raises(KeyboardInterrupt):
            run_import(root, source, "c")


@pytest.mark.parametrize("function", ["commit_samples", "commit_vectors"])
@pytest.mark.parametrize("calls", [0, 1, 2])
def test_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, calls: int
) -> None:
    parts = [
        (some_vectors(4, seed=n), {"key": [f"{n}-{row}" for row in range(4)]}) for n in range(3)
    ]
    source = write_clip_retrieval(tmp_path / "src", parts)
    interrupted_import(tmp_path / "run", source, monkeypatch, function, calls)
    store, done = run_import(tmp_path / "run", source, "c")
    whole, _ = run_import(tmp_path / "whole", source, "c")
    assert not done.is_partial
    (encoder_id,) = store.encoder_ids()
    for shard_id in whole.committed("samples"):
        assert store.samples(shard_id).equals(whole.samples(shard_id))
        before, after = (s.vectors(encoder_id, shard_id) for s in (whole, store))
        assert before[0] == after[0]
        np.testing.assert_array_equal(before[1], after[1])


def test_what_a_killed_import_left_is_removed(tmp_path: Path) -> None:
    source = write_clip_retrieval(tmp_path / "src", [(some_vectors(2), {"key": ["a", "b"]})])
    dead = tmp_path / "run" / "samples" / "set.00000.0123.parquet"
    dead.parent.mkdir(parents=True)
    dead.write_bytes(b"half a file")
    run_import(tmp_path / "run", source, "c")
    assert not dead.exists()


def test_steps_are_counted_to_their_number(tmp_path: Path) -> None:
    parts = [(some_vectors(2, seed=n), {"key": [f"{n}a", f"{n}b"]}) for n in range(3)]
    source = open_source("clip-retrieval", write_clip_retrieval(tmp_path / "src", parts))
    said: list[int] = []
    import_embeddings(
        Store(tmp_path / "run"),
        source,
        imported_encoder("c", 8, declared_dim=8),
        dataset="set",
        origin=ORIGIN,
        command={"command": "import"},
        progress=said.append,
    )
    assert said == [6] * 6


def test_parts_that_changed_are_refused(tmp_path: Path) -> None:
    columns = {"key": ["a", "b"]}
    source = write_clip_retrieval(tmp_path / "src", [(some_vectors(2), columns)])
    run_import(tmp_path / "run", source, "c")
    np.save(source / "img_emb/img_emb_0.npy", some_vectors(2, seed=1))
    with pytest.raises(FingerprintError, match=r"img_emb_0\.npy has other bytes since set\.00000"):
        run_import(tmp_path / "run", source, "c")
    # The same bytes with another date are the same part.
    np.save(source / "img_emb/img_emb_0.npy", some_vectors(2))
    run_import(tmp_path / "run", source, "c")
    write_clip_retrieval(tmp_path / "src", [(some_vectors(2), {"key": ["a", "c"]})])
    with pytest.raises(FingerprintError, match=r"metadata_0\.parquet has other bytes"):
        run_import(tmp_path / "run", source, "c")


def test_changed_vectors_of_a_second_encoder_are_refused(tmp_path: Path) -> None:
    columns = {"key": ["a", "b"]}
    source = write_clip_retrieval(tmp_path / "src", [(some_vectors(2), columns)])
    run_import(tmp_path / "run", source, "c")
    other = write_clip_retrieval(tmp_path / "dino", [(some_vectors(2, 3), columns)])
    run_import(tmp_path / "run", other, "d")
    np.save(other / "img_emb/img_emb_0.npy", some_vectors(2, 3, seed=1))
    with pytest.raises(FingerprintError, match="has other bytes since"):
        run_import(tmp_path / "run", other, "d")


def test_new_parts_are_added(tmp_path: Path) -> None:
    parts = [
        (some_vectors(4, seed=n), {"key": [f"{n}-{row}" for row in range(4)]}) for n in range(3)
    ]
    source = write_clip_retrieval(tmp_path / "src", parts[:2])
    run_import(tmp_path / "run", source, "c")
    shutil.rmtree(source)
    # Written again, as another run of the other tool would.
    write_clip_retrieval(source, parts)
    store, done = run_import(tmp_path / "run", source, "c")
    assert dict(done.shards) == {"known": 2, "new": 1}
    assert len(store.committed("samples")) == 3


@pytest.mark.parametrize(
    ("name", "then", "told"),
    [("emb_3.npy", "emb_4.npy", None), ("train.npy", "val.npy", "would be part train, and its")],
)
def test_a_folder_that_grows_by_its_second_file(
    tmp_path: Path, name: str, then: str, told: str | None
) -> None:
    (tmp_path / "npy").mkdir()
    np.save(tmp_path / "npy" / name, some_vectors(3))
    run_position(tmp_path / "run", tmp_path / "npy", "c")
    np.save(tmp_path / "npy" / then, some_vectors(2, seed=1))
    if told is None:
        _, done = run_position(tmp_path / "run", tmp_path / "npy", "c")
        assert (done.num_images, done.new_samples) == (5, 2)
        return
    with pytest.raises(StoreError, match=f"{told} bytes are those of part 00000 of dataset"):
        run_position(tmp_path / "run", tmp_path / "npy", "c")


def test_parquet_in_another_order(tmp_path: Path) -> None:
    """Rows of Parquet are read in its order, and put where their ids belong."""
    keys = [f"k{row}" for row in range(9)]
    clip = write_clip_retrieval(tmp_path / "src", [(some_vectors(9), {"key": keys})])
    run_import(tmp_path / "run", clip, "c")
    order, dino = np.random.default_rng(0).permutation(9), some_vectors(9, 5, seed=3)
    frame = pd.DataFrame({"key": [keys[row] for row in order], "vector": [*dino[order]]})
    frame.to_parquet(tmp_path / "d.parquet", row_group_size=2)
    store, _ = run_import(tmp_path / "run", tmp_path / "d.parquet", "d", "parquet")
    _, vectors_ND = store.vectors(store.encoder_ids()[1], "set.00000")
    unit = dino / np.linalg.norm(dino, axis=1, keepdims=True)
    np.testing.assert_allclose(vectors_ND.astype(np.float32), unit, atol=1e-3)


def test_ids_that_nobody_knows(tmp_path: Path) -> None:
    source = write_clip_retrieval(tmp_path / "src", [(some_vectors(2), {"key": ["a", "b"]})])
    run_import(tmp_path / "run", source, "c")
    other = write_clip_retrieval(tmp_path / "other", [(some_vectors(2), {"url": ["u", "v"]})])
    with pytest.raises(StoreError, match=r"no id of the source .* 'u', 'v', ... there, 'a', 'b'"):
        run_import(tmp_path / "run", other, "d")


def test_shards_that_are_not_in_the_source_wait(tmp_path: Path) -> None:
    parts = [
        (some_vectors(4, seed=n), {"key": [f"{n}-{row}" for row in range(4)]}) for n in range(2)
    ]
    both = write_clip_retrieval(tmp_path / "src", parts)
    run_import(tmp_path / "run", both, "c")
    first = write_clip_retrieval(tmp_path / "first", parts[:1])
    _store, done = run_import(tmp_path / "run", first, "d")
    assert dict(done.shards) == {"new": 1, "untouched": 1}
    assert (done.num_missing, done.is_partial) == (4, True)
    _, done = run_import(tmp_path / "run", both, "d")
    assert dict(done.shards) == {"known": 1, "new": 1}
    assert not done.is_partial


def test_positions_are_ids_where_that_is_said(tmp_path: Path) -> None:
    for name, seed in (("clip", 0), ("dino", 1), ("short", 2)):
        np.save(tmp_path / f"{name}.npy", some_vectors(2 if name == "short" else 3, seed=seed))
    run = tmp_path / "run"
    run_position(run, tmp_path / "clip.npy", "c")
    store, done = run_position(run, tmp_path / "dino.npy", "d")
    assert not done.is_partial
    assert store.samples("set.00000")["key"].to_pylist() == [f"{row:09d}" for row in range(3)]
    with pytest.raises(StoreError, match="has 2 rows, and 3 when its images were imported"):
        run_position(run, tmp_path / "short.npy", "e")
    keyed = write_clip_retrieval(tmp_path / "src", [(some_vectors(3), {"key": list("abc")})])
    run_import(tmp_path / "keyed", keyed, "c")
    with pytest.raises(StoreError, match="has images with ids, not row numbers"):
        run_position(tmp_path / "keyed", tmp_path / "dino.npy", "d")


def run_position(root: Path, source: Path, name: str) -> tuple[Store, Imported]:
    return run_import(root, source, name, "npy", by_position=True, ids_are="position")


def test_dataset_is_the_given_one_the_only_one_or_the_sources(tmp_path: Path) -> None:
    store = Store(tmp_path / "run")
    assert dataset_of(store, None, "src") == "src"
    source = write_clip_retrieval(tmp_path / "src", [(some_vectors(2), {"key": ["a", "b"]})])
    run_import(tmp_path / "run", source, "c")
    assert dataset_of(store, None, "src") == "set"
    run_import(tmp_path / "run", source, "c", dataset="other")
    assert dataset_of(store, "other", "src") == "other"
    with pytest.raises(StoreError, match="holds the datasets other, set; give one"):
        dataset_of(store, None, "src")
