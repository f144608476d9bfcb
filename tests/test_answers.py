"""Which option an answer in words means, and what becomes of those that mean none."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miner.errors import LabelError
from miner.measuring.answers import evaluate_answers, parse_option, read_answers
from miner.measuring.labelled import ImageSource, Item, LabelledSet, Question

WINGS = ("Open", "Closed")


@pytest.mark.parametrize(
    "text",
    [
        *("b", "B", "(b)", "(B)", "b)", "B.", " b. ", "b:", "**B**", "'b'", "( b )"),
        *("The answer is (b)", "The answer is b.", "the answer is b because of the light"),
        *("Answer: B", "answer:(b)", "Option B", "The correct option is (b).", "My choice is b!"),
        *(
            "The answer to the question is (b).",
            "(b) Closed",
            "b) Closed",
            "B. Closed",
            "B: closed",
        ),
        *("closed", "Closed.", "The wings are closed.", "They're CLOSED, I think", "\uff22"),
        *("The answer is a closed wing", "(b), i.e. not like in the U.S.A.", "I\u2019d say (b)"),
        "An answer: it's closed",
    ],
)
def test_second_option(text: str) -> None:
    assert parse_option(text, WINGS) == 1


@pytest.mark.parametrize(
    "text",
    [
        *("", "c", "(c)", "yes", "Both are possible", "(a) or (b)", "either a) or b)"),
        *("open or closed", "It is not open but closed", "The answer is a bird", "unclosedness"),
        *("Answer: C", "A bird", "I cannot tell.", "option a, or option b"),
    ],
)
def test_no_single_option(text: str) -> None:
    assert parse_option(text, WINGS) is None


def test_an_option_that_is_part_of_another() -> None:
    assert parse_option("a red car", ("red", "dark red")) == 0
    assert parse_option("a dark red car", ("red", "dark red")) == 1
    assert parse_option("dark red, not red", ("red", "dark red")) is None


def test_options_that_are_letters() -> None:
    swapped = ("B", "A")
    assert parse_option("(a)", swapped) == 0
    assert parse_option("A", swapped) is None
    assert parse_option("A", ("A", "B")) == 0
    assert parse_option("K", ("K", "O")) == 0
    assert parse_option("the letter O", ("K", "O")) == 1
    assert parse_option("Vitamin B.", ("Vitamin B", "Vitamin C")) == 0


def test_four_options() -> None:
    options = ("on", "under", "to the left of", "to the right of")
    assert parse_option("The answer is (d)", options) == 3
    assert parse_option("It is to the left of the chair", options) == 2
    assert parse_option("same", ("same", "same")) is None


@given(st.text(max_size=60), st.lists(st.text(min_size=1, max_size=8), min_size=2, max_size=4))
def test_any_text_is_an_option_or_none(text: str, options: list[str]) -> None:
    found = parse_option(text, options)
    assert found is None or 0 <= found < len(options)


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
        ('{"id": true, "text": "a"}', "line 1 has none of question_id, id, index"),
        ('{"id": 1, "text": null}', "line 1 has none of response, text"),
    ],
)
def test_bad_lines(tmp_path: Path, content: str, told: str) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text(content)
    with pytest.raises(LabelError, match=told):
        read_answers(path, asked(1))


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
