"""Reviewers' decisions: their lines, what a run keeps of them, and what they agree on."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from miner.errors import StoreError
from miner.pairs import pair_id
from miner.review import (
    MAX_FILE_BYTES,
    PATTERNS,
    Decision,
    consensus,
    decisions_of,
    encode_decisions,
    keep_decisions,
    parse_decisions,
)
from miner.store import Store

ONE, TWO, THREE = ("1" * 64, "2" * 64, "3" * 64)
NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


def said(reviewer: str = "ann", *, minutes: float = 0, **fields: Any) -> Decision:
    one, two = fields.pop("sha256_1", ONE), fields.pop("sha256_2", TWO)
    return Decision(
        pair_id=pair_id(one, two),
        sha256_1=one,
        sha256_2=two,
        reviewer=reviewer,
        decided_at=NOON + timedelta(minutes=minutes),
        **fields,
    )


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


def test_a_run_keeps_the_latest_of_each_reviewer(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert decisions_of(store) == []
    late = said(minutes=5, decision="accept")
    other = said(sha256_2=THREE, decision="reject")
    keep_decisions(store, [late, said("bob", decision="reject")])
    keep_decisions(store, [said(decision="reject"), other])
    assert {(each.reviewer, each.pair_id): each.decision for each in decisions_of(store)} == {
        ("ann", late.pair_id): "accept",
        ("ann", other.pair_id): "reject",
        ("bob", late.pair_id): "reject",
    }
    (tmp_path / "review" / "ann.jsonl").write_bytes(b"{}\n")
    with pytest.raises(StoreError, match=r"ann\.jsonl: line 1 is no decision \(pair_id: Field"):
        decisions_of(store)


def test_the_latest_of_a_reviewer_stands_whatever_its_file(tmp_path: Path) -> None:
    store = Store(tmp_path)
    late, early = said(minutes=5, decision="reject"), said(decision="accept")
    store.files.write("review/a-copy.jsonl", encode_decisions([late]))
    store.files.write("review/ann.jsonl", encode_decisions([early]))
    assert decisions_of(store) == [late]
    # At the same time the content decides, and no order of files or lines.
    other = said(minutes=5, decision="accept")
    store.files.write("review/ann.jsonl", encode_decisions([other]))
    (stands,) = decisions_of(store)
    store.files.write("review/a-copy.jsonl", encode_decisions([other]))
    store.files.write("review/ann.jsonl", encode_decisions([late]))
    assert decisions_of(store) == [stands]
    store.files.delete("review/a-copy.jsonl")
    keep_decisions(store, [other])
    assert decisions_of(store) == [stands]


def test_lines_that_nobody_changes_stay_as_they_are(tmp_path: Path) -> None:
    store = Store(tmp_path)
    # Of a later version; what only this one can read would be lost.
    fields = {**json.loads(said(sha256_1=THREE).line()), "new": 1}
    line = json.dumps(fields).encode() + b"\n"
    store.files.write("review/ann.jsonl", line)
    keep_decisions(store, [said(decision="accept")])
    data = store.files.read("review/ann.jsonl")
    assert line in data
    assert data.count(b"\n") == 2
    with pytest.raises(StoreError, match="is no decision \\(new: Extra inputs"):
        keep_decisions(store, [said(sha256_1=THREE)])
    assert store.files.read("review/ann.jsonl") == data
    store.files.write("review/ann.jsonl", b'{"pair_id":"x"}\n')
    with pytest.raises(StoreError, match="line 1 is no decision \\('reviewer'\\); mend"):
        keep_decisions(store, [said()])


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.files.write("review/ann.jsonl", b"")
    with (tmp_path / "review" / "ann.jsonl").open("r+b") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    with pytest.raises(StoreError, match=f"{MAX_FILE_BYTES + 1} bytes, limit {MAX_FILE_BYTES}"):
        decisions_of(store)


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
