"""Thresholds for a pair of encoders, at the quantiles of encoders whose thresholds are known.

A threshold says how alike two images have to be for one encoder, and means nothing for another.
What carries over is the share of pairs. Where a share `q` of all pairs lies above the reference
CLIP's threshold, the other CLIP's threshold is where `q` of the same pairs lie above. Where a share
`b` of the reference's candidates lies below its DINO's threshold, the other DINO's threshold is
where `b` of the other's candidates lie below.

The intervals come from a bootstrap over images, since pairs that share an image tell less than as
many that do not.

Shape suffixes: N images, D width of a vector.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from miner.errors import StoreError
from miner.measuring.tails import BIN_WIDTH, Tail, edge, histogram, tail, threshold_at

MIN_CANDIDATES = 100
"""Pairs above CLIP's threshold from which on a quantile is believed: 10 % of standard error, were
they independent."""

MIN_BLIND = 20
"""Likewise of candidates below DINO's threshold, and of those not below it."""

MAX_CANDIDATES = 5_000_000
"""Most candidates that are kept in memory."""

NUM_RESAMPLES = 200
SEED = 20240111
COVERAGE = (2.5, 97.5)
"""Percentiles between which a resampled threshold lies in 95 of 100 cases."""

CURVE_RATES = tuple(float(f"{m}e-{e}") for e in range(1, 9) for m in (5, 2, 1))
"""Shares of all pairs at which the curve is given, as far as there are enough pairs."""

CURVE_SHARES = tuple(round(0.05 * step, 2) for step in range(1, 20))
"""Shares of candidates, likewise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoders:
    """The vectors of two encoders on the same images, in the same order.

    Attributes:
        clip_ND: [N, D] of any float.
        dino_ND: [N, E], likewise.
    """

    clip_ND: torch.Tensor
    dino_ND: torch.Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What thresholds let through.

    Attributes:
        candidates: share of all pairs that lie above CLIP's.
        blind: share of those that lie below DINO's.
    """

    candidates: float
    blind: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """A threshold, and what it rests on.

    Attributes:
        value: with as few decimals as let the same pairs through.
        low: lower end of its interval.
        high: upper end.
        num_pairs: that it lets through.
        num_of: of so many.
    """

    value: float
    low: float
    high: float
    num_pairs: int
    num_of: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A point of the curve.

    Attributes:
        side: `clip`, with shares of all pairs, or `dino`, with shares of the candidates.
        rate: the share.
        num_pairs: how many pairs that are.
        reference: the reference's threshold at that share; None without a reference.
        threshold: the other's.
    """

    side: str
    rate: float
    num_pairs: int
    reference: float | None
    threshold: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Both thresholds and the curve.

    Attributes:
        num_images: N.
        rates: of the reference, or those that were asked for.
        clip: the threshold for CLIP.
        dino: for DINO.
        curve: further thresholds.
    """

    num_images: int
    rates: Rates
    clip: Threshold
    dino: Threshold
    curve: list[Point]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Candidates:
    """Pairs above a CLIP's threshold, and maybe further ones, with their DINO cosines."""

    pairs: Tail
    dino_cos: np.ndarray
    num_above: int
    counts: np.ndarray


def calibrate(encoders: Encoders, target: Rates | tuple[Encoders, float, float]) -> Calibration:
    """Find thresholds.

    Args:
        encoders: for which they are sought.
        target: what they shall let through; or the reference's vectors of the same images, and its
            thresholds: clip_above and dino_below.

    Raises:
        ValueError: a rate is none, or a threshold lets millions through.
        StoreError: too few pairs lie beyond a threshold to say where the other one lies.
    """
    num_images = len(encoders.clip_ND)
    num_pairs = num_images * (num_images - 1) // 2
    known = None
    like: tuple[float | None, float | None] = (None, None)
    advice = ("a higher --candidate-rate", "another --blind-rate")
    if isinstance(target, Rates):
        rates = target
    else:
        known, like = _reference(*target), target[1:]
        advice = ("a lower --reference-clip-above", "another --reference-dino-below")
        num_blind = int((known.dino_cos < target[2]).sum())
        _check_enough(known.num_above, num_blind, num_images, advice)
        rates = Rates(candidates=known.num_above / num_pairs, blind=num_blind / known.num_above)
    for name, rate in (("candidate", rates.candidates), ("blind", rates.blind)):
        if not 0 < rate < 1:
            raise ValueError(f"the {name} rate is {rate}; a quantile is between 0 and 1")
    num_above = round(rates.candidates * num_pairs)
    num_blind = round(rates.blind * num_above)
    _check_enough(num_above, num_blind, num_images, advice)
    _check_few(num_above)
    own = _own(encoders, num_above)
    cos = own.pairs.cos
    clip = _between(cos[num_above - 1], cos[num_above : num_above + 1].tolist(), like[0])
    kept = cos > clip
    if (num_kept := int(kept.sum())) < MIN_CANDIDATES:
        raise StoreError(
            f"{int((cos == clip).sum())} pairs have the same CLIP cosine, {clip:.6g}, and "
            f"{num_kept} a higher one, but a quantile needs {MIN_CANDIDATES}; take images without "
            "copies"
        )
    dino_cos = np.sort(own.dino_cos[kept])
    num_below = round(rates.blind * len(dino_cos))
    # Fewer where cosines are equal.
    _check_enough(len(dino_cos), num_below, num_images, advice)
    dino = _between(dino_cos[num_below], dino_cos[num_below - 1 : num_below].tolist(), like[1])
    clip_range, dino_range = _intervals(own, known, target, rates, num_images)
    return Calibration(
        num_images=num_images,
        rates=rates,
        clip=_threshold(clip, clip_range, int(kept.sum()), num_pairs),
        dino=_threshold(dino, dino_range, int((dino_cos < dino).sum()), len(dino_cos)),
        curve=[
            *_clip_curve(own, known, num_pairs),
            *_dino_curve(dino_cos, known),
        ],
    )


