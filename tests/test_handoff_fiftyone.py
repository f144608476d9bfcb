"""Held against what FiftyOne 1.22 writes and imports as a FiftyOneDataset."""

import json
import re
from pathlib import Path

import pytest

from miner.records import Json
from miner.store import Store
from tests.handoff_runs import deliver, originals_of, selected_of

FTYPES = {
    "fiftyone.core.fields.StringField": str,
    "fiftyone.core.fields.IntField": int,
    "fiftyone.core.fields.FloatField": float,
    "fiftyone.core.fields.BooleanField": bool,
    "fiftyone.core.fields.ListField": list,
    "fiftyone.core.fields.EmbeddedDocumentField": dict,
    "fiftyone.core.fields.ObjectIdField": dict,
}


@pytest.fixture(scope="module")
def folder(reviewed: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("fiftyone") / "out"
    deliver(reviewed, "fiftyone", out)
    return out


def metadata_of(folder: Path) -> Json:
    found: Json = json.loads((folder / "metadata.json").read_text("utf-8"))
    return found


def samples_of(folder: Path) -> list[Json]:
    found: list[Json] = json.loads((folder / "samples.json").read_text("utf-8"))["samples"]
    return found


def test_every_pair_is_a_group_of_left_and_right(reviewed: Store, folder: Path) -> None:
    samples, rows = samples_of(folder), selected_of(reviewed)[:-2]
    originals = originals_of(reviewed)
    assert len(samples) == 2 * len(rows)
    for row, left, right in zip(rows, samples[::2], samples[1::2], strict=True):
        assert left["group"]["_id"] == right["group"]["_id"]
        for number, side, sample in ((1, "left", left), (2, "right", right)):
            assert sample["group"]["name"] == side
            assert sample["pair_id"] == row["pair_id"]
            assert sample["image_id"] == row[f"image_{number}"]
            assert sample["caption"] == row[f"caption_{number}"]
            assert (folder / sample["filepath"]).read_bytes() == originals[row[f"sha256_{number}"]]
            assert sample["option_1"] == f"one of {row['rank']}"
            assert sample["pattern"] == "quantity and count"


def test_the_dataset_says_that_it_is_grouped(folder: Path) -> None:
    said = metadata_of(folder)
    assert said["media_type"] == "group"
    assert said["group_field"] == "group"
    assert said["group_media_types"] == {"left": "image", "right": "image"}
    assert said["default_group_slice"] == "left"
    # 1.0.0 gives every sample its times, and only to documents that say they are older.
    assert re.fullmatch(r"0\.\d+\.\d+", said["version"])
    assert "created_at" not in {field["name"] for field in said["sample_fields"]}
    assert said["info"]["clip_above"] == 0.95


def test_every_field_of_a_sample_is_declared_with_its_type(folder: Path) -> None:
    declared = {field["db_field"]: field for field in metadata_of(folder)["sample_fields"]}
    for field in declared.values():
        wanted = {"name", "ftype", "subfield", "embedded_doc_type", "fields", "db_field"}
        assert set(field) == wanted | {"description", "info", "read_only"}
    for sample in samples_of(folder):
        for name, value in sample.items():
            if name in ("_media_type", "_rand"):
                continue
            assert value is None or type(value) is FTYPES[declared[name]["ftype"]], name
        assert sample["_media_type"] == "image"
        assert 0 <= sample["_rand"] < 1


def test_ids_are_object_ids_and_each_is_used_once(folder: Path) -> None:
    ids = [sample["_id"]["$oid"] for sample in samples_of(folder)]
    ids += {sample["group"]["_id"]["$oid"] for sample in samples_of(folder)}
    assert len(ids) == len(set(ids))
    assert all(re.fullmatch(r"[0-9a-f]{24}", each) for each in ids)


def test_paths_lead_nowhere_else(folder: Path) -> None:
    for sample in samples_of(folder):
        assert re.fullmatch(r"data/[0-9a-f]{64}\.(jpg|png|webp)", sample["filepath"])
