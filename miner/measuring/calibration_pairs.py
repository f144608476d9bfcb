"""The candidates that a calibration rests on: which they are, and whether they are enough.

Shape suffixes: N images, D width of a vector.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from miner.errors import StoreError
from miner.measuring.calibration import Encoders
from miner.measuring.tails import BIN_WIDTH, Tail, edge, histogram, tail, threshold_at

MIN_CANDIDATES = 100
"""Pairs above CLIP's threshold from which on a quantile is believed: 10 % of standard error, were
they independent."""

MIN_BLIND = 20
"""Likewise of candidates below DINO's threshold, and of those not below it."""

MAX_CANDIDATES = 5_000_000
"""Most candidates that are kept in memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """Pairs above a CLIP's threshold, and maybe further ones, with their DINO cosines.

    Attributes:
        pairs: the pairs, the highest CLIP cosine first.
        dino_cos: of the same pairs.
        num_above: how many of them lie above the threshold.
        counts: of all pairs by the bin of their CLIP cosine.
    """

    pairs: Tail
    dino_cos: np.ndarray
    num_above: int
    counts: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """The candidates of encoders whose thresholds are known.

    Attributes:
        candidates: exactly those above CLIP's threshold.
        clip_above: that threshold.
        dino_below: DINO's.
    """

    candidates: Candidates
    clip_above: float
    dino_below: float

    @property
    def is_blind(self) -> np.ndarray:
        """Which candidates lie below DINO's threshold."""
        blind: np.ndarray = self.candidates.dino_cos < self.dino_below
        return blind


def reference_candidates(encoders: Encoders, clip_above: float, dino_below: float) -> Reference:
    """The pairs that known thresholds let through."""
    counts = histogram(encoders.clip_ND)
    # Before they are gathered, about how many there are, the threshold's own bin among them.
    bins = [edge(bin + 1) > clip_above for bin in range(len(counts))]
    check_few(int(counts[bins].sum()))
    pairs = tail(encoders.clip_ND, clip_above)
    found = Candidates(
        pairs=pairs,
        dino_cos=pairs.cosines_of(encoders.dino_ND),
        num_above=len(pairs),
        counts=counts,
    )
    return Reference(candidates=found, clip_above=clip_above, dino_below=dino_below)


def own_candidates(encoders: Encoders, num_above: int) -> Candidates:
    """The pairs with the highest cosines: as many as wanted, and enough more to resample."""
    counts = histogram(encoders.clip_ND)
    # Of these bins and all above them, what rounding takes a bin lower too.
    wanted, needed = (
        threshold_at(counts, number) - BIN_WIDTH for number in (2 * num_above + 1000, num_above + 1)
    )
    most = 2 * MAX_CANDIDATES + 1000
    from_here = np.cumsum(counts[::-1])[::-1]
    affordable = edge(int(np.flatnonzero(np.append(from_here, 0) <= most)[0]))
    if needed < affordable - BIN_WIDTH / 2:
        raise ValueError(
            f"more than {most} pairs have a CLIP cosine above {needed:.4f}, to which equal ones "
            f"take it for {num_above} candidates; take images without copies, a smaller rate, or "
            "fewer images (--max-images)"
        )
    pairs = tail(encoders.clip_ND, max(wanted, affordable))
    return Candidates(
        pairs=pairs,
        dino_cos=pairs.cosines_of(encoders.dino_ND),
        num_above=num_above,
        counts=counts,
    )


def check_few(num_above: int) -> None:
    """Refuse more candidates than memory should hold."""
    if num_above > MAX_CANDIDATES:
        raise ValueError(
            f"{num_above} pairs lie above CLIP's threshold, limit {MAX_CANDIDATES}; give a higher "
            "threshold, a smaller rate, or fewer images (--max-images)"
        )


def check_enough(num_above: int, num_blind: int, num_images: int, advice: tuple[str, str]) -> None:
    """Refuse quantiles of a handful of pairs; advice is what to give for CLIP, and for DINO."""
    if num_above < MIN_CANDIDATES:
        # Pairs grow with the square of the images.
        factor = math.sqrt(MIN_CANDIDATES / max(num_above, 1))
        more = math.ceil(num_images * factor)
        raise StoreError(
            f"{num_above} pairs of {num_images} images lie above CLIP's threshold, and a quantile "
            f"needs {MIN_CANDIDATES}; embed {'about' if num_above else 'more than'} {more} images "
            f"of the same kind, or give {advice[0]}"
        )
    few = min(num_blind, num_above - num_blind)
    if few < MIN_BLIND:
        which = "below" if few == num_blind else "not below"
        more = math.ceil(num_images * math.sqrt(MIN_BLIND / max(few, 1)))
        raise StoreError(
            f"{few} of {num_above} candidates lie {which} DINO's threshold, and a quantile needs "
            f"{MIN_BLIND}; embed {'about' if few else 'more than'} {more} images of the same kind, "
            f"or give {advice[1]}"
        )
