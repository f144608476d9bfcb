"""Thresholds at many shares of the pairs, not only at those that were asked for."""

from __future__ import annotations

import numpy as np

from miner.measuring.calibration import Point
from miner.measuring.calibration_pairs import MIN_BLIND, MIN_CANDIDATES, Candidates, Reference
from miner.measuring.tails import threshold_at

CURVE_RATES = tuple(float(f"{m}e-{e}") for e in range(1, 9) for m in (5, 2, 1))
"""Shares of all pairs at which the curve is given, as far as there are enough pairs."""

CURVE_SHARES = tuple(round(0.05 * step, 2) for step in range(1, 20))
"""Shares of candidates, likewise."""


def clip_curve(own: Candidates, known: Reference | None, num_pairs: int) -> list[Point]:
    """Thresholds at round shares of all pairs, to a bin's width."""
    return [
        Point(
            side="clip",
            rate=rate,
            num_pairs=round(rate * num_pairs),
            reference=None if known is None else threshold_at(known.candidates.counts, number),
            threshold=threshold_at(own.counts, number),
        )
        for rate in CURVE_RATES
        if (number := round(rate * num_pairs)) >= MIN_CANDIDATES
    ]


def dino_curve(dino_cos: np.ndarray, known: Reference | None) -> list[Point]:
    """Thresholds at round shares of the candidates."""
    reference = None if known is None else np.sort(known.candidates.dino_cos)
    return [
        Point(
            side="dino",
            rate=share,
            num_pairs=round(share * len(dino_cos)),
            reference=None if reference is None else float(np.quantile(reference, share)),
            threshold=float(np.quantile(dino_cos, share)),
        )
        for share in CURVE_SHARES
        if round(share * len(dino_cos)) >= MIN_BLIND
    ]
