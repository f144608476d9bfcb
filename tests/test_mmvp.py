"""MMVP and MMVP-VLM: rows by two, their images, and the labels that are wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from miner.errors import LabelError
from miner.measuring.mmvp import WRONG_LABELS, read_mmvp, read_mmvp_vlm
from tests.labelled_sets import Twins, twins, write_csv, write_mmvp, write_mmvp_vlm

PAIRS = twins(4)
TINY = Twins(attribute="x", values=("1", "2"), images=(b"1", b"2"), statements=("one", "two"))


def test_mmvp(tmp_path: Path) -> None:
    found = read_mmvp(write_mmvp(tmp_path / "set", PAIRS))
    assert [item.name for item in found.items] == ["1-2", "3-4", "5-6", "7-8"]
    assert [[q.right for q in item.questions] for item in found.items] == [[0, 1], [1, 0]] * 2
    for number, (item, pair) in enumerate(zip(found.items, PAIRS, strict=True)):
        assert item.statements == tuple(f"a picture of {text}" for text in pair.statements)
        assert [q.options[q.right] for q in item.questions] == list(pair.statements)
        assert [q.id for q in item.questions] == [str(2 * number + 1), str(2 * number + 2)]
        assert tuple(source.read() for source in item.images) == pair.images
    assert found.notes == (
        "statements for encoders are a question and its option: the layout has no others",
    )


def test_the_public_labels_that_are_wrong(tmp_path: Path) -> None:
    folder = write_mmvp(tmp_path / "set", [TINY] * 150)
    as_published, corrected = read_mmvp(folder), read_mmvp(folder, correct_labels=True)
    assert "labels 99, 100, 279, 280 of the public MMVP are wrong" in as_published.notes[-1]
    assert "labels 99, 100, 279, 280 are swapped" in corrected.notes[-1]
    swapped = set()
    for before, after in zip(as_published.items, corrected.items, strict=True):
        if before.questions != after.questions:
            swapped |= {int(question.id) for question in after.questions}
            assert after.statements == before.statements[::-1]
            assert [q.right for q in after.questions] == [1 - q.right for q in before.questions]
    assert swapped == WRONG_LABELS


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([["q", "(a) x (b) y", "(a)"]], "has 1 rows; pairs need an even number"),
        (
            [["q", "(a) x (b) y", "(a)"], ["q", "(a) x (b) y", "(a)"]],
            "rows 1 and 2 are a pair, so one answer is",
        ),
        (
            [["q", "x or y", "(a)"], ["q", "(a) x (b) y", "(b)"]],
            r"rows 1 and 2: 1: the options 'x or y' are not \(a\)",
        ),
        (
            [["q", "(a) x (b) y (c) z", "(a)"], ["q", "(a) x (b) y", "(b)"]],
            r"are not \(a\) ... \(b\)",
        ),
        (
            [["q", "(a) x (b)", "(a)"], ["q", "(a) x (b) y", "(b)"]],
            r"are not \(a\) ... \(b\)",
        ),
        (
            [["q", "(a) x (b) y", "(a)"], ["q", "(a) x (b) y", "yes"]],
            r"rows 1 and 2: 2: the answer 'yes' is neither \(a\) nor \(b\)",
        ),
        (
            [["q", "(a) x (b) x", "(a)"], ["q", "(a) x (b) x", "(b)"]],
            "rows 1 and 2: both right answers read the same",
        ),
        ([["q", "(a) x (b) y"], ["q", "(a) x (b) y", "(b)"]], "row 1 has more or fewer cells"),
        (
            [["q", "(a) x (b) y", "(a)", "more"], ["q", "(a) x (b) y", "(b)"]],
            "row 1 has more or fewer cells",
        ),
        ([["q", "(a) x (b) y", "(a)"], ["q", "(a) x (b) y", "(b)"]], "there is no image 'MMVP Im"),
        ([], "holds no labelled pair"),
    ],
)
def test_bad_mmvp(tmp_path: Path, rows: list[list[str]], told: str) -> None:
    header = [["Question", "Options", "Correct Answer"]]
    write_csv(tmp_path / "Questions.csv", header + rows)
    with pytest.raises(LabelError, match=told):
        read_mmvp(tmp_path)


def test_bad_csv(tmp_path: Path) -> None:
    path = tmp_path / "Questions.csv"
    with pytest.raises(LabelError, match=r"Questions.csv cannot be read"):
        read_mmvp(tmp_path)
    path.write_text('Question,Options,Correct Answer\n"a')
    with pytest.raises(LabelError, match=r"is no CSV \(unexpected end of data\); mend it"):
        read_mmvp(tmp_path)
    path.write_text("Question,Answer\n")
    with pytest.raises(LabelError, match="has no column Options and no Correct Answer"):
        read_mmvp(tmp_path)


def test_mmvp_vlm(tmp_path: Path) -> None:
    found = read_mmvp_vlm(write_mmvp_vlm(tmp_path / "set", PAIRS))
    assert found.prompt == "a photo of {}"
    assert [item.subset for item in found.items] == ["Orientation"] * 2 + ["Color"] * 2
    for item, pair in zip(found.items, PAIRS, strict=True):
        assert item.statements == pair.statements
        assert [q.right for q in item.questions] == [0, 1]
        assert "-".join(q.id for q in item.questions) == item.name
        assert tuple(source.read() for source in item.images) == pair.images


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([[2, "Color", "x"], [3, "Color", "y"]], "the Question IDs '2' and '3'; a pair has an odd"),
        ([[1, "Color", "x"], [3, "Color", "y"]], "the Question IDs '1' and '3'"),
        ([["../1", "Color", "x"], [2, "Color", "y"]], "the Question IDs '../1' and '2'"),
        ([[1, "Color", "x"], [2, "Text", "y"]], "are a pair, but of different Types"),
        ([[1, "Color", "x"], [2, "Color", "x"]], "need two different statements"),
        ([[1, "Color", " "], [2, "Color", "x"]], "need two different statements"),
        ([[1, "../..", "x"], [2, "../..", "y"]], "leads out of"),
        ([[1, "Color", "x"], [2, "Color", "y"]], "there is no image 'MLLM_VLM Images/Color/1.jpg'"),
    ],
)
def test_bad_mmvp_vlm(tmp_path: Path, rows: list[list[object]], told: str) -> None:
    (tmp_path / "1.jpg").write_bytes(b"1")
    folder = tmp_path / "deep" / "set"
    write_csv(folder / "Questions.csv", [["Question ID", "Type", "Statement"], *rows])
    with pytest.raises(LabelError, match=told):
        read_mmvp_vlm(folder)
