"""The formulas against scipy, scikit-learn and figures worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import accuracy_score
from sklearn.metrics.pairwise import cosine_similarity

from miner.measuring import measures

VECTORS = arrays(np.float64, 9, elements=st.integers(-4, 4).map(float))


def test_a_cosine_near_one_and_an_order_turned_round() -> None:
    one, other = np.array([10, 11, 12]), np.array([12, 11, 10])
    assert round(measures.cosine(one, other), 5) == 0.98904
    assert measures.spearman(one, other) == pytest.approx(-1, abs=1e-12)


@given(VECTORS, VECTORS)
def test_cosine_and_rho_equal_independent_code(one: np.ndarray, other: np.ndarray) -> None:
    if one.any() and other.any():
        expected = cosine_similarity(one[None], other[None])[0, 0]
        assert measures.cosine(one, other) == pytest.approx(expected, abs=1e-12)
    if len(set(one)) > 1 and len(set(other)) > 1:
        expected = scipy.stats.spearmanr(one, other).statistic
        assert measures.spearman(one, other) == pytest.approx(expected, abs=1e-12)
    assert measures.average_ranks(one).tolist() == scipy.stats.rankdata(one).tolist()


def test_vectors_that_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="a vector has length 0"):
        measures.cosine(np.zeros(3), np.ones(3))
    with pytest.raises(ValueError, match="all values of a vector are equal"):
        measures.spearman(np.ones(3), np.arange(3))
    with pytest.raises(ValueError, match=r"one size are compared, not \(3,\) and \(4,\)"):
        measures.cosine(np.ones(3), np.ones(4))


@pytest.mark.parametrize(
    ("scores", "statement", "image"),
    [
        ([[0.3, 0.2], [0.1, 0.2]], [True, True], [True, False]),
        ([[0.3, 0.2], [0.4, 0.5]], [True, True], [False, True]),
        ([[0.2, 0.3], [0.1, 0.2]], [False, True], [True, False]),
        # One statement is preferred by both images: one of them is right, the pair is not.
        ([[0.9, 0.1], [0.8, 0.2]], [True, False], [True, True]),
        # All the same: nothing is right, whatever stands first.
        ([[0.5, 0.5], [0.5, 0.5]], [False, False], [False, False]),
        # Four-way: a distractor wins over both.
        ([[0.3, 0.2, 0.4, 0], [0.1, 0.2, 0, 0.1]], [False, True], [True, False]),
    ],
)
def test_choices(scores: list[list[float]], statement: list[bool], image: list[bool]) -> None:
    assert measures.chooses_statement(np.array(scores)) == statement
    assert measures.chooses_image(np.array(scores)) == image


def test_choices_equal_an_argmax_where_nothing_ties() -> None:
    rng = np.random.default_rng(0)
    scores = rng.random((200, 2, 4))
    ours = [right for each in scores for right in measures.chooses_statement(each)]
    expected = accuracy_score(np.tile([0, 1], 200), scores.argmax(axis=2).ravel())
    assert np.mean(ours) == pytest.approx(expected)


def test_relaxed() -> None:
    shared_bias = np.array([[0.9, 0.1], [0.8, 0.2]])
    assert measures.relaxed(shared_bias) is True
    assert measures.relaxed(shared_bias, higher_is_better=False) is False
    assert measures.relaxed(shared_bias[::-1]) is False
    assert measures.relaxed(shared_bias[::-1], higher_is_better=False) is True
    assert measures.relaxed(np.full((2, 2), 0.5)) is False
    assert measures.relaxed(np.full((2, 2), 0.5), higher_is_better=False) is False
    # Shares count, not differences: 4/5 against 30/39.
    assert measures.relaxed(np.array([[4, 1], [30, 9.0]])) is True
    assert measures.relaxed(np.array([[0.1, -0.1], [0.1, 0.2]])) is None
    assert measures.relaxed(np.array([[0.1, 0.0], [0.1, 0.2]])) is None
    assert measures.relaxed(np.array([[0.1, math.nan], [0.1, 0.2]])) is None


def test_chance_is_that_of_the_paper() -> None:
    assert [100 * measures.chance(2, k) for k in (1, 2)] == [50, 25]
    assert [round(100 * measures.chance(4, k), 1) for k in (1, 2, 4)] == [25, 6.2, 0.4]


@pytest.mark.parametrize(("hits", "num"), [(0, 15), (1, 15), (7, 15), (15, 15), (43, 300)])
def test_wilson_equals_scipy(hits: int, num: int) -> None:
    found = measures.share([True] * hits + [False] * (num - hits))
    expected = scipy.stats.binomtest(hits, num).proportion_ci(0.95, method="wilson")
    assert (found.value, found.num) == (hits / num, num)
    assert found.low == pytest.approx(expected.low, abs=1e-12)
    assert found.high == pytest.approx(expected.high, abs=1e-12)


def test_bootstrap_is_near_scipys_and_seeded() -> None:
    values = np.random.default_rng(1).beta(2, 5, 80)
    found = measures.mean(values.tolist())
    assert found == measures.mean(values.tolist())
    assert found != measures.mean(values.tolist(), seed=1)
    expected = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=4000, method="percentile", rng=3
    ).confidence_interval
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(expected.low, abs=0.004)
    assert found.high == pytest.approx(expected.high, abs=0.004)
    wider = measures.mean(values.tolist(), 0.99)
    assert wider.low < found.low < found.high < wider.high


def test_of_nothing_nothing_is_known() -> None:
    for found in (measures.share([]), measures.mean([])):
        assert found.num == 0
        assert math.isnan(found.value)
        assert math.isnan(found.low)
        assert math.isnan(found.high)
