"""Answers of other models, which answer in words: read from a file, and held against a set.

A line is one answer: the question's id and the text. In `jsonl` and CSV the id is called
`question_id`, `id` or `Index`, the text `response`, `text`, `prediction`, `output` or `answer`,
whichever comes first in this order.
"""

from __future__ import annotations

import csv
import io
import json
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from miner.errors import LabelError
from miner.evaluate import Evaluation, Outcome, figures
from miner.measuring.labelled import Item, LabelledSet, Question, read_text

ID_NAMES = ("question_id", "id", "index")
TEXT_NAMES = ("response", "text", "prediction", "output", "answer")
"""What the columns are called, in small letters; the first that is there is taken."""

_MARKED = re.compile(r"\(\s*([a-z])\s*\)|(?<![a-z0-9'.])([a-z])\s*[).:](?![a-z0-9])", re.IGNORECASE)
"""A letter in brackets, or with a bracket, point or colon behind it: (b)  b)  B.  b:"""

_SAID = re.compile(
    r"\b(?:answer|option|choice)\b(?:\s+(?:is|would\s+be|should\s+be))?\s*:?\s*"
    r"[(\"'*]*(?:(a)(?=\s*(?:[^\w\s']|$))|([b-z])\b(?!'))",
    re.IGNORECASE,
)
"""A letter that is said to be the answer: the answer is b, Option B, Answer: (b). Before another
word, a is an article."""

_ALONE = re.compile(r"([\s\"'*_(]*)([a-z])[\s\"'*_.:)]*", re.IGNORECASE)
"""Nothing but a letter."""


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


def parse_option(text: str, options: Sequence[str]) -> int | None:
    """Which option an answer means, from 0 on; None where it means none, or several.

    Looked for in turn: an answer that is the text of an option and nothing else; nothing but a
    letter; a letter that is said to be the answer; letters with a bracket, point or colon; the
    text of an option among other words. The first of these that finds anything decides: one option
    is the answer, several are none. A bare letter that is also the text of another option is
    unclear. Of "red" and "dark red" only the longer counts where it stands.

    Args:
        text: the answer.
        options: those of the question, in the order (a), (b), ...
    """
    text = unicodedata.normalize("NFKC", text).replace("\u2019", "'").strip()
    letters = {chr(ord("a") + place): place for place in range(len(options))}
    exact = {place for place, option in enumerate(options) if _words(text) == _words(option)}
    if alone := _ALONE.fullmatch(text):
        by_letter = letters.get(alone[2].lower())
        if not exact or "(" in alone[1]:
            return by_letter
        return exact.pop() if exact == {by_letter} or by_letter is None else None
    if exact:
        return exact.pop() if len(exact) == 1 else None
    for pattern in (_SAID, _MARKED):
        found = ["".join(pair).lower() for pair in pattern.findall(text)]
        places = {letters[letter] for letter in found if letter in letters}
        if places:
            return places.pop() if len(places) == 1 else None
    return _by_words(text, options)


def _words(text: str) -> str:
    """The words of a text in small letters, between spaces."""
    words = re.findall(r"[^\W_]+", unicodedata.normalize("NFKC", text).lower())
    return f" {' '.join(words)} "


def _by_words(text: str, options: Sequence[str]) -> int | None:
    """The option whose text stands in an answer."""
    said = _words(text)
    longest_first = sorted(range(len(options)), key=lambda place: -len(_words(options[place])))
    places = set()
    for place in longest_first:
        words = _words(options[place])
        if words.strip() and words in said:
            places.add(place)
            # What is left over cannot be found again as part of a longer option.
            said = said.replace(words, " | ")
    return places.pop() if len(places) == 1 else None


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
        id, text = _field(row, ID_NAMES, place).strip(), _field(row, TEXT_NAMES, place)
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


def _field(row: Mapping[str, Any], names: Sequence[str], place: str) -> str:
    for name in names:
        value = row.get(name)
        if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
            return str(value)
    raise LabelError(f"{place} has none of {', '.join(names)}; name the question and the answer")
