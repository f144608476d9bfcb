"""Short codes of rows, and the bound that makes a screen over them lossless.

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

An int8 code may be narrower than the row. Of coordinates p along orthonormal axes and the length r
of the rest, u = (p, r) is again of unit length, and u_a.u_b = p_a.p_b + r_a r_b >= a.b, again by
Cauchy-Schwarz. A rotation of u then spreads its energy evenly over the code, and one scale without
clipping turns a block of rows into int8.

Shape suffixes: N rows, D row width, K code width, P axes, B blocks of rows, S rows of a sample,
R rows of one block.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

UNIT_ROUNDOFF = 2.0**-24
"""Largest relative error of rounding to float32."""

BLOCK_ROWS = 1024
"""Rows that share a scale and an error bound: one outlier row does not spoil the others."""

SUM_WIDTH = 128
"""Products that are added in float32 before the sum moves to float64, when axes are applied."""

POWER_STEPS = 3
"""Steps of the subspace iteration; more sharpen the axes and change nothing about the bound."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Axes:
    """Where a row is looked at, and how its image there is turned into a code.

    Attributes:
        turned_DK: [D, K] float32: P orthonormal axes times the rotation of the code.
        rest_K: [K] float64, the rotated axis of the rest; None where the axes span all of a row.
        error: how far a computed image may lie from the true one.
    """

    turned_DK: torch.Tensor
    rest_K: torch.Tensor | None
    error: float

    @property
    def width(self) -> int:
        """K, the width of the code."""
        return self.turned_DK.shape[1]


def find_axes(sample_SD: torch.Tensor, width: int, *, seed: int = 0) -> Axes:
    """Axes along which rows like the sample's have most of their length.

    Args:
        sample_SD: [S, D] float32 of unit length; decides how well the code works, never whether it
            is right.
        width: K; where the rows are no wider, the code is as wide as they.
        seed: of the random rotation.

    Returns:
        Axes on the sample's device.
    """
    return turn_axes(principal_axes(sample_SD, width - 1, seed=seed), width, seed=seed)


def principal_axes(sample_SD: torch.Tensor, number: int, *, seed: int = 0) -> torch.Tensor:
    """Orthonormal axes close to the leading principal ones (uncentred PCA), by subspace iteration.

    Args:
        sample_SD: [S, D] float32 of unit length.
        number: how many; all of them where the rows are no wider by more than one.
        seed: of the first axes.

    Returns:
        [D, P] float64 on the sample's device, the most important axis first.
    """
    dim = sample_SD.shape[1]
    if number >= dim - 1:
        return torch.eye(dim, dtype=torch.float64, device=sample_SD.device)
    moment_DD = (sample_SD.T @ sample_SD).cpu()
    generator = torch.Generator().manual_seed(seed)
    axes_DP = torch.randn(dim, number, generator=generator)
    for _ in range(POWER_STEPS):
        axes_DP = torch.linalg.qr(moment_DD @ axes_DP)[0]
    # Rayleigh-Ritz, so that the first axes of many are as good as if they alone had been sought.
    axes_DP = axes_DP.double()
    _, mix_PP = torch.linalg.eigh(axes_DP.T @ (moment_DD.double() @ axes_DP))
    orthonormal_DP: torch.Tensor = torch.linalg.qr((axes_DP @ mix_PP).flip(1))[0]
    return orthonormal_DP.to(sample_SD.device)


def turn_axes(axes_DP: torch.Tensor, width: int, *, seed: int = 0) -> Axes:
    """Axes for a code of some width, out of principal ones.

    Args:
        axes_DP: [D, P] float64 orthonormal, the most important first; P = D or P >= width - 1.
        width: K; where the rows are no wider, the code is as wide as they.
        seed: of the random rotation.
    """
    dim, num_axes = axes_DP.shape
    spans_all = dim <= width and num_axes == dim
    width = min(width, dim)
    used_DP = axes_DP if spans_all else axes_DP[:, : width - 1]
    generator = torch.Generator().manual_seed(seed)
    rotation_KK = _rotation(width, generator).to(axes_DP.device)
    turned_DK = (used_DP @ rotation_KK[: used_DP.shape[1]]).float()
    # Rounding the axes, and the sums in float32; each coordinate errs by so much at most.
    chunk = sum_slack(min(dim, SUM_WIDTH))
    each = (chunk + UNIT_ROUNDOFF) * (1 + chunk) + 1e-12
    return Axes(
        turned_DK=turned_DK,
        rest_K=None if spans_all else rotation_KK[-1],
        # The last term is for images that are kept in float32.
        error=unit_slack(dim) + math.sqrt(width) * each * (1 + unit_slack(dim)) + UNIT_ROUNDOFF,
    )


