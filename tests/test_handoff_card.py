from pathlib import Path

from miner.config import SelectSettings
from miner.select import select
from miner.store import Store
from tests.handoff_runs import deliver, many_shots, run_of
from tests.runs import CLIP


def test_card_says_what_whence_and_whose(reviewed: Store, tmp_path: Path) -> None:
    deliver(reviewed, "mmvp", tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert text.startswith("# 64 CLIP-blind pairs\n")
    assert "above 0.95" in text
    assert "below 0.6" in text
    assert "reviewers accepted 64; handed off is what they accepted" in text
    assert f"| CLIP | {CLIP} | not told |" in text
    assert "MMVP Images/1.jpg" in text
    assert "this hand-off gives none" in text.replace("\n", " ")


def test_card_says_that_nobody_reviewed(tmp_path: Path) -> None:
    store = run_of(tmp_path, many_shots(3))
    deliver(store, "fiftyone", tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert "Of 3 that were selected, nobody has reviewed any" in text


def test_card_of_ids_says_how_images_come_in(reviewed: Store, tmp_path: Path) -> None:
    deliver(reviewed, "hf", tmp_path / "ids", images="none")
    text = (tmp_path / "ids" / "README.md").read_text("utf-8")
    assert text.startswith("# 64")
    assert "blindpairs hydrate FOLDER --shards" in text
    assert "(`hf`)" in text
    deliver(reviewed, "hf", tmp_path / "all", images="none", reviewed="all")
    text = (tmp_path / "all" / "README.md").read_text("utf-8")
    assert "every selected pair" in text


def test_card_names_the_settings_of_the_selection(tmp_path: Path) -> None:
    store = run_of(tmp_path, many_shots(3))
    select(store, store.joins()[0], SelectSettings(max_pairs=2))
    deliver(store, "csv", tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert "They were selected by these options:\n\n    --max-pairs 2\n" in text
