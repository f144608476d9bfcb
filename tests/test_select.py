from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from miner.config import JoinSettings, SelectSettings
from miner.errors import StoreError
from miner.join import join
from miner.records import Json
from miner.select import select
from miner.store import Store
from tests.runs import CLIP, DINO, commit_shard, make_store, unit

SETTINGS = JoinSettings(clip_above=0.9, dino_below=0.3)


def joined(store: Store) -> Path:
    join(store, CLIP, DINO, SETTINGS, SelectSettings())
    return store.root / "pairs" / store.joins()[0]


def chosen(folder: Path) -> list[Json]:
    return pq.read_table(folder / "selected.parquet").to_pylist()


def test_cap_bounds_the_pairs_of_every_image(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    folder = joined(store)
    for cap in (1, 3):
        select(store, folder.name, SelectSettings(max_per_image=cap))
        rows = chosen(folder)
        used = Counter(image for row in rows for image in (row["image_1"], row["image_2"]))
        assert max(used.values()) == cap
    record = select(store, folder.name, SelectSettings(max_per_image=None))
    assert len(chosen(folder)) == len(store.raw(folder.name)) == record["counts"]["blind"]


@pytest.mark.parametrize(("rank_by", "column"), [("clip", "clip_cos"), ("gap", "gap")])
def test_ranking(tmp_path: Path, rank_by: str, column: str) -> None:
    store = make_store(tmp_path)
    folder = joined(store)
    select(store, folder.name, SelectSettings(max_per_image=None, rank_by=rank_by))  # type: ignore[arg-type]
    rows = chosen(folder)
    assert [row["rank"] for row in rows] == list(range(1, len(rows) + 1))
    values = [row[column] for row in rows]
    assert values == sorted(values, reverse=True)


def test_metadata_of_both_images_is_carried(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    folder = joined(store)
    select(store, folder.name, SelectSettings())
    for row in chosen(folder):
        for side in ("1", "2"):
            _, stem, key = row[f"image_{side}"].split("/")
            assert row[f"key_{side}"] == key
            assert row[f"shard_{side}"] == f"/corpus/{stem}.tar"
            assert row[f"caption_{side}"] == f"a caption of {key}"
            assert (row[f"width_{side}"], row[f"height_{side}"]) == (640, 480)


def near_copy_store(root: Path, labels: Sequence[str | None] | None = None) -> Store:
    """Images 0 and 1 are near-copies; 2 is their blind partner; 3 is blind to nobody."""
    store = Store(root)
    store.update_run({}, {}, {"command": "test"})
    clip = torch.tensor([[1.0, 0.0, 0], [1.0, 0.01, 0], [1.0, 0.2, 0], [0, 0, 1.0]])
    dino = torch.tensor([[1.0, 0.0], [1.0, 0.05], [0.0, 1.0], [0.0, 1.0]])
    commit_shard(store, "00000", unit(clip), unit(dino), labels=labels)
    return store


def test_near_copies_count_once(tmp_path: Path) -> None:
    store = near_copy_store(tmp_path)
    folder = joined(store)
    assert len(store.raw(folder.name)) == 2
    record = select(store, folder.name, SelectSettings(max_per_image=None))
    assert record["selection"]["counts"] == {"kept": 1, "near_copy_of_kept": 1}
    (row,) = chosen(folder)
    # The best ranked of the two stands for the group.
    assert row["clip_cos"] == max(store.raw(folder.name)["clip_cos"].to_pylist())
    record = select(store, folder.name, SelectSettings(max_per_image=None, near_dino=0.9999))
    assert record["selection"]["counts"] == {"kept": 2}


def test_selection_is_made_once_and_anew_with_other_settings(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    folder = joined(store)
    select(store, folder.name, SelectSettings())
    path = folder / "selected.parquet"
    before = path.stat().st_mtime_ns
    select(store, folder.name, SelectSettings())
    assert path.stat().st_mtime_ns == before
    path.write_bytes(b"broken")
    select(store, folder.name, SelectSettings())
    assert len(chosen(folder)) > 0


def test_joining_again_drops_the_old_selection(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    folder = joined(store)
    select(store, folder.name, SelectSettings())
    commit_shard(store, "00008", *(store.vectors(e, "set.00000")[1][:3] for e in (CLIP, DINO)))
    joined(store)
    assert not (folder / "selected.parquet").exists()


def test_selecting_from_a_damaged_join(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    folder = joined(store)
    next(folder.glob("raw/*.parquet")).unlink()
    with pytest.raises(StoreError, match="holds no whole join; run `blindpairs join"):
        select(store, folder.name, SelectSettings())


def test_other_selection_drops_the_report_of_the_former(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    folder = joined(store)
    select(store, folder.name, SelectSettings())
    (folder / "report").mkdir()
    select(store, folder.name, SelectSettings())
    assert (folder / "report").exists()
    select(store, folder.name, SelectSettings(max_per_image=1))
    assert not (folder / "report").exists()


@pytest.mark.parametrize(
    ("wanted", "labels", "counts"),
    [
        ("same", "abb", {"different_labels": 1, "kept": 1}),
        ("different", "abb", {"kept": 1, "same_label": 1}),
        ("different", "a-b", {"kept": 1, "no_label": 1}),
        ("same", "aa-", {"no_label": 2}),
        # Near-copies count once among pairs whose labels are right, as everywhere.
        ("same", "aaa", {"kept": 1, "near_copy_of_kept": 1}),
        ("any", "abc", {"kept": 1, "near_copy_of_kept": 1}),
    ],
)
def test_labels_of_both_images(
    tmp_path: Path, wanted: str, labels: str, counts: dict[str, int]
) -> None:
    store = near_copy_store(tmp_path, [None if x == "-" else x for x in f"{labels}z"])
    folder = joined(store)
    settings = SelectSettings(max_per_image=None, labels=wanted)  # type: ignore[arg-type]
    record = select(store, folder.name, settings)
    assert record["selection"]["counts"] == counts
    for row in chosen(folder):
        assert wanted == "any" or (row["label_1"] == row["label_2"]) == (wanted == "same")


def test_pairs_of_the_wrong_labels_use_up_nobodys_share(tmp_path: Path) -> None:
    store = near_copy_store(tmp_path, "abbz")
    folder = joined(store)
    settings = SelectSettings(max_per_image=1, near_dino=0.9999, labels="same")
    assert select(store, folder.name, settings)["selection"]["counts"]["kept"] == 1
    (row,) = chosen(folder)
    assert (row["key_1"], row["key_2"]) == ("000001", "000002")