def _reference(encoders: Encoders, clip_above: float, dino_below: float) -> _Candidates:
    counts = histogram(encoders.clip_ND)
    # Before they are gathered, about how many there are, the threshold's own bin among them.
    bins = [edge(bin + 1) > clip_above for bin in range(len(counts))]
    _check_few(int(counts[bins].sum()))
    pairs = tail(encoders.clip_ND, clip_above)
    return _Candidates(
        pairs=pairs,
        dino_cos=pairs.cosines_of(encoders.dino_ND),
        num_above=len(pairs),
        counts=counts,
    )


def _own(encoders: Encoders, num_above: int) -> _Candidates:
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
    return _Candidates(
        pairs=pairs,
        dino_cos=pairs.cosines_of(encoders.dino_ND),
        num_above=num_above,
        counts=counts,
    )


def _check_few(num_above: int) -> None:
    if num_above > MAX_CANDIDATES:
        raise ValueError(
            f"{num_above} pairs lie above CLIP's threshold, limit {MAX_CANDIDATES}; give a higher "
            "threshold, a smaller rate, or fewer images (--max-images)"
        )


def _check_enough(num_above: int, num_blind: int, num_images: int, advice: tuple[str, str]) -> None:
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


def _between(inner: float, outer: Sequence[float], like: float | None) -> float:
    """A threshold between the last cosine that counts and the first that does not.

    The reference's where it is one, else with as few decimals as lie between the two.
    Where they are equal, the cosine itself: then neither counts.
    """
    if len(outer) == 0 or outer[0] == inner:
        return float(inner)
    low, high = sorted((float(inner), float(outer[0])))
    middle = (low + high) / 2
    if like is not None and low < like < high:
        return like
    for decimals in range(2, 16):
        value = round(middle, decimals)
        if low < value < high:
            return value
    return middle


def _threshold(value: float, found: tuple[float, float], num_pairs: int, num_of: int) -> Threshold:
    return Threshold(
        value=value,
        low=min(value, found[0]),
        high=max(value, found[1]),
        num_pairs=num_pairs,
        num_of=num_of,
    )


def _intervals(
    own: _Candidates,
    known: _Candidates | None,
    target: Rates | tuple[Encoders, float, float],
    rates: Rates,
    num_images: int,
) -> tuple[tuple[float, float], tuple[float, float]]:
    """The intervals of both thresholds, from images drawn anew with replacement."""
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
        if known is not None and not isinstance(target, Rates):
            like = target[1:]
            weight = drawn[known.pairs.i] * drawn[known.pairs.j]
            share = weight.sum() / total
            blind = weight[known.dino_cos < target[2]].sum() / max(weight.sum(), 1)
        weight = drawn[own.pairs.i] * drawn[own.pairs.j]
        clip = _middle(own.pairs.cos, weight, share * total, like[0])
        weight = np.where(own.pairs.cos > clip, weight, 0)[by_dino]
        dino = _middle(own.dino_cos[by_dino], weight, blind * weight.sum(), like[1])
        found.append((clip, dino))
    (clip_low, dino_low), (clip_high, dino_high) = np.percentile(found, COVERAGE, axis=0).tolist()
    return (clip_low, clip_high), (dino_low, dino_high)


def _middle(cos: np.ndarray, weight: np.ndarray, wanted: float, like: float | None) -> float:
    """What `_between` gives for weighted cosines, but for decimals: the middle of the gap."""
    so_far = np.cumsum(weight)
    # Weights are whole numbers; a share of them is one but for its last digits.
    last = min(int(np.searchsorted(so_far, wanted - 1e-6)), len(cos) - 1)
    following = min(int(np.searchsorted(so_far, so_far[last], side="right")), len(cos) - 1)
    low, high = sorted((float(cos[last]), float(cos[following])))
    return like if like is not None and low < like < high else (low + high) / 2


def _clip_curve(own: _Candidates, known: _Candidates | None, num_pairs: int) -> list[Point]:
    """Thresholds at round shares of all pairs, to a bin's width."""
    return [
        Point(
            side="clip",
            rate=rate,
            num_pairs=round(rate * num_pairs),
            reference=None if known is None else threshold_at(known.counts, number),
            threshold=threshold_at(own.counts, number),
        )
        for rate in CURVE_RATES
        if (number := round(rate * num_pairs)) >= MIN_CANDIDATES
    ]


def _dino_curve(dino_cos: np.ndarray, known: _Candidates | None) -> list[Point]:
    """Thresholds at round shares of the candidates."""
    reference = None if known is None else np.sort(known.dino_cos)
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
