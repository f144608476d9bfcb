"""Answers of other models, which answer in words: read from a file, and held against a set.

A line is one answer: the question's id and the text. In `jsonl` and CSV the id is called
`question_id`, `id` or `Index`, the text `response`, `text`, `prediction`, `output` or `answer`,
whichever comes first in this order.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from miner.errors import LabelError
from miner.evaluate import Evaluation, Outcome, figures
from miner.measuring.labelled import Item, LabelledSet, Question, read_text
from miner.measuring.spoken import parse_option

ID_NAMES = ("question_id", "id", "index")
TEXT_NAMES = ("response", "text", "prediction", "output", "answer")
"""What the columns are called, in small letters; the first that is there is taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsed:
    """What answers say of a set.

    Attributes:
        chosen: the place of the option that was chosen, by question; None where it is unclear.
        num_unparsed: answers from which no single option can be told.
        num_missing: questions that nobody answered.
    """

    chosen: Mapping[str, int | None]
    num_unparsed: int
    num_missing: int


def read_answers(path: Path, labelled: LabelledSet) -> Parsed:
    """The answers in a file, held against the questions of a set.

    Args:
        path: `.jsonl`, or `.csv`.
        labelled: whose questions they answer.

    Raises:
        LabelError: the file cannot be read, an id is unknown or answered twice, or no answer is
            for this set.
    """
    questions = {question.id: question for item in labelled.items for question in item.questions}
    chosen: dict[str, int | None] = {}
    for place, row in _rows(path):
        id, text = _id(row, place), _text(row, place)
        if id not in questions:
            known = next(iter(questions))
            raise LabelError(
                f"{place}: {labelled.place} has no question {id[:80]!r}; it has {len(questions)}, "
                f"as {known!r}"
            )
        if id in chosen:
            raise LabelError(f"{place}: question {id!r} is answered twice; keep one answer")
        chosen[id] = parse_option(text, questions[id].options)
    if not chosen:
        raise LabelError(f"{path} holds no answer; give a line for each question")
    return Parsed(
        chosen=chosen,
        num_unparsed=sum(place is None for place in chosen.values()),
        num_missing=len(questions) - len(chosen),
    )


def evaluate_answers(labelled: LabelledSet, path: Path) -> Evaluation:
    """Measure a model by its answers; one that is unclear or missing is wrong, and counted.

    Args:
        labelled: the set.
        path: the answers, see `read_answers`.

    Raises:
        LabelError: the answers cannot be read.
    """
    parsed = read_answers(path, labelled)
    outcomes = tuple(_outcome(item, parsed) for item in labelled.items)
    num = len(parsed.chosen) + parsed.num_missing
    return Evaluation(
        model=path.stem,
        labelled=labelled,
        figures=tuple(figures(labelled.items, outcomes)),
        outcomes=outcomes,
        notes=(
            *labelled.notes,
            f"{parsed.num_unparsed} of {num} questions have an answer that names no single option, "
            f"{parsed.num_missing} have none; both count as wrong",
        ),
    )


def _outcome(item: Item, parsed: Parsed) -> Outcome:
    right = [_is_right(question, parsed) for question in item.questions]
    ways = len(item.questions[0].options)
    return {("individual", ways): right, ("pair", ways): [all(right)]}


def _is_right(question: Question, parsed: Parsed) -> bool:
    return parsed.chosen.get(question.id) == question.right


def _rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The rows of a file, each with what to call it; names of columns in small letters."""
    text = read_text(path)
    if path.suffix.lower() == ".csv":
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        try:
            for number, row in enumerate(reader, start=1):
                yield f"{path}: row {number}", {str(name).lower(): row[name] for name in row}
        except csv.Error as error:
            raise LabelError(f"{path} is no CSV ({error}); mend it") from error
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        place = f"{path}: line {number}"
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise LabelError(f"{place} is no JSON ({error}); mend the line") from error
        if not isinstance(value, dict):
            raise LabelError(f"{place} is no JSON object; mend the line")
        yield place, {name.lower(): value[name] for name in value}


def _id(row: Mapping[str, Any], place: str) -> str:
    value = next((row[name] for name in ID_NAMES if row.get(name) is not None), None)
    if not _is_plain(value):
        nothing = [name for name in ID_NAMES if name in row]
        fact = f"{nothing[0]} is {_shown(row[nothing[0]])}" if nothing else "an id is missing"
        raise LabelError(f"{place}: {fact}; name the question as {' or '.join(ID_NAMES)}")
    return str(value).strip()


def _text(row: Mapping[str, Any], place: str) -> str:
    """What was answered; nothing where it is null, as of a model that gave none."""
    given = [name for name in TEXT_NAMES if name in row]
    if not given:
        raise LabelError(f"{place}: an answer is missing; name it {' or '.join(TEXT_NAMES)}")
    name = next((name for name in given if row[name] is not None), given[0])
    if row[name] is not None and not _is_plain(row[name]):
        raise LabelError(f"{place}: {name} is {_shown(row[name])}; give a text, or null for none")
    return "" if row[name] is None else str(row[name])


def _is_plain(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool))


def _shown(value: object) -> str:
    return "null" if value is None else json.dumps(value)[:80]
