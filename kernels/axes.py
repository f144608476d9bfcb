"""Axes along which a row is looked at, so that its code may be narrower than the row.

Of coordinates p of a unit row along orthonormal axes and the length r of the rest, u = (p, r) is
again of unit length, and u_a.u_b = p_a.p_b + r_a r_b >= a.b by Cauchy-Schwarz. A rotation of u then
spreads its energy evenly over the code.

Shape suffixes: N rows, D row width, K code width, P axes, S rows of a sample.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from kernels.bounds import UNIT_ROUNDOFF, sum_slack, unit_slack

SUM_WIDTH = 128
"""Products that are added in float32 before the sum moves to float64, when axes are applied."""

POWER_STEPS = 3
"""Steps of the subspace iteration; more sharpen the axes and change nothing about the bound."""


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
