"""Encoders side by side: accuracy on statements, and who calls which pairs the same."""

from __future__ import annotations

from pathlib import Path

import open_clip
import pytest

from miner.encoders import TorchEncoder, load_encoder
from miner.evaluate import encode_images, evaluate
from miner.measuring.compare import compare_accuracy, compare_sameness
from miner.measuring.labelled import LabelledSet
from miner.measuring.layouts import read_labelled
from miner.measuring.measures import cosine
from miner.text import load_text_tower
from tests.labelled_sets import twins, write_jsonl


@pytest.fixture(scope="module")
def clip() -> TorchEncoder:
    return load_encoder("demo-clip")


@pytest.fixture(scope="module")
def dino() -> TorchEncoder:
    return load_encoder("demo-dino")


@pytest.fixture(scope="module")
def hidden(tmp_path_factory: pytest.TempPathFactory) -> LabelledSet:
    folder = tmp_path_factory.mktemp("hidden")
    return read_labelled(write_jsonl(folder, twins(28, "hidden")), "jsonl")


def test_who_calls_them_the_same(
    hidden: LabelledSet, clip: TorchEncoder, dino: TorchEncoder
) -> None:
    by_clip = compare_sameness(hidden, clip, 0.95)
    by_dino = compare_sameness(hidden, dino, 0.95)
    assert by_clip.shares["all"].value > 0.9
    assert by_dino.shares["all"].value < 0.3
    assert by_clip.shares["all"].num == 28
    assert (by_clip.above, by_clip.pixels) == (0.95, 64)
    subsets = [s.value for name, s in by_clip.shares.items() if name != "all"]
    assert len(subsets) == 7
    assert by_clip.average == pytest.approx(sum(subsets) / 7)
    assert list(by_clip.shares)[-1] == "all"


def test_the_threshold_itself_is_not_above(hidden: LabelledSet, clip: TorchEncoder) -> None:
    vectors = encode_images(hidden, clip)
    cosines = [cosine(*(vectors[i.name] for i in item.images)) for item in hidden.items]
    found = compare_sameness(hidden, clip, min(cosines))
    assert found.shares["all"].value == pytest.approx(27 / 28)


def test_accuracy_by_pattern(tmp_path: Path, clip: TorchEncoder) -> None:
    labelled = read_labelled(write_jsonl(tmp_path, twins(8)), "jsonl")
    tower = load_text_tower("demo-clip")
    found = evaluate(labelled, clip, tower)
    row = compare_accuracy(found, clip, "pair", [clip.module, tower.module])
    assert list(row.shares) == ["shape", "colour", "place", "time", "all"]
    assert row.average == 1
    assert row.above is None
    # Both towers of open_clip's model, without its logit scale.
    assert clip.record.config is not None
    whole = open_clip.CLIP(**clip.record.config)
    numel = sum(parameter.numel() for parameter in whole.parameters()) - 1
    assert row.parameters_m == pytest.approx(numel / 1e6)
    with pytest.raises(ValueError, match="'cosine' is not measured; choose from individual, pair,"):
        compare_accuracy(found, clip, "cosine", [])


def test_one_subset_is_its_own_average(tmp_path: Path, clip: TorchEncoder) -> None:
    labelled = read_labelled(write_jsonl(tmp_path, twins(1)), "jsonl")
    row = compare_sameness(labelled, clip, 0.95)
    assert row.average == row.shares["all"].value
