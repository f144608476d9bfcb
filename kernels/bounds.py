"""The bounds that make a screen over short codes of rows lossless.

A screen multiplies codes instead of rows and keeps every pair whose product lies above a floor.
The floor is the threshold less everything that can have gone wrong, so no pair above the threshold
is lost; what survives wrongly is dropped by a later step that looks at the rows themselves.

What can go wrong, for rows a, b of unit length and their codes a', b':

* coding: |a.b - a'.b'| <= |a - a'| |b| + |a'| |b - b'| (Cauchy-Schwarz), with the lengths of the
  residuals measured;
* adding D products in floating point, in any order: at most g(D) |a'| |b'|, g(n) = n u / (1 - n u)
  (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1). Integers add exactly;
* rounding the sum to bfloat16: the floor is rounded down to a bfloat16, so rounding, which keeps
  order, cannot carry a sum across it.

Here are the bounds of floating point, and bfloat16 as a code; `kernels/axes.py` and
`kernels/codes.py` have a narrower one in int8.

Shape suffixes: N rows, D row width, R rows of one block.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

UNIT_ROUNDOFF = 2.0**-24
"""Largest relative error of rounding to float32."""

BLOCK_ROWS = 1024
"""Rows that share a scale and an error bound: one outlier row does not spoil the others."""


def sum_slack(num_products: int) -> float:
    """g(n): relative error of a float32 sum of n products, in any order."""
    return num_products * UNIT_ROUNDOFF / (1 - num_products * UNIT_ROUNDOFF)


def unit_slack(dim: int) -> float:
    """How far a row of `unit_rows` may lie from the true unit row: norm, division, conversion."""
    return sum_slack(dim + 8)


def unit_rows(rows: torch.Tensor) -> torch.Tensor:
    """Rows scaled to unit length.

    Args:
        rows: [N, D] of any float dtype, no row zero or not finite.

    Returns:
        [N, D] float32; each row lies within `unit_slack(D)` of the true unit row.
    """
    if rows.dtype == torch.float16:
        scaled = rows.float()
    else:
        # Scaled by the largest entry first, so that the squares neither overflow nor vanish.
        wide = rows if rows.dtype == torch.float64 else rows.float()
        scaled = (wide / wide.abs().amax(dim=1, keepdim=True)).float()
    return scaled.div_(torch.linalg.vector_norm(scaled, dim=1, keepdim=True))


def float32_slack(dim: int) -> float:
    """How far a float32 product of two `unit_rows` may lie from their cosine."""
    unit = unit_slack(dim)
    return 2 * unit + unit * unit + sum_slack(dim) * (1 + unit) ** 2


def float32_floor(above: float, dim: int) -> float:
    """The floor for a float32 product of two `unit_rows`.

    Returns:
        A float32 number; a pair above the threshold has a product strictly above it.
    """
    floor = torch.tensor(above - float32_slack(dim), dtype=torch.float64).float()
    # Rounding the floor to float32 may have raised it.
    return float(torch.nextafter(floor, torch.tensor(-math.inf)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounded:
    """Unit rows rounded to bfloat16.

    Attributes:
        rows_ND: [N, D] bfloat16.
        error: largest distance of a row from its true unit row.
    """

    rows_ND: torch.Tensor
    error: float


def round_rows(rows: torch.Tensor) -> Rounded:
    """Rows scaled to unit length and rounded to bfloat16, with the residual measured.

    Args:
        rows: [N, D] of any float dtype, no row zero or not finite.
    """
    rounded_ND = torch.empty(rows.shape, dtype=torch.bfloat16, device=rows.device)
    error = 0.0
    for start in range(0, len(rows), BLOCK_ROWS):
        unit_RD = unit_rows(rows[start : start + BLOCK_ROWS])
        rounded_ND[start : start + BLOCK_ROWS] = unit_RD
        residual_RD = unit_RD.double() - rounded_ND[start : start + BLOCK_ROWS].double()
        error = max(error, float(torch.linalg.vector_norm(residual_RD, dim=1).max()))
    return Rounded(rows_ND=rounded_ND, error=error + unit_slack(rows.shape[1]))


def bfloat16_floor(above: float, a: float, b: float, dim: int) -> float:
    """The floor for a bfloat16 product, accumulated in float32, of two `Rounded` sets.

    Args:
        above: the threshold.
        a: the error of the first set.
        b: the error of the second set.
        dim: products in a sum.

    Returns:
        A bfloat16 number; a pair above the threshold has a product of at least this.
    """
    coding = a + (1 + a) * b
    floor = above - coding - sum_slack(dim) * (1 + a) * (1 + b)
    return _down_to_bfloat16(floor)


def _down_to_bfloat16(value: float) -> float:
    nearest = torch.tensor(value, dtype=torch.float64).bfloat16()
    if float(nearest) > value:
        nearest = torch.nextafter(nearest, torch.tensor(-math.inf, dtype=torch.bfloat16))
    return float(nearest)
