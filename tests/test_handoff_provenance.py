import csv
import hashlib
import io
from pathlib import Path

import pytest
from PIL import Image

from miner.handoff.provenance import COLUMNS
from miner.store import Store
from tests.handoff_runs import deliver, selected_of
from tests.runs import CLIP, DINO


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "provenance.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_every_file_leads_back_to_its_bytes_in_a_shard(reviewed: Store, tmp_path: Path) -> None:
    deliver(reviewed, "mmvp", tmp_path / "out")
    rows, pairs = rows_of(tmp_path / "out"), selected_of(reviewed)[:-2]
    assert [row["pair_id"] for row in rows] == [pair["pair_id"] for pair in pairs]
    shard = Path(pairs[0]["shard_1"])
    for row, pair in zip(rows, pairs, strict=True):
        assert tuple(row) == COLUMNS
        for number in "12":
            assert row[f"shard_{number}"] == shard.name
            start = int(row[f"offset_{number}"])
            data = shard.read_bytes()[start : start + int(row[f"num_bytes_{number}"])]
            assert hashlib.sha256(data).hexdigest() == row[f"sha256_{number}"]
            assert (tmp_path / "out" / row[f"file_{number}"]).read_bytes() == data
            assert row[f"image_{number}"] == pair[f"image_{number}"]
            assert row[f"altered_{number}"] == ""


def test_every_pair_says_what_found_it(reviewed: Store, tmp_path: Path) -> None:
    deliver(reviewed, "webdataset", tmp_path / "out")
    for row in rows_of(tmp_path / "out"):
        assert (row["clip"], row["dino"]) == (CLIP, DINO)
        assert (row["clip_above"], row["dino_below"]) == ("0.95", "0.6")
        assert float(row["clip_cos"]) > 0.95
        assert float(row["dino_cos"]) < 0.6
        assert row["join"] == reviewed.joins()[0]
        assert row["blindpairs"]


@pytest.mark.parametrize("name", ["label-studio", "mmvp"])
def test_turned_images_are_marked_as_altered(reviewed: Store, tmp_path: Path, name: str) -> None:
    deliver(reviewed, name, tmp_path / "out", bake_orientation=True)
    assert "turned and encoded anew" in (tmp_path / "out" / "README.md").read_text("utf-8")
    for row in rows_of(tmp_path / "out"):
        for number in "12":
            data = (tmp_path / "out" / row[f"file_{number}"]).read_bytes()
            is_same = hashlib.sha256(data).hexdigest() == row[f"sha256_{number}"]
            is_turned = row[f"exif_orientation_{number}"] == "6"
            assert is_same is not is_turned
            assert row[f"file_format_{number}"] == Image.open(io.BytesIO(data)).format
            assert row[f"altered_{number}"] == ("turned by EXIF, PNG" if is_turned else "")
            assert row[f"file_{number}"].endswith(".png") or not is_turned or name == "mmvp"


def test_ids_alone_name_no_files_and_no_secrets(reviewed: Store, tmp_path: Path) -> None:
    deliver(reviewed, "hf", tmp_path / "out", images="none")
    rows = rows_of(tmp_path / "out")
    assert {row[name] for row in rows for name in ("file_1", "file_format_1", "altered_2")} == {""}
    urls = {row[f"url_{number}"] for row in rows for number in "12"}
    assert urls == {
        "",
        "https://a.example/b?w=9",
        "https://a.example/c",
        "https://a.example/d.jpg",
    }
