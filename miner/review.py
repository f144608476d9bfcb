"""What people say of pairs: accepted or rejected, the pattern, the difference, the question.

A reviewer's decisions are lines of JSON, one decision to a line; a later line of the same reviewer
on the same pair takes the place of an earlier one. How a run keeps them is said in
`miner/reviewing/kept.py`.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from miner.config import Settings
from miner.errors import StoreError
from miner.pairs import pair_id
from miner.records import canonical

MAX_TEXT_CHARS = 4000
"""Longest text of a decision, in characters."""

MAX_AHEAD = timedelta(days=1)
"""How far the clock of whoever decided may be ahead of this machine's."""

WRITTEN_OUT = re.compile(r"\d{4}-\d\d-\d\d[Tt ]")
"""How a time begins; a plain number would be taken for seconds since 1970."""

CONSENSUS = "consensus"
"""Who says what several reviewers say together; nobody's own name."""

Text = Annotated[str, Field(max_length=MAX_TEXT_CHARS)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pattern:
    """A visual pattern of MMVP.

    Attributes:
        name: as the paper says it.
        folder: its Type in MMVP-VLM, which also names the folder of its images.
    """

    name: str
    folder: str


PATTERNS: Mapping[int, Pattern] = {
    1: Pattern(name="orientation and direction", folder="Orientation"),
    2: Pattern(name="presence of specific features", folder="Presence"),
    3: Pattern(name="state and condition", folder="State"),
    4: Pattern(name="quantity and count", folder="Quantity"),
    5: Pattern(name="positional and relational context", folder="Spatial"),
    6: Pattern(name="color and appearance", folder="Color"),
    7: Pattern(name="structural and physical characteristics", folder="Structural Character"),
    8: Pattern(name="text", folder="Text"),
    9: Pattern(name="viewpoint and perspective", folder="Camera Perspective"),
}
"""The nine patterns by the number under which a reviewer gives them."""


class Decision(Settings):
    """What one reviewer says of one pair. What is said of image 1 goes by `sha256_1`."""

    pair_id: str = Field(pattern=r"^[0-9a-f]{16}$")
    """The pair's, which follows from both sha256."""

    sha256_1: Sha256
    """Hex sha256 of the bytes of image 1."""

    sha256_2: Sha256
    """Hex sha256 of the bytes of image 2."""

    image_1: Text = ""
    """image_id of image 1 where it was reviewed; for people."""

    image_2: Text = ""
    """image_id of image 2 where it was reviewed; for people."""

    reviewer: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    """Who says so; also the name of a file."""

    decision: Literal["accept", "reject"] | None = None
    """Whether the pair is worth keeping; None: not said yet."""

    pattern: int | None = Field(default=None, ge=1, le=9, strict=True)
    """Number of the visual pattern in which the images differ."""

    difference: Text = ""
    """The difference in words."""

    question: Text = ""
    """A question about either image, which the images answer differently."""

    option_1: Text = ""
    """The answer that is right for image 1."""

    option_2: Text = ""
    """The answer that is right for image 2."""

    statement_1: Text = ""
    """A sentence that is true of image 1 and false of image 2; `option_1` where it is empty."""

    statement_2: Text = ""
    """A sentence that is true of image 2 and false of image 1; `option_2` where it is empty."""

    decided_at: datetime
    """When it was said, with its time zone."""

    @field_validator("reviewer")
    @classmethod
    def _is_somebody(cls, reviewer: str) -> str:
        if reviewer.lower() == CONSENSUS:
            raise ValueError(f"{CONSENSUS} is who speaks for all reviewers; take another name")
        return reviewer

    @field_validator("decided_at", mode="before")
    @classmethod
    def _is_written_out(cls, when: Any) -> Any:
        if not isinstance(when, (str, datetime)) or (
            isinstance(when, str) and not WRITTEN_OUT.match(when)
        ):
            raise ValueError("decided_at is no time; give it as 2026-01-31T12:00:00Z")
        return when

    @model_validator(mode="after")
    def _is_one_pair(self) -> Self:
        if self.pair_id != pair_id(self.sha256_1, self.sha256_2):
            raise ValueError(f"pair_id {self.pair_id} is not that of the two sha256")
        if self.decided_at.tzinfo is None:
            raise ValueError("decided_at has no time zone; give it as 2026-01-31T12:00:00Z")
        try:
            when = self.decided_at.astimezone(UTC)
        except OverflowError as error:
            raise ValueError("decided_at is outside the years 1 to 9999 of UTC") from error
        if when > datetime.now(UTC) + MAX_AHEAD:
            raise ValueError("decided_at is more than a day ahead; set the clock right")
        return self

    @property
    def statements(self) -> tuple[str, str]:
        """What is true of image 1 and of image 2 alone; empty where nothing was said."""
        return self.statement_1 or self.option_1, self.statement_2 or self.option_2

    def seen_from(self, sha256_1: str) -> Decision:
        """This decision with that image as image 1, whichever it was for the reviewer."""
        if sha256_1 == self.sha256_1:
            return self
        turned = {
            f"{name}_{here}": getattr(self, f"{name}_{there}")
            for name in ("sha256", "image", "option", "statement")
            for here, there in ((1, 2), (2, 1))
        }
        return self.model_copy(update=turned)

    def line(self) -> str:
        """The decision as a line of a file, without its end."""
        fields = self.model_dump(mode="json", exclude={"decided_at"})
        when = self.decided_at.astimezone(UTC).isoformat(timespec="milliseconds")
        return canonical({**fields, "decided_at": when.replace("+00:00", "Z")})


def parse_decisions(data: bytes, place: str) -> list[Decision]:
    """Decisions from the lines of a file, in their order; of repeated ones the last.

    Args:
        data: the file's bytes; empty lines are passed over.
        place: where it lies, for messages.

    Raises:
        StoreError: a line is no decision; the message names it.
    """
    found: dict[tuple[str, str], Decision] = {}
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            said = Decision(**json.loads(line.decode()))
        except (ValidationError, ValueError, TypeError, RecursionError) as error:
            raise no_decision(place, number, error) from error
        key = (said.reviewer, said.pair_id)
        # Taken out first, so that what was said last also stands last.
        found.pop(key, None)
        found[key] = said
    return list(found.values())


def no_decision(place: str, number: int, error: Exception) -> StoreError:
    """What to raise where a line of a file is no decision."""
    return StoreError(
        f"{place}: line {number} is no decision ({first_fault(error)}); mend the line or remove it"
    )


def first_fault(error: Exception) -> str:
    """What is wrong with a line, in one line."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(str(part) for part in first['loc']) or 'fields'}: {first['msg']}"
    return str(error).partition("\n")[0]


def encode_decisions(decisions: Iterable[Decision]) -> bytes:
    """Decisions as the bytes of a file, one to a line."""
    return "".join(said.line() + "\n" for said in decisions).encode()


def consensus(decisions: Iterable[Decision]) -> dict[str, Decision]:
    """What the reviewers together say of each pair, by pair_id.

    A pair is accepted or rejected by the majority of those who decided, and undecided (None) where
    they are as many. Its pattern is that of most, its words are those of one reviewer: of those
    who agree with the outcome, whoever filled the most fields, then whoever came last.

    Args:
        decisions: of any number of reviewers, at most one of each on a pair.

    Returns:
        One decision to a pair; `reviewer` is `consensus` where several spoke.
    """
    by_pair: dict[str, list[Decision]] = defaultdict(list)
    for said in decisions:
        by_pair[said.pair_id].append(said)
    return {pair: _agreed(said) for pair, said in sorted(by_pair.items())}


def _agreed(said: list[Decision]) -> Decision:
    if len(said) == 1:
        return said[0]
    votes = Counter(each.decision for each in said)
    difference = votes["accept"] - votes["reject"]
    outcome: Literal["accept", "reject"] | None = None
    if difference:
        outcome = "accept" if difference > 0 else "reject"
    agreeing = [each for each in said if each.decision == outcome] or said
    words = max(agreeing, key=lambda each: (_num_filled(each), each.decided_at, each.line()))
    patterns = Counter(each.pattern for each in agreeing if each.pattern is not None)
    pattern = min(patterns, key=lambda each: (-patterns[each], each), default=None)
    update = {"decision": outcome, "pattern": pattern, "reviewer": CONSENSUS}
    return words.model_copy(update=update)


def _num_filled(said: Decision) -> int:
    names = ("difference", "question", "option_1", "option_2", "statement_1", "statement_2")
    return sum(bool(getattr(said, name)) for name in names)
