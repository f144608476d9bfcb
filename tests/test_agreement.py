"""Agreement of reviewers, against scikit-learn, and what it is where it is undefined."""

import csv
import io
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from miner.review import Decision
from miner.reviewing.agreement import (
    Agreement,
    agreements,
    cohens_kappa,
    disputes,
    disputes_csv,
    mean_kappa,
)
from tests.reviews import said_of_number

words = st.sampled_from(["accept", "reject"])
patterns = st.integers(1, 9)


def of_sklearn(first: list[object], second: list[object]) -> float:
    with warnings.catch_warnings():
        # It warns where it divides by zero, and gives NaN.
        warnings.simplefilter("ignore")
        return float(cohen_kappa_score(first, second))


@given(st.lists(st.tuples(words, words), min_size=1, max_size=60))
def test_kappa_of_decisions_is_scikit_learns(said: list[tuple[str, str]]) -> None:
    check([a for a, _ in said], [b for _, b in said])


@given(st.lists(st.tuples(patterns, patterns), min_size=1, max_size=60))
def test_kappa_of_patterns_is_scikit_learns(said: list[tuple[int, int]]) -> None:
    check([a for a, _ in said], [b for _, b in said])


def check(first: list, second: list) -> None:  # type: ignore[type-arg]
    found, expected = cohens_kappa(first, second), of_sklearn(first, second)
    if found is None:
        # Undefined: both gave every item the same one word.
        assert len({*first, *second}) == 1
    else:
        assert found == pytest.approx(expected, abs=1e-12)


def test_kappa_of_the_textbook() -> None:
    # Two people, 50 proposals, 20 both yes and 15 both no: kappa 0.4.
    first = ["yes"] * 25 + ["no"] * 25
    second = ["yes"] * 20 + ["no"] * 5 + ["yes"] * 10 + ["no"] * 15
    assert cohens_kappa(first, second) == pytest.approx(0.4)


def test_kappa_is_undefined_where_chance_alone_agrees() -> None:
    assert cohens_kappa(["accept"] * 9, ["accept"] * 9) is None
    assert cohens_kappa([], []) is None
    assert cohens_kappa(["accept"] * 9, ["reject"] * 9) == 0
    assert cohens_kappa(["accept", "reject"], ["reject", "accept"]) == -1


def test_lists_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match="one list has 1 items, the other 2; give the same items"):
        cohens_kappa(["accept"], ["accept", "reject"])


def three_reviewers() -> list[Decision]:
    return [
        said_of_number(1, "ann", decision="accept", pattern=3),
        said_of_number(2, "ann", decision="reject"),
        said_of_number(3, "ann", decision="accept", pattern=4),
        said_of_number(1, "bob", decision="accept", pattern=3),
        said_of_number(2, "bob", decision="accept", pattern=1),
        said_of_number(3, "bob", decision="accept", pattern=5),
        said_of_number(4, "bob", decision="reject"),
        said_of_number(3, "cyd", decision=None, pattern=4),
        said_of_number(9, "cyd", decision="accept"),
    ]


def test_agreement_is_over_pairs_of_which_both_said_it() -> None:
    found = agreements(three_reviewers())
    assert [(each.first, each.second, each.about) for each in found] == [
        ("ann", "bob", "decision"),
        ("ann", "bob", "pattern"),
        ("ann", "cyd", "decision"),
        ("ann", "cyd", "pattern"),
        ("bob", "cyd", "decision"),
        ("bob", "cyd", "pattern"),
    ]
    decision, pattern, *others = found
    assert (decision.num_pairs, decision.num_equal) == (3, 2)
    first, second = ["accept", "reject", "accept"], ["accept", "accept", "accept"]
    assert decision.kappa == pytest.approx(of_sklearn(first, second))
    assert (pattern.num_pairs, pattern.num_equal) == (2, 1)
    assert pattern.kappa == pytest.approx(of_sklearn([3, 4], [3, 5]))
    assert [(each.num_pairs, each.kappa) for each in others] == [
        (0, None),
        (1, None),
        (0, None),
        (1, 0.0),
    ]


def test_the_mean_is_over_what_is_defined() -> None:
    def of(kappa: float | None) -> Agreement:
        return Agreement(
            first="a", second="b", about="decision", num_pairs=9, num_equal=5, kappa=kappa
        )

    assert mean_kappa([of(0.5), of(None), of(0.1)], "decision") == pytest.approx(0.3)
    assert mean_kappa([of(None)], "decision") is None
    assert mean_kappa([of(0.5)], "pattern") is None


def test_disputes_are_listed_with_who_says_what() -> None:
    found = disputes(three_reviewers())
    assert [(each.about, each.said) for each in found] == [
        ("decision", {"ann": "reject", "bob": "accept"}),
        ("pattern", {"ann": "4", "bob": "5", "cyd": "4"}),
    ]
    rows = [*csv.reader(io.StringIO(disputes_csv(found).decode()))]
    assert rows[0] == ["about", "pair_id", "reviewer", "said"]
    assert rows[1:] == [
        [each.about, each.pair_id, who, word] for each in found for who, word in each.said.items()
    ]


def test_a_pattern_of_a_rejected_pair_is_not_in_dispute() -> None:
    both = [
        said_of_number(1, "ann", decision="accept", pattern=3),
        said_of_number(1, "bob", decision="reject", pattern=4),
    ]
    assert [each.about for each in disputes(both)] == ["decision"]
    assert [(each.about, each.num_pairs) for each in agreements(both)] == [
        ("decision", 1),
        ("pattern", 0),
    ]
