from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq
import pytest
import yaml

from miner.handoff import hugging_face
from miner.store import Store
from tests.handoff_runs import deliver, originals_of, selected_of


@pytest.fixture(scope="module")
def folder(reviewed: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("hf") / "out"
    deliver(reviewed, "hf", out)
    return out


def load(folder: Path, cache: Path) -> Any:
    return datasets.load_dataset(str(folder), cache_dir=str(cache))


def test_load_dataset_gives_the_pairs_with_the_bytes_of_their_shards(
    reviewed: Store, folder: Path, tmp_path: Path
) -> None:
    loaded = load(folder, tmp_path)
    assert list(loaded) == ["test"]
    pairs = loaded["test"]
    assert isinstance(pairs.features["image_1"], datasets.Image)
    assert pairs.features["clip_cos"] == datasets.Value("float32")
    assert pairs.features["borderline"] == datasets.Value("bool")
    originals, rows = originals_of(reviewed), selected_of(reviewed)[:-2]
    raw = pairs.cast_column("image_1", datasets.Image(decode=False))
    raw = raw.cast_column("image_2", datasets.Image(decode=False))
    assert len(raw) == len(rows)
    for found, row in zip(raw, rows, strict=True):
        for number in (1, 2):
            assert found[f"image_{number}"]["bytes"] == originals[row[f"sha256_{number}"]]
            assert found[f"image_id_{number}"] == row[f"image_{number}"]
            assert found[f"caption_{number}"] == row[f"caption_{number}"]
        for name in ("pair_id", "rank", "clip_cos", "dino_cos", "gap"):
            assert found[name] == row[name]
        assert found["question"] == f"How many, {row['rank']}?"


def test_images_are_decoded_by_datasets(folder: Path, tmp_path: Path) -> None:
    first = load(folder, tmp_path)["test"][0]
    assert first["image_1"].size == (96, 80)
    assert first["pattern"] == 4
    assert first["pattern_name"] == "quantity and count"


def test_card_names_split_size_and_licence(folder: Path) -> None:
    _, head, text = (folder / "README.md").read_text("utf-8").split("---\n", 2)
    said = yaml.safe_load(head)
    assert said["license"] == "other"
    assert said["size_categories"] == ["n<1K"]
    assert said["configs"][0]["data_files"] == [{"split": "test", "path": "data/test-*.parquet"}]
    assert "each keeps the licence it has where it comes from" in text


def test_large_hand_offs_are_parted(
    reviewed: Store, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hugging_face, "FILE_BYTES", 40_000)
    monkeypatch.setattr(hugging_face, "GROUP_BYTES", 10_000)
    deliver(reviewed, "hf", tmp_path / "out")
    parts = sorted((tmp_path / "out" / "data").iterdir())
    assert len(parts) > 3
    assert parts[1].name == f"test-00001-of-{len(parts):05d}.parquet"
    assert pq.ParquetFile(parts[0]).num_row_groups > 1
    whole = load(folder, tmp_path / "a")["test"]
    parted = load(tmp_path / "out", tmp_path / "b")["test"]
    assert parted["pair_id"][:] == whole["pair_id"][:]


def test_sizes_have_the_words_of_the_hub(reviewed: Store, tmp_path: Path) -> None:
    handoff = deliver(reviewed, "csv", tmp_path / "out").source.handoff
    for number, word in ((999, "n<1K"), (1000, "1K<n<10K"), (2 * 10**5, "100K<n<1M")):
        many = handoff.only([handoff.pairs[0]] * number)
        assert yaml.safe_load(hugging_face.front_matter(many).strip("-\n"))["size_categories"] == [
            word
        ]
