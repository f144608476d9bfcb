"""Answers in a file, held against a set."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from miner.errors import LabelError
from miner.measuring.answers import evaluate_answers, read_answers
from miner.measuring.labelled import ImageSource, Item, LabelledSet, Question

WINGS = ("Open", "Closed")


def asked(num_pairs: int, options: tuple[str, ...] = WINGS) -> LabelledSet:
    image = ImageSource(name="none", read=bytes)
    return LabelledSet(
        layout="mmvp",
        place="a set",
        items=tuple(
            Item(
                name=str(pair),
                subset="odd" if pair % 2 else "even",
                images=(image, image),
                statements=options,
                questions=(
                    Question(id=str(2 * pair + 1), options=options, right=0),
                    Question(id=str(2 * pair + 2), options=options, right=1),
                ),
            )
            for pair in range(num_pairs)
        ),
        notes=("a note of the set",),
    )


def write_jsonl(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_accuracy_of_answers(tmp_path: Path) -> None:
    said = ["(a)", "(b)", "a", "a", "hm", "closed", "(a)"]
    rows = [{"question_id": n, "response": text} for n, text in enumerate(said, start=1)]
    found = evaluate_answers(asked(4), write_jsonl(tmp_path / "some-model.jsonl", rows))
    assert found.model == "some-model"
    shares = {
        (figure.subset, figure.measure): (figure.estimate.value, figure.chance)
        for figure in found.figures
    }
    assert shares == {
        ("even", "individual"): (3 / 4, 0.5),
        ("even", "pair"): (1 / 2, 0.25),
        ("odd", "individual"): (2 / 4, 0.5),
        ("odd", "pair"): (0, 0.25),
        ("all", "individual"): (5 / 8, 0.5),
        ("all", "pair"): (1 / 4, 0.25),
    }
    assert found.notes == (
        "a note of the set",
        "1 of 8 questions have an answer that names no single option, 1 have none; both count as "
        "wrong",
    )


def test_the_same_from_csv(tmp_path: Path) -> None:
    path = tmp_path / "answers.csv"
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.writer(file)
        writer.writerows([["Index", "Answer"], [1, "a,\nreally"], [2, '"(b)"'], [3, "open"]])
    parsed = read_answers(path, asked(2))
    assert dict(parsed.chosen) == {"1": None, "2": 1, "3": 0}
    assert (parsed.num_unparsed, parsed.num_missing) == (1, 1)


def test_the_answer_of_a_model_goes_before_the_right_one(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"question_id": 1, "answer": "(a)", "response": "(b)"}]
    parsed = read_answers(write_jsonl(tmp_path / "a.jsonl", rows), asked(1))
    assert parsed.chosen == {"1": 1}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('{"id": "9", "text": "a"}', "a set has no question '9'; it has 2, as '1'"),
        (
            '{"id": 1, "text": "a"}\n{"id": 1, "text": "b"}',
            "line 2: question '1' is answered twice",
        ),
        ("", "holds no answer; give a line for each question"),
        ("{", "line 1 is no JSON"),
        ("[" * 100_000, "line 1 is no JSON"),
        ("[1]", "line 1 is no JSON object"),
        ('{"id": true, "text": "a"}', "line 1: id is true; name the question as question_id or id"),
        ('{"id": null, "text": "a"}', "line 1: id is null"),
        ('{"text": "a"}', "line 1: an id is missing"),
        ('{"id": 1}', "line 1: an answer is missing; name it response or text"),
        ('{"id": 1, "text": ["a"]}', "line 1: text is .* give a text, or null for none"),
    ],
)
def test_bad_lines(tmp_path: Path, content: str, told: str) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text(content)
    with pytest.raises(LabelError, match=told):
        read_answers(path, asked(1))


def test_no_answer_is_unparsed(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"id": 1, "response": None}, {"id": 2, "response": "b"}]
    parsed = read_answers(write_jsonl(tmp_path / "a.jsonl", rows), asked(1))
    assert (dict(parsed.chosen), parsed.num_unparsed) == ({"1": None, "2": 1}, 1)


def test_bad_files(tmp_path: Path) -> None:
    path = tmp_path / "answers.csv"
    path.write_text('id,text\n1,"a\n')
    with pytest.raises(LabelError, match=r"answers.csv is no CSV \(unexpected end of data\)"):
        read_answers(path, asked(1))
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(LabelError, match="cannot be read"):
        read_answers(path, asked(1))
    with pytest.raises(LabelError, match="cannot be read"):
        read_answers(tmp_path / "none.jsonl", asked(1))