def _rotation(width: int, generator: torch.Generator) -> torch.Tensor:
    """[K, K] float64, a random orthonormal matrix."""
    gaussian = torch.randn(width, width, generator=generator, dtype=torch.float64)
    rotation_KK: torch.Tensor = torch.linalg.qr(gaussian)[0]
    return rotation_KK


def project(unit_ND: torch.Tensor, axes: Axes) -> torch.Tensor:
    """The images u of unit rows, in the rotated coordinates of a code.

    Args:
        unit_ND: [N, D] float32, rows of `unit_rows`.
        axes: from `find_axes`.

    Returns:
        [N, K] float64: u_a.u_b >= cos(a, b) - 2 e l - e^2 for the axes' error e and images no
        longer than l.
    """
    image_NK = torch.zeros(len(unit_ND), axes.width, dtype=torch.float64, device=unit_ND.device)
    for start in range(0, unit_ND.shape[1], SUM_WIDTH):
        columns = slice(start, start + SUM_WIDTH)
        image_NK += unit_ND[:, columns] @ axes.turned_DK[columns]
    if axes.rest_K is not None:
        # An upper bound of the rest: the length that is missing, and what p may be off by.
        slack = 2 * axes.error * (1 + axes.error)
        rest_N = (1 - image_NK.square().sum(dim=1)).clamp_(min=0).add_(slack).sqrt_()
        image_NK += rest_N[:, None] * axes.rest_K
    return image_NK


@dataclass(frozen=True, slots=True, kw_only=True)
class Codes:
    """int8 codes of rows, in blocks of `BLOCK_ROWS` rows.

    Attributes:
        codes_NK: [N, K] int8.
        scale_B: [B] float64: image = scale * code + residual.
        error_B: [B] float64, the longest residual of a block.
        length_B: [B] float64, the longest image of a block.
        axes_error: how far an image may lie from the true one.
    """

    codes_NK: torch.Tensor
    scale_B: torch.Tensor
    error_B: torch.Tensor
    length_B: torch.Tensor
    axes_error: float

    def __len__(self) -> int:
        return len(self.codes_NK)


def empty_codes(num_rows: int, axes: Axes) -> Codes:
    """Room for the codes of so many rows, on the axes' device."""
    device = axes.turned_DK.device
    num_blocks = -(-num_rows // BLOCK_ROWS)
    per_block = [torch.empty(num_blocks, dtype=torch.float64, device=device) for _ in range(3)]
    return Codes(
        codes_NK=torch.empty(num_rows, axes.width, dtype=torch.int8, device=device),
        scale_B=per_block[0],
        error_B=per_block[1],
        length_B=per_block[2],
        axes_error=axes.error,
    )


def encode_block(codes: Codes, block: int, image_RK: torch.Tensor) -> None:
    """Write one block of codes.

    Args:
        codes: where to.
        block: which block.
        image_RK: [R, K] float64, the block's images from `project`.
    """
    start = block * BLOCK_ROWS
    scale = image_RK.abs().max() / 127
    code_RK = (image_RK / scale).round_()
    residual_R = torch.linalg.vector_norm(image_RK - scale * code_RK, dim=1)
    codes.codes_NK[start : start + len(image_RK)] = code_RK.to(torch.int8)
    codes.scale_B[block] = scale
    codes.error_B[block] = residual_R.max() + 1e-12
    codes.length_B[block] = torch.linalg.vector_norm(image_RK, dim=1).max() + 1e-12


def code_floors(a: Codes, b: Codes, above: float) -> torch.Tensor:
    """What the integer products of two blocks have to exceed.

    Args:
        a: codes of the first set.
        b: codes of the second set, over the same axes.
        above: the threshold.

    Returns:
        [B_a, B_b] int64: a pair above the threshold has a product of codes strictly above this.
    """
    length = torch.maximum(a.length_B[:, None], b.length_B[None, :])
    axes_slack = a.axes_error * (2 * length + a.axes_error)
    coding = a.error_B[:, None] * b.length_B + (a.length_B + a.error_B)[:, None] * b.error_B
    scale = a.scale_B[:, None] * b.scale_B
    return ((above - axes_slack - coding - 1e-12) / scale).floor_().to(torch.int64)
