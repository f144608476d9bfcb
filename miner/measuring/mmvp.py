"""The layouts of MMVP and MMVP-VLM: pairs of consecutive rows of `Questions.csv`."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path

from miner.config import ImageLimits
from miner.errors import LabelError
from miner.measuring.labelled import (
    NO_PATTERN,
    Item,
    LabelledSet,
    Question,
    numbered_image,
    read_text,
)

WRONG_LABELS = frozenset({99, 100, 279, 280})
"""Rows of the public MMVP whose answers are swapped."""

PUBLIC_ROWS = 300
"""Rows of the public MMVP."""

VLM_PROMPT = "a photo of {}"
"""What the scorer of MMVP-VLM makes of a statement."""

_OPTION = re.compile(r"\(([a-z])\)\s*(.*?)\s*(?=\([a-z]\)|$)", re.IGNORECASE | re.DOTALL)


Row = dict[str, str]


def read_mmvp(folder: Path, *, correct_labels: bool = False) -> LabelledSet:
    """A folder laid out as MMVP: `Questions.csv` and `MMVP Images/<row>.jpg`.

    The layout has no statements. For encoders a question and its right option together are one.

    Args:
        folder: with both.
        correct_labels: swap the answers that the public set has wrong.

    Raises:
        LabelError: a row, or an image, is not as it has to be.
    """
    path = folder / "Questions.csv"
    rows = _rows(path, ("Question", "Options", "Correct Answer"))
    is_public = len(rows) == PUBLIC_ROWS
    if correct_labels and not is_public:
        raise LabelError(
            f"{path} has {len(rows)} rows; the wrong labels are known of the public MMVP, which "
            f"has {PUBLIC_ROWS}; leave --correct-labels out"
        )
    swapped = WRONG_LABELS if correct_labels else frozenset()
    limits = ImageLimits()
    items = [
        _asked(folder, place, number, pair, limits, swap=number in swapped)
        for place, number, pair in _pairs(path, rows)
    ]
    notes = ["statements for encoders are a question and its option: the layout has no others"]
    if is_public:
        said = ", ".join(map(str, sorted(WRONG_LABELS)))
        notes.append(
            f"the labels {said} are swapped, as those of the public MMVP are wrong"
            if correct_labels
            else f"the labels {said} of the public MMVP are wrong; --correct-labels swaps them"
        )
    return LabelledSet(
        layout="mmvp", place=str(folder), items=tuple(items), limits=limits, notes=tuple(notes)
    )


def _asked(
    folder: Path, place: str, number: int, pair: list[Row], limits: ImageLimits, *, swap: bool
) -> Item:
    """A pair of rows of MMVP, the first of which has that number."""
    questions = [
        _question(str(number + turn), row, f"{place}: {number + turn}", swap=swap)
        for turn, row in enumerate(pair)
    ]
    if {question.right for question in questions} != {0, 1}:
        raise LabelError(f"{place} are a pair, so one answer is (a) and one (b); mend them")
    statements = tuple(
        f"{row['Question']} {question.options[question.right]}".strip()
        for row, question in zip(pair, questions, strict=True)
    )
    if statements[0] == statements[1]:
        raise LabelError(f"{place}: both right answers read the same; mend the options")
    one, other = (
        numbered_image(folder, "MMVP Images", number + turn, place, limits) for turn in (0, 1)
    )
    return Item(
        name=f"{number}-{number + 1}",
        subset=NO_PATTERN,
        images=(one, other),
        statements=statements,
        questions=(questions[0], questions[1]),
    )


def _question(id: str, row: Row, place: str, *, swap: bool) -> Question:
    found = _OPTION.findall(row["Options"])
    letters = "".join(letter.lower() for letter, _ in found)
    options = tuple(text for _, text in found)
    if letters != "ab" or not all(options):
        raise LabelError(f"{place}: the options {row['Options']!r} are not (a) ... (b) ...")
    answer = row["Correct Answer"].strip().lower()
    if answer not in ("(a)", "(b)"):
        raise LabelError(f"{place}: the answer {answer!r} is neither (a) nor (b)")
    right = "ab".index(answer[1])
    return Question(id=id, options=options, right=1 - right if swap else right)


def read_mmvp_vlm(folder: Path) -> LabelledSet:
    """A folder laid out as MMVP-VLM: `Questions.csv` and `MLLM_VLM Images/<Type>/<id>.jpg`.

    Raises:
        LabelError: a row, or an image, is not as it has to be.
    """
    path = folder / "Questions.csv"
    rows = _rows(path, ("Question ID", "Type", "Statement"))
    limits = ImageLimits()
    items = [_stated(folder, place, pair, limits) for place, _, pair in _pairs(path, rows)]
    return LabelledSet(
        layout="mmvp-vlm", place=str(folder), items=tuple(items), prompt=VLM_PROMPT, limits=limits
    )


def _stated(folder: Path, place: str, pair: list[Row], limits: ImageLimits) -> Item:
    """A pair of rows of MMVP-VLM."""
    ids = [row["Question ID"].strip() for row in pair]
    numbers = [int(each) if re.fullmatch(r"[0-9]{1,9}", each) else 0 for each in ids]
    if numbers[0] % 2 == 0 or numbers[1] != numbers[0] + 1:
        raise LabelError(
            f"{place} have the Question IDs {ids[0]!r} and {ids[1]!r}; a pair has an odd one and "
            "the next"
        )
    kind, statements = pair[0]["Type"], tuple(row["Statement"].strip() for row in pair)
    if kind != pair[1]["Type"]:
        raise LabelError(f"{place} are a pair, but of different Types; mend them")
    if not all(statements) or statements[0] == statements[1]:
        raise LabelError(f"{place} need two different statements; mend them")
    one, other = (
        numbered_image(folder, f"MLLM_VLM Images/{kind}", number, place, limits)
        for number in numbers
    )
    return Item(
        name=f"{numbers[0]}-{numbers[1]}",
        subset=kind,
        images=(one, other),
        statements=statements,
        questions=(
            Question(id=str(numbers[0]), options=statements, right=0),
            Question(id=str(numbers[1]), options=statements, right=1),
        ),
    )


def _pairs(path: Path, rows: list[Row]) -> Iterator[tuple[str, int, list[Row]]]:
    """Consecutive rows by two: what to call them, the number of the first from 1 on, and both."""
    if len(rows) % 2:
        raise LabelError(f"{path} has {len(rows)} rows; pairs need an even number")
    for first in range(0, len(rows), 2):
        yield f"{path}: rows {first + 1} and {first + 2}", first + 1, rows[first : first + 2]


def _rows(path: Path, columns: tuple[str, ...]) -> list[Row]:
    """Rows of a CSV that has these columns, and perhaps others, in any order."""
    # Not by lines: a quoted cell may hold some.
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        rows = list(reader)
    except csv.Error as error:
        raise LabelError(f"{path} is no CSV ({error}); mend it") from error
    lacking = [name for name in columns if name not in (reader.fieldnames or [])]
    if lacking:
        raise LabelError(f"{path} has no column {' and no '.join(lacking)}")
    for number, row in enumerate(rows, start=1):
        if None in row or any(row[name] is None for name in columns):
            raise LabelError(f"{path}: row {number} has more or fewer cells than the header")
    return rows
