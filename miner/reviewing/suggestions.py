"""What a program suggests that a reviewer may say: shown, and no decision until it is accepted."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from pydantic import Field, ValidationError

from miner.config import Settings
from miner.errors import StoreError
from miner.records import Json
from miner.review import Decision, Sha256, Text, first_fault

FIELDS = ("pattern", "difference", "question", "option_1", "option_2", "statement_1", "statement_2")
"""What may be suggested."""

PAIR_NAMES = ("pair_id", "sha256_1", "sha256_2")
"""Columns of `selected` that say which pair a suggestion is for."""


class Suggestion(Settings):
    """What may be said of a pair. A line of decisions is read as one, too."""

    pair_id: str = Field(pattern=r"^[0-9a-f]{16}$")
    """The pair's."""

    sha256_1: Sha256 | None = None
    """Which image `option_1` and `statement_1` are about, by its bytes; default: image 1."""

    pattern: int | None = Field(default=None, ge=1, le=9)
    """Number of the visual pattern."""

    difference: Text = ""
    """The difference in words."""

    question: Text = ""
    """A question about either image."""

    option_1: Text = ""
    """The answer that is right for image 1."""

    option_2: Text = ""
    """The answer that is right for image 2."""

    statement_1: Text = ""
    """A sentence that is true of image 1 and false of image 2."""

    statement_2: Text = ""
    """A sentence that is true of image 2 and false of image 1."""


def parse_suggestions(data: bytes, place: str) -> dict[str, Suggestion]:
    """Suggestions by pair_id, from lines of JSON; of two on one pair the later one stands.

    Args:
        data: the file's bytes; empty lines are passed over.
        place: where it lies, for messages.

    Raises:
        StoreError: a line is no suggestion; the message names it.
    """
    found = {}
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            fields = dict(json.loads(line.decode()))
            # Who decided what, and when, is nothing that could be suggested.
            other = Decision.model_fields.keys() - Suggestion.model_fields.keys()
            said = Suggestion(**{name: fields[name] for name in fields.keys() - other})
        except (ValidationError, ValueError, TypeError, RecursionError) as error:
            raise StoreError(
                f"{place}: line {number} is no suggestion ({first_fault(error)}); "
                "mend the line or remove it"
            ) from error
        found[said.pair_id] = said
    return found


def suggested(
    suggestions: Mapping[str, Suggestion], pairs: Sequence[Mapping[str, str]]
) -> dict[str, Json]:
    """What is suggested of some pairs, seen from their image 1.

    Args:
        suggestions: by pair_id.
        pairs: with `pair_id`, `sha256_1` and `sha256_2`.

    Returns:
        By pair_id what is suggested of it, without what is empty.

    Raises:
        StoreError: a suggestion speaks of an image that the pair does not have.
    """
    found = {}
    for pair in pairs:
        said = suggestions.get(pair["pair_id"])
        if said is None:
            continue
        if said.sha256_1 not in (None, pair["sha256_1"], pair["sha256_2"]):
            raise StoreError(
                f"a suggestion for pair {said.pair_id} has sha256_1 {said.sha256_1[:12]}, which "
                "is neither of its images; mend the line or leave sha256_1 out"
            )
        words = {name: getattr(said, name) for name in FIELDS}
        if said.sha256_1 == pair["sha256_2"]:
            words |= {"option_1": said.option_2, "option_2": said.option_1}
            words |= {"statement_1": said.statement_2, "statement_2": said.statement_1}
        if left := {name: word for name, word in words.items() if word}:
            found[said.pair_id] = left
    return found
