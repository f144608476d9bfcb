"""The join on CPU cores: float32 blocks, a lossless screen, survivors re-checked in float64.

A block of float32 products costs a matrix product; looking at it costs more if done badly. So a
block is first reduced to one maximum per row, and only rows whose maximum could pass are read.

Shape suffixes: N rows of the first set, M rows of the second, D clip width, B rows of a block.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from kernels.reference import Pairs, cosines, norms

BLOCK_ROWS = 2048


def slack(dim: int) -> float:
    """How far a float32 product of two unit rows may lie from their cosine.

    Rounding both rows to float32 moves the product by at most 2u + u^2 (Cauchy-Schwarz, u = 2^-24)
    and adding D products in any order by at most D u / (1 - D u) (Higham, Accuracy and Stability
    of Numerical Algorithms, section 3.1). Two further u cover rows that are unit only up to u.
    """
    unit = 2.0**-24
    return dim * unit / (1 - dim * unit) + 5 * unit


@contextmanager
def _true_float32() -> Iterator[None]:
    # At "medium" torch may multiply float32 in bfloat16, which the slack does not cover.
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)


def _unit_float32(rows: torch.Tensor, name: str) -> torch.Tensor:
    norms_N = norms(rows, name)
    unit = torch.empty(rows.shape, dtype=torch.float32)
    for start in range(0, len(rows), 65_536):
        stop = start + 65_536
        unit[start:stop] = rows[start:stop].double() / norms_N[start:stop, None]
    return unit


def _survivors(
    a_BD: torch.Tensor, b_BD: torch.Tensor, floor: float, *, diagonal: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices within the block of all products above a floor; upper triangle on the diagonal."""
    with _true_float32():
        products_BB = a_BD @ b_BD.T
    if diagonal:
        products_BB.masked_fill_(torch.ones_like(products_BB, dtype=torch.bool).tril_(), -2.0)
    rows = (products_BB.amax(dim=1) > floor).nonzero()[:, 0]
    hits = (products_BB[rows] > floor).nonzero()
    return rows[hits[:, 0]], hits[:, 1]


def candidates(
    clip: tuple[torch.Tensor, torch.Tensor | None],
    dino: tuple[torch.Tensor, torch.Tensor | None],
    *,
    clip_above: float,
) -> Iterator[Pairs]:
    """All pairs whose CLIP cosine is strictly above a threshold, with both cosines.

    The same contract as `kernels.reference.candidates`, and the same pairs.

    Args:
        clip: ([N, D], [M, D] or None); None joins the first set with itself (i < j).
        dino: ([N, E], [M, E] or None), the same images in the same order.
        clip_above: the threshold.

    Yields:
        The candidates of one block after the other; blocks without any are left out.

    Raises:
        ValueError: a row is zero or not finite.
    """
    a_ND, b_MD = clip[0], clip[0] if clip[1] is None else clip[1]
    e_NE, f_ME = dino[0], dino[0] if dino[1] is None else dino[1]
    within = clip[1] is None
    for rows in (e_NE,) if within else (e_NE, f_ME):
        norms(rows, "dino")
    unit_a_ND = _unit_float32(a_ND, "clip")
    unit_b_MD = unit_a_ND if within else _unit_float32(b_MD, "clip")
    floor = clip_above - slack(a_ND.shape[1])
    for row in range(0, len(a_ND), BLOCK_ROWS):
        for column in range(row if within else 0, len(b_MD), BLOCK_ROWS):
            i, j = _survivors(
                unit_a_ND[row : row + BLOCK_ROWS],
                unit_b_MD[column : column + BLOCK_ROWS],
                floor,
                diagonal=within and row == column,
            )
            if len(i) == 0:
                continue
            i, j = i + row, j + column
            clip_cos = cosines(a_ND, b_MD, i, j)
            sure = clip_cos > clip_above
            i, j, clip_cos = i[sure], j[sure], clip_cos[sure]
            yield Pairs(i=i, j=j, clip_cos=clip_cos, dino_cos=cosines(e_NE, f_ME, i, j))
