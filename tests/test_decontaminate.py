import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from miner.config import SelectSettings
from miner.errors import FingerprintError
from miner.select import select
from miner.store import Store
from miner.why import explain
from tests.blind_runs import all_told, blind_run, image, name_of, selected_with, told
from tests.runs import CLIP, DINO, commit_shard, unit

PHASH = 2**63 + 2**40


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Four images, all blind with one another; the bytes of image n are its number."""
    fields = [{"phash": PHASH ^ mask} for mask in (0, 0xFF00, 0xFF0000, 0xFF000000)]
    return blind_run(tmp_path / "run", fields, contents=[b"0", b"1", b"2", b"3"])


def test_bytes_and_looks(store: Store, tmp_path: Path) -> None:
    listed = tmp_path / "list.txt"
    listed.write_text(f"{hashlib.sha256(b'0').hexdigest()}\n{PHASH ^ 0xFF07:016x}\n")
    assert selected_with(store, not_in=str(listed)) == {
        "kept": 1,
        "listed_bytes": 3,
        "listed_looks": 2,
    }
    said = all_told(store, 4)
    assert said[0, 2] == f"not selected: {image(0)} has the bytes of line 1 in {listed}"
    assert said[1, 2].startswith(f"not selected: {image(1)} looks like line 2 in {listed}: at most")
    assert said[2, 3] == "selected"
    assert selected_with(store, not_in=str(listed), not_in_phash=2)["kept"] == 3
    record = store.join_record(name_of(store))
    assert record is not None
    assert record["selection"]["not_in"] == {
        "images": 2,
        "unread": 0,
        "without_bytes": 0,
        "known_by": {"sha256": 1, "phash": 1, "vectors": None},
    }


def test_vectors_of_another_run(store: Store, tmp_path: Path) -> None:
    other = Store(tmp_path / "other")
    other.update_run({}, {}, {"command": "test"})
    _, clip = store.vectors(CLIP, "set.00000")
    _, dino = store.vectors(DINO, "set.00000")
    near = torch.from_numpy(dino[1:2].copy()).float() + 0.01
    fields = [{"phash": 0x0F0F0F0F}, {"phash": 0xF0F0F0F0}]
    # The second has the CLIP vector of image 2 alone, which makes no near-copy.
    vectors = [torch.from_numpy(clip[1:3].copy()).float(), torch.cat([near, -near])]
    commit_shard(other, "00007", *map(unit, vectors), fields=fields, contents=[b"x", b"y"])
    assert selected_with(store, not_in=str(other.root)) == {"kept": 3, "listed_vectors": 3}
    assert told(store, 0, 1) == (
        f"not selected: {image(1)} is a near-copy of set/00007/000000 in {other.root}"
    )
    record = store.join_record(name_of(store))
    assert record is not None
    assert record["selection"]["not_in"]["known_by"] == {"sha256": 2, "phash": 2, "vectors": 2}
    assert selected_with(store, not_in=str(other.root), near_dino=0.999999) == {"kept": 6}


def test_a_selection_follows_its_list(store: Store, tmp_path: Path) -> None:
    listed = tmp_path / "list.parquet"
    pq.write_table(pa.table({"sha256": [hashlib.sha256(b"0").hexdigest()]}), listed)
    settings = SelectSettings(max_per_image=None, not_in=str(listed))
    before = select(store, name_of(store), settings)["selection"]
    moved = listed.rename(tmp_path / "moved.parquet")
    elsewhere = settings.model_copy(update={"not_in": str(moved)})
    assert select(store, name_of(store), elsewhere)["selection"] == before
    moved.rename(listed)
    pq.write_table(pa.table({"sha256": [hashlib.sha256(b"1").hexdigest()]}), listed)
    with pytest.raises(FingerprintError, match="is not what was selected from; run `blindpairs se"):
        explain(store, name_of(store), image(0), image(1))
    assert select(store, name_of(store), settings)["selection"] != before
    assert told(store, 0, 1).startswith(f"not selected: {image(1)} has the bytes of row 1")


def test_a_run_is_not_kept_clear_of_itself(store: Store) -> None:
    with pytest.raises(ValueError, match="is a run whose own pairs are selected from"):
        selected_with(store, not_in=str(store.root))
