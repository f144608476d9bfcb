import csv
from pathlib import Path

import numpy as np
import pytest

from miner.errors import ShardError
from miner.store import Store
from tests.commands import Commands
from tests.handoff_runs import deliver, many_shots, originals_of, review, run_of, selected_of
from tests.test_import_commands import JOIN, imported


def test_taking_what_is_the_default_is_the_same_hand_off(tmp_path: Path) -> None:
    store = run_of(tmp_path, many_shots(3))
    deliver(store, "csv", tmp_path / "all")
    assert not deliver(store, "csv", tmp_path / "all", reviewed="all").written.is_new
    review(store, selected_of(store)[:2])
    done = deliver(store, "csv", tmp_path / "accepted")
    assert done.source.reviewed == "accepted"
    assert (done.written.num_pairs, done.written.num_images) == (2, 3)
    assert not deliver(store, "csv", tmp_path / "accepted", reviewed="accepted").written.is_new


def test_a_lost_image_takes_only_its_pairs_along(tmp_path: Path) -> None:
    store = run_of(tmp_path, many_shots(4))
    lost, shard = sorted(originals_of(store).items())[0], tmp_path / "corpus" / "00000.tar"
    shard.write_bytes(shard.read_bytes().replace(lost[1], lost[1][::-1]))
    with pytest.raises(ShardError, match="not the recorded"):
        deliver(store, "webdataset", tmp_path / "out")
    done = deliver(store, "webdataset", tmp_path / "out", skip_missing=True)
    assert (done.written.num_pairs, done.num_left_out) == (3, 3)
    with (tmp_path / "out" / "missing.csv").open(encoding="utf-8", newline="") as file:
        assert [row["sha256"] for row in csv.DictReader(file)] == [lost[0]]
    assert not deliver(store, "webdataset", tmp_path / "out", skip_missing=True).written.is_new
    shard.write_bytes(bytes(len(shard.read_bytes())))
    with pytest.raises(ShardError, match="not the recorded"):
        deliver(store, "webdataset", tmp_path / "none", skip_missing=True)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(("name", "settings"), [("csv", {}), ("hf", {"images": "none"})])
def test_no_image_is_missing_where_none_is_written(
    reviewed: Store, tmp_path: Path, name: str, settings: dict[str, str]
) -> None:
    with pytest.raises(ValueError, match="--skip-missing has no effect where no images"):
        deliver(reviewed, name, tmp_path / "out", skip_missing=True, **settings)


def test_imported_embeddings_are_handed_off_without_images(
    commands: Commands, tmp_path: Path
) -> None:
    _, store = imported(commands, tmp_path)
    assert commands("join", store.root, *JOIN).code == 0
    for name in ("csv", "jsonl", "clip-retrieval"):
        deliver(store, name, tmp_path / name)
    with (tmp_path / "csv" / "provenance.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["pair_id"] for row in rows] == [row["pair_id"] for row in selected_of(store)]
    assert rows[0]["clip"].startswith("clip-x-")
    with pytest.raises(ShardError, match=r"only its embeddings were imported"):
        deliver(store, "webdataset", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_handed_off_for_clip_retrieval_is_imported_again(
    reviewed: Store, commands: Commands, tmp_path: Path
) -> None:
    deliver(reviewed, "clip-retrieval", tmp_path / "out", all_images=True)
    done = commands(
        *("import", "clip-retrieval", tmp_path / "out", "--out", tmp_path / "run"),
        *("--encoder", "clip-x", "--dim", 16),
    )
    assert done.code == 0, done.err
    store = Store(tmp_path / "run")
    (encoder_id,) = store.encoder_ids()
    (shard_id,) = store.committed("samples")
    ids, vectors_ND = store.vectors(encoder_id, shard_id)
    again = captions_of(store, shard_id)
    old_ids, old_ND = reviewed.vectors(reviewed.encoder_ids()[0], "set.00000")
    captions = captions_of(reviewed, "set.00000")
    order, old_order = np.lexsort(vectors_ND.T), np.lexsort(old_ND.T)
    np.testing.assert_array_equal(vectors_ND[order], old_ND[old_order])
    assert [again[ids[row]] for row in order] == [captions[old_ids[row]] for row in old_order]


def captions_of(store: Store, shard_id: str) -> dict[str, list[str]]:
    """The words of every caption; blanks are the importer's business."""
    rows = store.samples(shard_id).to_pylist()
    return {row["image_id"]: (row["caption"] or "").split() for row in rows}
