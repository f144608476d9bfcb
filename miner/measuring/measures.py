"""Measures over labelled pairs: pure formulas, each with where it comes from.

An item is two images and two or more statements; statement 1 is true of image 1 alone, statement 2
of image 2 alone, further ones of neither. A tie never counts as right: code that takes the first
of equal scores gives a model that says the same of everything what it did not earn.

    I images of an item (2), S statements (2 or more), D dimensions
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

Vector = np.ndarray[Any, np.dtype[np.float64]]

CONFIDENCE = 0.95
"""Of every interval, unless another is asked for."""

RESAMPLES = 2000
"""Draws of the bootstrap."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A share or a mean, with its confidence interval.

    Attributes:
        value: the estimate; NaN of nothing.
        low: lower end of the interval.
        high: upper end.
        num: how many cases it is of.
    """

    value: float
    low: float
    high: float
    num: int


def cosine(one_D: np.ndarray, other_D: np.ndarray) -> float:
    """Cosine of two vectors: their product over the product of their lengths, in float64.

    Raises:
        ValueError: a vector has length 0 or they are not alike in size.
    """
    one, other = _two(one_D, other_D)
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    if lengths == 0:
        raise ValueError("a vector has length 0, so it has no direction to compare")
    return float(one @ other) / lengths


def average_ranks(values_D: np.ndarray) -> Vector:
    """Ranks from 1 on, by ascending value; equal values share the average of their places."""
    values = np.asarray(values_D, dtype=np.float64)
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts).astype(np.float64)
    ranks: Vector = (last - (counts - 1) / 2)[inverse]
    return ranks


def spearman(one_D: np.ndarray, other_D: np.ndarray) -> float:
    """Spearman's rho of two vectors over their dimensions: Pearson's r of their average ranks.

    Two images may have a cosine near 1 and still order their dimensions the other way round; see
    "On Erroneous Agreements of CLIP Image Embeddings". [10, 11, 12] and [12, 11, 10] have cosine
    0.98904 and rho -1.

    Raises:
        ValueError: a vector has one value only, or they are not alike in size.
    """
    one, other = (ranks - ranks.mean() for ranks in map(average_ranks, _two(one_D, other_D)))
    spread = float(np.linalg.norm(one) * np.linalg.norm(other))
    if spread == 0:
        raise ValueError("all values of a vector are equal, so they have no order to compare")
    return float(one @ other) / spread


def chooses_statement(scores_IS: np.ndarray) -> list[bool]:
    """Whether each image scores its own statement above every other one.

    This is *individual* accuracy, image by image; both at once is *pair* accuracy ("On Erroneous
    Agreements ...", What'sUp) and the text score of Winoground.

    Args:
        scores_IS: [2, S], higher is better; statement k is that of image k.
    """
    scores = np.asarray(scores_IS, dtype=np.float64)
    return [bool((np.delete(row, place) < row[place]).all()) for place, row in enumerate(scores)]


def chooses_image(scores_IS: np.ndarray) -> list[bool]:
    """Whether each image's own statement scores that image above the other.

    Both at once is the image score of Winoground, and what the scorer of MMVP-VLM counts.
    """
    scores = np.asarray(scores_IS, dtype=np.float64)
    return chooses_statement(scores[:, : len(scores)].T)


def relaxed(scores_22: np.ndarray, *, higher_is_better: bool = True) -> bool | None:
    """Whether image 1 leans to statement 1 more than image 2 does.

    s_11 / (s_11 + s_12) > s_21 / (s_21 + s_22), the first index being the image. Chance is 50 %.
    The sign turns for scores of which lower ones are better, as perplexities. A bias to one
    statement, which both images share, does not count here. Source: "On Erroneous Agreements of
    CLIP Image Embeddings".

    Args:
        scores_22: [2, 2 or more], positive; only the first two statements count.
        higher_is_better: probabilities and cosines; else perplexities.

    Returns:
        None where a score is not positive: a share of such a sum means nothing.
    """
    scores = np.asarray(scores_22, dtype=np.float64)[:2, :2]
    if not (scores > 0).all() or not np.isfinite(scores).all():
        return None
    one, other = scores[:, 0] / scores.sum(axis=1)
    return bool(one > other) if higher_is_better else bool(one < other)


def chance(num_statements: int, num_images: int) -> float:
    """Accuracy of guessing: every one of so many images, each among so many statements, right.

    Two-way 50 and 25 % for one image and a pair; four-way 25, 6.3 and 0.4 % for one image, a pair
    and a set of 4.
    """
    return float(num_statements) ** -num_images


def share(successes: Sequence[bool], confidence: float = CONFIDENCE) -> Estimate:
    """Share of successes with Wilson's score interval.

    (p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n). Source: Wilson 1927, as scipy's
    `binomtest(...).proportion_ci(method="wilson")` has it. Of nothing, all is NaN.
    """
    num, hits = len(successes), sum(successes)
    if num == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    p, z2 = hits / num, z * z
    middle = p + z2 / (2 * num)
    half = z * math.sqrt(p * (1 - p) / num + z2 / (4 * num * num))
    low, high = ((middle + sign * half) / (1 + z2 / num) for sign in (-1, 1))
    # Rounding may leave 1e-17 where all failed, which is 0.
    return Estimate(p, 0.0 if hits == 0 else low, 1.0 if hits == num else high, num)


def mean(
    values: Sequence[float],
    confidence: float = CONFIDENCE,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Estimate:
    """Mean with the percentile interval of a seeded bootstrap.

    Source: Efron 1979; scipy's `bootstrap(..., method="percentile")`. Of nothing, all is NaN.
    """
    values_N = np.asarray(values, dtype=np.float64)
    if len(values_N) == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    rng = np.random.default_rng(seed)
    # One draw at a time: all at once would be resamples x N numbers.
    means = [
        values_N[rng.integers(len(values_N), size=len(values_N))].mean() for _ in range(resamples)
    ]
    low, high = np.quantile(means, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return Estimate(float(values_N.mean()), float(low), float(high), len(values_N))


def _two(one_D: np.ndarray, other_D: np.ndarray) -> tuple[Vector, Vector]:
    one, other = (np.asarray(vector, dtype=np.float64) for vector in (one_D, other_D))
    if one.ndim != 1 or one.shape != other.shape:
        raise ValueError(f"two vectors of one size are compared, not {one.shape} and {other.shape}")
    return one, other
