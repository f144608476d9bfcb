"""Rows on the device: their lengths, and what the tile kernels multiply in their place.

Shape suffixes: N rows, D row width, S rows of a sample, K code width, R rows of one chunk.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch.nn.functional import pad

from kernels.axes import Axes, project
from kernels.bounds import BLOCK_ROWS, sum_slack, unit_rows, unit_slack
from kernels.codes import Codes, empty_codes, encode_block
from kernels.reference import norms
from kernels.tiles import CODE_WIDTH

CHUNK_ROWS = 64 * BLOCK_ROWS
"""Rows that are converted at a time."""

MAX_EXPONENT = 40
"""Rows longer than 2 to this, or shorter than its reciprocal, are scaled: products of two rows
and their sums then stay far from float32's limits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRows:
    """Rows of one set on the device.

    Attributes:
        rows_ND: [N, D] contiguous, as given; where a length is beyond `MAX_EXPONENT`, every row
            times a power of two, which changes no cosine.
        inverse_N: [N] float32, one over the row's length.
    """

    rows_ND: torch.Tensor
    inverse_N: torch.Tensor

    def __len__(self) -> int:
        return len(self.rows_ND)

    @property
    def width(self) -> int:
        """D, the width of a row."""
        return self.rows_ND.shape[1]

    def sample(self, num_rows: int) -> torch.Tensor:
        """[S, D] float32: at most so many rows, evenly spaced, of unit length."""
        num_rows = min(num_rows, len(self))
        picked_S = torch.arange(num_rows, device=self.rows_ND.device) * len(self) // num_rows
        return unit_rows(self.rows_ND[picked_S])


def to_device(rows: torch.Tensor, name: str, device: torch.device) -> DeviceRows:
    """Move rows to the device and measure them.

    Args:
        rows: [N, D] of any float dtype, on any device.
        name: what to call the rows in an error.
        device: where to.

    Raises:
        ValueError: a row is zero or not finite.
    """
    rows_ND = rows.detach().to(device).contiguous()
    lengths_N = norms(rows_ND, name)
    exponent_N = torch.frexp(lengths_N).exponent
    if bool((exponent_N.abs() > MAX_EXPONENT).any()):
        rows_ND = rows_ND.clone()
        # In two steps: the power itself may be beyond the dtype.
        for part_N in (exponent_N // 2, exponent_N - exponent_N // 2):
            power_N = torch.ldexp(torch.ones_like(lengths_N), -part_N)
            rows_ND *= power_N.to(rows_ND)[:, None]
            lengths_N *= power_N
    inverse_N = lengths_N.reciprocal().to(device, torch.float32)
    return DeviceRows(rows_ND=rows_ND, inverse_N=inverse_N)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScreenRows:
    """What the full-width tile kernel multiplies.

    Attributes:
        rows_ND: [N, D] float16 or bfloat16, contiguous, padded with zeros in width.
        inverse_N: [N] float32.
        error: largest distance of a row times its inverse length from the true unit row; 0 where
            the rows are as given.
    """

    rows_ND: torch.Tensor
    inverse_N: torch.Tensor
    error: float


def screen_rows(rows: DeviceRows, dtype: torch.dtype, depth: int) -> ScreenRows:
    """Rows of 16 bits: those given where they are of that dtype, else rounded unit rows.

    Args:
        rows: the set.
        dtype: float16 or bfloat16.
        depth: what the width has to be a multiple of.
    """
    missing = -rows.width % depth
    if rows.rows_ND.dtype == dtype:
        rows_ND = pad(rows.rows_ND, (0, missing)) if missing else rows.rows_ND
        return ScreenRows(rows_ND=rows_ND, inverse_N=rows.inverse_N, error=0.0)
    shape = (len(rows), rows.width + missing)
    rows_ND = torch.zeros(shape, dtype=dtype, device=rows.rows_ND.device)
    error = 0.0
    for start in range(0, len(rows), CHUNK_ROWS):
        unit_RD = unit_rows(rows.rows_ND[start : start + CHUNK_ROWS])
        rounded_RD = unit_RD.to(dtype)
        rows_ND[start : start + CHUNK_ROWS, : rows.width] = rounded_RD
        residual_R = torch.linalg.vector_norm(unit_RD.double() - rounded_RD.double(), dim=1)
        error = max(error, float(residual_R.max()))
    return ScreenRows(
        rows_ND=rows_ND,
        inverse_N=torch.ones_like(rows.inverse_N),
        error=error + unit_slack(rows.width),
    )


def tensor_core_slack(dim: int) -> float:
    """Relative error of a product of 16-bit rows, summed by tensor cores, times both lengths.

    They add a few products at a time (4 to 16), aligned to the largest and cut off instead of
    rounded (Fasi, Higham, Mikaitis and Pranesh, Numerical behavior of NVIDIA tensor cores, 2021):
    at most 3 u a product, u = 2^-24. Sixteen more cover the lengths and their products.
    """
    return sum_slack(4 * dim + 16)


def rows_floor(above: float, a: ScreenRows, b: ScreenRows) -> float:
    """The floor for the full-width tile kernel; no pair above the threshold lies below it."""
    coding = a.error + (1 + a.error) * b.error
    lengths = (1 + a.error) * (1 + b.error)
    return float32_below(above - coding - tensor_core_slack(a.rows_ND.shape[1]) * lengths)


def recheck_slack(width: int) -> float:
    """How far a cosine of `recheck_kernel` may lie from the true one.

    Rows of float64 lose one rounding each; two more for each length and its product.
    """
    return sum_slack(width + 16)


def float32_below(value: float) -> float:
    """The largest float32 number that is not above a number."""
    nearest = torch.tensor(value, dtype=torch.float32)
    if float(nearest) > value:
        nearest = torch.nextafter(nearest, torch.tensor(-torch.inf))
    return float(nearest)


def encode(rows_ND: torch.Tensor, axes: Axes) -> Codes:
    """int8 codes of rows, with as many rows of zeros as fill the last block.

    Args:
        rows_ND: [N, D] of any float dtype.
        axes: from `kernels.axes.find_axes`.

    Returns:
        Codes of `CODE_WIDTH`, padded with zeros where the axes are fewer.
    """
    num_rows = len(rows_ND)
    codes = empty_codes(-(-num_rows // BLOCK_ROWS) * BLOCK_ROWS, axes)
    codes.codes_NK[num_rows:] = 0
    # In float64: the bound of the images does not cover TF32, which torch may be set to.
    wide_axes = replace(axes, turned_DK=axes.turned_DK.double())
    for start in range(0, num_rows, CHUNK_ROWS):
        image_RK = project(unit_rows(rows_ND[start : start + CHUNK_ROWS]).double(), wide_axes)
        for block in range(0, len(image_RK), BLOCK_ROWS):
            index = (start + block) // BLOCK_ROWS
            encode_block(codes, index, image_RK[block : block + BLOCK_ROWS])
    missing = CODE_WIDTH - axes.width
    return replace(codes, codes_NK=pad(codes.codes_NK, (0, missing))) if missing else codes
