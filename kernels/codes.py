"""int8 codes of rows: one scale without clipping for a block, and the floor of their products.

Shape suffixes: N rows, K code width, B blocks of rows, R rows of one block.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from kernels.axes import Axes
from kernels.bounds import BLOCK_ROWS


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
