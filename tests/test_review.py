"""Reviewers' decisions: their lines, and what they agree on."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from miner.errors import StoreError
from miner.review import PATTERNS, Decision, consensus, encode_decisions, parse_decisions
from tests.reviews import ONE, TWO, said

texts = st.text(
    st.characters(exclude_categories=["Cs"]),
    max_size=40,
)


@given(texts, texts, st.sampled_from([None, "accept", "reject"]), st.none() | st.integers(1, 9))
def test_lines_are_read_back(
    question: str, option: str, decision: str | None, pattern: int | None
) -> None:
    decisions = [
        said(question=question, option_1=option, decision=decision, pattern=pattern),
        said("bob", statement_2=option, difference=question),
    ]
    assert parse_decisions(encode_decisions(decisions), "a file") == decisions


def test_a_line_separator_inside_a_text_ends_no_line() -> None:
    decisions = [said(question="one\u2028two\x85three\r\nfour")]
    assert parse_decisions(encode_decisions(decisions), "a file") == decisions


def test_the_last_line_of_a_reviewer_on_a_pair_counts() -> None:
    lines = [said(decision="accept"), said("bob"), said(decision="reject")]
    assert parse_decisions(encode_decisions(lines), "a file") == [lines[1], lines[2]]


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (b"{", "Expecting property name"),
        (b"[1]", "after \\*\\* must be a mapping"),
        (b"\xff", "can't decode"),
        (b"[" * 100_000, "recursion"),
        ({"pair_id": "0" * 16}, "is not that of the two sha256"),
        ({"reviewer": "../../etc/passwd"}, "reviewer: String should match pattern"),
        ({"reviewer": "."}, "reviewer: String should match pattern"),
        ({"pattern": 10}, "pattern: Input should be less than or equal to 9"),
        ({"decision": "maybe"}, "decision: Input should be 'accept' or 'reject'"),
        ({"decided_at": "2026-01-31T12:00:00"}, "decided_at has no time zone"),
        ({"decided_at": "9999-12-31T23:59:59-12:00"}, "outside the years 1 to 9999"),
        ({"decided_at": "2999-01-01T00:00:00Z"}, "more than a day ahead; set the clock"),
        ({"decided_at": 5}, "decided_at is no time; give it as"),
        ({"decided_at": "1769860800"}, "decided_at is no time; give it as"),
        ({"pattern": True}, "pattern: Input should be a valid integer"),
        ({"reviewer": "Consensus"}, "speaks for all reviewers; take another name"),
        ({"question": "\ud800"}, "question: Input should be a valid string"),
        ({"question": "x" * 4001}, "question: String should have at most 4000"),
        ({"other": 1}, "other: Extra inputs are not permitted"),
    ],
)
def test_a_line_that_is_no_decision_is_named(line: Any, fault: str) -> None:
    good = said().line().encode()
    if isinstance(line, dict):
        line = json.dumps({**json.loads(good), **line}).encode()
    with pytest.raises(StoreError, match=f"(?s)ann.jsonl: line 3 is no decision.*{fault}"):
        parse_decisions(b"\n".join([good, b" ", line]), "ann.jsonl")


def test_a_decision_is_the_same_from_either_image() -> None:
    here = said(image_1="a", image_2="b", option_1="left", option_2="right", statement_1="l")
    there = here.seen_from(TWO)
    assert (there.sha256_1, there.image_1, there.option_1, there.statement_2) == (
        *(TWO, "b", "right"),
        "l",
    )
    assert there.seen_from(ONE) == here
    assert here.seen_from(ONE) == here
    assert here.statements == ("l", "right")
    assert there.statements == ("right", "l")


def test_the_majority_decides() -> None:
    decisions = [
        said("ann", decision="accept", pattern=4, question="How many?"),
        said("bob", decision="accept", pattern=4, question="How many?", option_1="1", minutes=1),
        said("cem", decision="reject", pattern=1, difference="none", option_1="x", option_2="y"),
    ]
    (agreed,) = consensus(decisions).values()
    assert (agreed.decision, agreed.pattern, agreed.option_1) == ("accept", 4, "1")
    assert agreed.reviewer == "consensus"
    (disputed,) = consensus([decisions[0], decisions[2]]).values()
    assert disputed.decision is None
    assert consensus(decisions[:1]) == {decisions[0].pair_id: decisions[0]}


def test_words_of_the_outcome_count_whichever_image_came_first() -> None:
    """The order of the images is another where the corpus has other names."""
    there = said("bob", sha256_1=TWO, sha256_2=ONE, decision="accept", option_1="right")
    (agreed,) = consensus([said(decision="accept"), there]).values()
    assert agreed.seen_from(ONE).option_2 == "right"


def test_there_are_nine_patterns() -> None:
    assert list(PATTERNS) == list(range(1, 10))
    assert len({pattern.folder for pattern in PATTERNS.values()}) == 9


def test_a_pair_has_two_images() -> None:
    with pytest.raises(ValidationError, match="sha256_2"):
        Decision(**{**json.loads(said().line()), "sha256_2": "short"})
