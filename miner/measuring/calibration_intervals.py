"""How sure a calibration's thresholds are: a bootstrap over images.

Images are drawn, not pairs, since pairs that share an image tell less than as many that do not.
"""

from __future__ import annotations

import numpy as np

from miner.measuring.calibration import Rates
from miner.measuring.calibration_pairs import Candidates, Reference

NUM_RESAMPLES = 200
SEED = 20240111

COVERAGE = (2.5, 97.5)
"""Percentiles between which a resampled threshold lies in 95 of 100 cases."""

Interval = tuple[float, float]
"""Its lower and its upper end, in cosine."""


def intervals(
    own: Candidates, known: Reference | None, rates: Rates, num_images: int
) -> tuple[Interval, Interval]:
    """The intervals of both thresholds, from images drawn anew with replacement.

    Args:
        own: pairs of the encoders whose thresholds are sought.
        known: the reference, whose rates are drawn anew with the same images; or None.
        rates: without a reference, those that were asked for.
        num_images: that both have seen.
    """
    generator = np.random.default_rng(SEED)
    found = []
    by_dino = np.argsort(own.dino_cos, kind="stable")
    for _ in range(NUM_RESAMPLES):
        drawn = np.bincount(
            generator.integers(0, num_images, num_images), minlength=num_images
        ).astype(np.float64)
        # An image that was drawn twice is no pair with itself.
        total = (drawn.sum() ** 2 - (drawn**2).sum()) / 2
        share, blind = rates.candidates, rates.blind
        like: tuple[float | None, float | None] = (None, None)
        if known is not None:
            like = known.clip_above, known.dino_below
            pairs = known.candidates.pairs
            weight = drawn[pairs.i] * drawn[pairs.j]
            share = weight.sum() / total
            blind = weight[known.is_blind].sum() / max(weight.sum(), 1)
        weight = drawn[own.pairs.i] * drawn[own.pairs.j]
        clip = _middle(own.pairs.cos, weight, share * total, like[0])
        weight = np.where(own.pairs.cos > clip, weight, 0)[by_dino]
        dino = _middle(own.dino_cos[by_dino], weight, blind * weight.sum(), like[1])
        found.append((clip, dino))
    (clip_low, dino_low), (clip_high, dino_high) = np.percentile(found, COVERAGE, axis=0).tolist()
    return (clip_low, clip_high), (dino_low, dino_high)


def _middle(cos: np.ndarray, weight: np.ndarray, wanted: float, like: float | None) -> float:
    """What `calibrate` takes for weighted cosines, but for decimals: the middle of the gap."""
    so_far = np.cumsum(weight)
    # Weights are whole numbers; a share of them is one but for its last digits.
    last = min(int(np.searchsorted(so_far, wanted - 1e-6)), len(cos) - 1)
    following = min(int(np.searchsorted(so_far, so_far[last], side="right")), len(cos) - 1)
    low, high = sorted((float(cos[last]), float(cos[following])))
    return like if like is not None and low < like < high else (low + high) / 2
