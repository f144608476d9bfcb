from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from miner.config import JoinSettings, SelectSettings
from miner.errors import StoreError
from miner.join import join
from miner.select import select
from miner.store import Store
from miner.why import explain
from tests.runs import CLIP, DINO, commit_shard, unit

IDS = [f"set/00000/{row:06d}" for row in range(6)]


@pytest.fixture
def run(tmp_path: Path) -> tuple[Store, str]:
    """0 and 1 are near-copies and blind with 2; 3 is far away; 4 is alike; 5 is a copy of 2."""
    store = Store(tmp_path)
    store.update_run({}, {}, {"command": "test"})
    clip = torch.tensor([[1, 0, 0], [1, 0.01, 0], [1, 0.2, 0], [0, 0, 1], [1, 0.1, 0], [1, 0.2, 0]])
    dino = torch.tensor([[1, 0], [1, 0.05], [0, 1], [0, 1], [1, 0.6], [0, 1]])
    contents = [b"0", b"1", b"2", b"3", b"4", b"2"]
    commit_shard(store, "00000", unit(clip), unit(dino), contents=contents, refused=1)
    settings = JoinSettings(clip_above=0.9, dino_below=0.3)
    join(store, CLIP, DINO, settings, SelectSettings())
    return store, store.joins()[0]


@pytest.mark.parametrize(
    ("pair", "verdict"),
    [
        ((0, 1), "not blind: DINO cosine 0.998"),
        ((0, 3), "no candidate: CLIP cosine 0.000000 is not above 0.9"),
        ((2, 5), "the two images are the same bytes"),
        ((2, 4), "not blind: DINO cosine 0.51"),
        ((1, 5), "nothing was selected yet"),
    ],
)
def test_verdicts_before_selection(
    run: tuple[Store, str], pair: tuple[int, int], verdict: str
) -> None:
    what = explain(*run, IDS[pair[0]], IDS[pair[1]])
    assert verdict in what.verdict
    assert what == explain(*run, IDS[pair[1]], IDS[pair[0]])


def test_verdicts_after_selection(run: tuple[Store, str]) -> None:
    store, name = run
    select(store, name, SelectSettings(max_per_image=1))
    said = {row: explain(store, name, IDS[row], IDS[2]).verdict for row in (0, 1)}
    assert sorted(text.split("; ")[1] for text in said.values()) == [
        "not selected: near-copies of both were selected at a better rank",
        "selected",
    ]


@pytest.mark.parametrize(
    ("wanted", "labels", "verdict"),
    [
        ("same", "ab", "not selected: the images have different labels"),
        ("different", "aa", "not selected: both images have the same label"),
        ("different", ["a", None], "not selected: labels different, and an image has no label"),
        ("different", "ab", "; selected"),
    ],
)
def test_verdicts_on_labels(
    tmp_path: Path, wanted: str, labels: Sequence[str | None], verdict: str
) -> None:
    store = Store(tmp_path)
    store.update_run({}, {}, {"command": "test"})
    clip, dino = torch.tensor([[1.0, 0], [1, 0.1]]), torch.tensor([[1.0, 0], [0, 1]])
    commit_shard(store, "00000", unit(clip), unit(dino), labels=labels)
    which = SelectSettings(labels=wanted)  # type: ignore[arg-type]
    join(store, CLIP, DINO, JoinSettings(clip_above=0.9, dino_below=0.3), which)
    (name,) = store.joins()
    select(store, name, which)
    assert explain(store, name, IDS[0], IDS[1]).verdict.endswith(verdict)


def test_copy_is_followed_to_the_image_that_stands_for_it(run: tuple[Store, str]) -> None:
    what = explain(*run, IDS[0], IDS[5])
    assert (what.stands_for_1, what.stands_for_2) == (IDS[0], IDS[2])
    assert "in raw as" in what.verdict


def test_cosines_are_those_of_the_stored_vectors(run: tuple[Store, str]) -> None:
    store, name = run
    _, vectors = store.vectors(CLIP, "set.00000")
    a, b = vectors[0].astype(float), vectors[2].astype(float)
    expected = (a @ b) / ((a @ a) ** 0.5 * (b @ b) ** 0.5)
    assert explain(store, name, IDS[0], IDS[2]).clip_cos == pytest.approx(expected, abs=1e-12)


def test_cap_and_embedded_after_the_join(run: tuple[Store, str]) -> None:
    store, name = run
    commit_shard(store, "00001", *(store.vectors(e, "set.00000")[1][:2] for e in (CLIP, DINO)))
    what = explain(store, name, "set/00001/000000", IDS[2])
    assert "embedded after the join" in what.verdict


def test_copy_that_came_after_the_join_changes_nothing(run: tuple[Store, str]) -> None:
    store, name = run
    vectors = [store.vectors(encoder, "set.00000")[1][:1] for encoder in (CLIP, DINO)]
    (late,) = commit_shard(store, "0000", *vectors, contents=[b"0"])
    assert late < IDS[0]
    assert explain(store, name, IDS[0], IDS[2]).stands_for_1 == IDS[0]
    assert explain(store, name, late, IDS[2]).stands_for_1 == IDS[0]


def test_one_image_is_no_pair(run: tuple[Store, str]) -> None:
    with pytest.raises(ValueError, match="is named twice; give two images"):
        explain(*run, IDS[0], IDS[0])


def test_unknown_and_refused_images(run: tuple[Store, str]) -> None:
    with pytest.raises(StoreError, match=r"bad0 is no sample .* it was refused: empty \(0 bytes\)"):
        explain(*run, "set/00000/bad0", IDS[0])
    with pytest.raises(StoreError, match=r"nowhere is no sample .* `blindpairs status`"):
        explain(*run, "set/00000/nowhere", IDS[0])
