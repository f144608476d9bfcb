"""Answers as scores: a number for each option of a question, as a likelihood or a perplexity."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from miner.errors import LabelError
from miner.measuring import measures
from miner.measuring.labelled import Item

_COLUMN = re.compile(r"score_([1-9][0-9]?)")


def scores_of(row: Mapping[str, Any], num_options: int, place: str) -> tuple[float, ...] | None:
    """The scores in a row: a list called `scores`, or columns `score_1`, `score_2`, ...

    Args:
        row: names in small letters.
        num_options: of its question.
        place: what to call the row.

    Returns:
        None where it has no such field.

    Raises:
        LabelError: they are no numbers, or not one for each option.
    """
    columns = sorted((int(match[1]), name) for name in row if (match := _COLUMN.fullmatch(name)))
    if "scores" not in row and not columns:
        return None
    found = row["scores"] if "scores" in row else [row[name] for _, name in columns]
    # A CSV of questions with two and with four options has empty fields.
    if isinstance(found, list) and columns:
        found = [value for value in found if value not in (None, "")]
    if not isinstance(found, list) or len(found) != num_options:
        raise LabelError(
            f"{place}: the scores are {str(found)[:80]}; give {num_options} numbers, one for each "
            "option in the order of (a), (b), ..."
        )
    return tuple(_number(value, place) for value in found)


def _number(value: object, place: str) -> float:
    try:
        number = float(value) if isinstance(value, (int, float, str)) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number) or isinstance(value, bool):
        raise LabelError(f"{place}: the score {str(value)[:80]!r} is no finite number; mend it")
    return number


def best(scores: Sequence[float], *, lower_is_better: bool) -> int | None:
    """The place of the best score; None where several are."""
    top = min(scores) if lower_is_better else max(scores)
    return scores.index(top) if scores.count(top) == 1 else None


def leans(
    item: Item, scores: Mapping[str, tuple[float, ...]], *, lower_is_better: bool
) -> list[bool]:
    """Whether image 1 leans to its option more than image 2 does, see `measures.relaxed`.

    Nothing where a question has no scores, one is not positive, or an option of one question is
    none of the other.
    """
    one, other = item.questions
    if not {one.id, other.id} <= scores.keys():
        return []
    if len(one.options) == len(other.options) == 2:
        ours = [(one, one.right, 1 - one.right), (other, 1 - other.right, other.right)]
    elif one.options == other.options:
        ours = [(each, one.right, other.right) for each in item.questions]
    else:
        return []
    table = [[scores[each.id][first], scores[each.id][second]] for each, first, second in ours]
    found = measures.relaxed(np.array(table), higher_is_better=not lower_is_better)
    return [] if found is None else [found]
