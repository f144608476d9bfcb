"""Thresholds for a pair of encoders, at the quantiles of encoders whose thresholds are known.

A threshold says how alike two images have to be for one encoder, and means nothing for another.
What carries over is the share of pairs. Where a share `q` of all pairs lies above the reference
CLIP's threshold, the other CLIP's threshold is where `q` of the same pairs lie above. Where a share
`b` of the reference's candidates lies below its DINO's threshold, the other DINO's threshold is
where `b` of the other's candidates lie below.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from miner.errors import StoreError
from miner.measuring.calibration import Calibration, Encoders, Rates, Threshold
from miner.measuring.calibration_curves import clip_curve, dino_curve
from miner.measuring.calibration_intervals import intervals
from miner.measuring.calibration_pairs import (
    MIN_CANDIDATES,
    check_enough,
    check_few,
    own_candidates,
    reference_candidates,
)


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
        known, like = reference_candidates(*target), target[1:]
        advice = ("a lower --reference-clip-above", "another --reference-dino-below")
        num_above, num_blind = known.candidates.num_above, int(known.is_blind.sum())
        check_enough(num_above, num_blind, num_images, advice)
        rates = Rates(candidates=num_above / num_pairs, blind=num_blind / num_above)
    for name, rate in (("candidate", rates.candidates), ("blind", rates.blind)):
        if not 0 < rate < 1:
            raise ValueError(f"the {name} rate is {rate}; a quantile is between 0 and 1")
    num_above = round(rates.candidates * num_pairs)
    num_blind = round(rates.blind * num_above)
    check_enough(num_above, num_blind, num_images, advice)
    check_few(num_above)
    own = own_candidates(encoders, num_above)
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
    check_enough(len(dino_cos), num_below, num_images, advice)
    dino = _between(dino_cos[num_below], dino_cos[num_below - 1 : num_below].tolist(), like[1])
    clip_range, dino_range = intervals(own, known, rates, num_images)
    return Calibration(
        num_images=num_images,
        rates=rates,
        clip=_threshold(clip, clip_range, int(kept.sum()), num_pairs),
        dino=_threshold(dino, dino_range, int((dino_cos < dino).sum()), len(dino_cos)),
        curve=[*clip_curve(own, known, num_pairs), *dino_curve(dino_cos, known)],
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
