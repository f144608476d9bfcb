"""What a calibration is given, and what it finds.

Shape suffixes: N images, D and E widths of a vector.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


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
