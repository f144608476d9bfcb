"""What a program suggests to a reviewer: read, turned to the page's image 1, put on the page."""

import json
from pathlib import Path

import pytest

from miner.errors import StoreError
from miner.reviewing.suggestions import Suggestion, parse_suggestions, suggested
from tests.report_runs import Shot, encoded, make_run, report_of
from tests.reviews import said_of_number, selected_rows

PAIR = {"pair_id": "0123456789abcdef", "sha256_1": "1" * 64, "sha256_2": "2" * 64}


def line(**fields: object) -> bytes:
    return json.dumps({"pair_id": PAIR["pair_id"], **fields}).encode()


def test_later_lines_stand_and_empty_ones_are_passed_over() -> None:
    data = b"\n".join([line(pattern=1), b"", line(difference="x"), b" "])
    assert parse_suggestions(data, "a file") == {
        PAIR["pair_id"]: Suggestion(pair_id=PAIR["pair_id"], difference="x")
    }


def test_a_line_of_decisions_is_a_suggestion() -> None:
    said = said_of_number(1, "model-1", decision="accept", pattern=3, question="q", option_1="a")
    (found,) = parse_suggestions(said.line().encode(), "a file").values()
    assert (found.pattern, found.question, found.option_1) == (3, "q", "a")
    assert "decision" not in found.model_dump()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"{", "a file: line 1 is no suggestion .*; mend the line or remove it"),
        (line() + b"\n[]", "line 2 is no suggestion"),
        (b"7", "line 1 is no suggestion"),
        (b"[" * 100_000, "line 1 is no suggestion"),
        (b"\xff", "line 1 is no suggestion"),
        (b'{"pair_id": "x"}', r"line 1 is no suggestion \(pair_id: String should match"),
        (line(pattern=10), r"\(pattern: Input should be less than or equal to 9"),
        (line(answer="x"), r"\(answer: Extra inputs are not permitted"),
        (line(difference="x" * 4001), r"\(difference: String should have at most 4000"),
    ],
)
def test_what_is_no_suggestion_is_refused_with_its_line(data: bytes, message: str) -> None:
    with pytest.raises(StoreError, match=message):
        parse_suggestions(data, "a file")


def test_suggestions_are_seen_from_image_1_and_without_what_is_empty() -> None:
    def given(**fields: object) -> dict[str, dict[str, object]]:
        said = Suggestion(
            pair_id=PAIR["pair_id"], option_1="one", option_2="two", statement_2="it", **fields
        )
        return suggested({said.pair_id: said}, [PAIR])

    straight = {"option_1": "one", "option_2": "two", "statement_2": "it"}
    assert given() == given(sha256_1="1" * 64) == {PAIR["pair_id"]: straight}
    turned = {"option_1": "two", "option_2": "one", "statement_1": "it", "pattern": 9}
    assert given(sha256_1="2" * 64, pattern=9) == {PAIR["pair_id"]: turned}
    assert suggested({"0" * 16: Suggestion(pair_id="0" * 16, pattern=1)}, [PAIR]) == {}
    empty = Suggestion(pair_id=PAIR["pair_id"])
    assert suggested({empty.pair_id: empty}, [PAIR]) == {}


def test_a_suggestion_of_another_image_is_refused() -> None:
    said = Suggestion(pair_id=PAIR["pair_id"], sha256_1="3" * 64)
    with pytest.raises(StoreError, match="sha256_1 333333333333, which is neither of its images"):
        suggested({said.pair_id: said}, [PAIR])


def test_other_suggestions_make_another_page(tmp_path: Path) -> None:
    store, folder = make_run(tmp_path, [Shot(data=encoded(n)) for n in range(2)])
    (row,) = selected_rows(folder)
    said = Suggestion(pair_id=row["pair_id"], difference="</script><b>")
    plain = report_of(store, folder).read_text("utf-8")
    offered = report_of(store, folder, suggestions={said.pair_id: said}).read_text("utf-8")
    assert '"suggestions":{}' in plain
    assert f'"suggestions":{{"{row["pair_id"]}":{{"difference":"\\u003c/script\\u003e' in offered
    assert report_of(store, folder).read_text("utf-8") == plain
