"""The specification: candidate and blind pairs in plain torch, float64.

Every other implementation yields the same `Pairs` and is tested against this file.

Shape suffixes: N rows of the first set, M rows of the second, D clip width, E dino width,
P pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

BLOCK_ROWS = 1024

CHUNK_ROWS = 4096
CHUNK_PAIRS = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """Index pairs with both cosines.

    Attributes:
        i: [P] int64, row of the first set.
        j: [P] int64, row of the second set; within one set i < j.
        clip_cos: [P] float64.
        dino_cos: [P] float64.
    """

    i: torch.Tensor
    j: torch.Tensor
    clip_cos: torch.Tensor
    dino_cos: torch.Tensor

    def __len__(self) -> int:
        return len(self.i)

    def where(self, mask: torch.Tensor) -> Pairs:
        """The pairs at which a [P] bool mask (or an index tensor) points."""
        return Pairs(
            i=self.i[mask],
            j=self.j[mask],
            clip_cos=self.clip_cos[mask],
            dino_cos=self.dino_cos[mask],
        )


def concatenate(blocks: list[Pairs]) -> Pairs:
    """One `Pairs` out of many, in their order."""
    if not blocks:
        none, no_cos = torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.float64)
        return Pairs(i=none, j=none, clip_cos=no_cos, dino_cos=no_cos)
    return Pairs(
        i=torch.cat([block.i for block in blocks]),
        j=torch.cat([block.j for block in blocks]),
        clip_cos=torch.cat([block.clip_cos for block in blocks]),
        dino_cos=torch.cat([block.dino_cos for block in blocks]),
    )


def norms(rows: torch.Tensor, name: str) -> torch.Tensor:
    """Euclidean length of every row.

    Args:
        rows: [N, D] of any float dtype.
        name: what to call the rows in an error.

    Returns:
        [N] float64.

    Raises:
        ValueError: a row is zero or holds NaN or infinity, so it has no cosine.
    """
    norms_N = torch.empty(len(rows), dtype=torch.float64, device=rows.device)
    for start in range(0, len(rows), CHUNK_ROWS):
        scaled, scale = _within_range(rows[start : start + CHUNK_ROWS])
        norms_N[start : start + CHUNK_ROWS] = torch.linalg.vector_norm(scaled, dim=1) * scale[:, 0]
    bad = ~(norms_N.isfinite() & (norms_N > 0))
    if bool(bad.any()):
        row = int(bad.nonzero()[0])
        what = "holds NaN or infinity"
        if bool(rows[row].isfinite().all()):
            what = "is zero" if not bool(rows[row].any()) else "is longer than float64 can say"
        raise ValueError(
            f"{name}: row {row} of {len(rows)} {what} and has no cosine "
            f"({int(bad.sum())} such rows); drop them before the join"
        )
    return norms_N


def check_rows(rows: torch.Tensor, name: str) -> None:
    """Refuse rows that have no cosine, faster than by their length.

    Args:
        rows: [N, D] of any float dtype.
        name: what to call the rows in an error.

    Raises:
        ValueError: a row is zero or holds NaN or infinity.
    """
    for start in range(0, len(rows), CHUNK_ROWS):
        block = rows[start : start + CHUNK_ROWS]
        wide = block if block.dtype == torch.float64 else block.float()
        lengths = torch.linalg.vector_norm(wide, dim=1)
        # Squares of very large or small numbers overflow or vanish; such rows are looked at again.
        if not bool(((lengths > 0) & lengths.isfinite()).all()):
            norms(rows, name)
            return


def cosines(
    a_ND: torch.Tensor, b_MD: torch.Tensor, i: torch.Tensor, j: torch.Tensor
) -> torch.Tensor:
    """Float64 cosines of the pairs (a[i], b[j]).

    Args:
        a_ND: [N, D] of any float dtype, rows of any length but zero.
        b_MD: [M, D] likewise.
        i: [P] int64.
        j: [P] int64.

    Returns:
        [P] float64; one pair's cosine does not depend on the pairs beside it.
    """
    cosines_P = torch.empty(len(i), dtype=torch.float64, device=a_ND.device)
    # Few pairs at a time, so that their rows stay in the processor's cache.
    for start in range(0, len(i), CHUNK_PAIRS):
        stop = start + CHUNK_PAIRS
        a, _ = _within_range(a_ND[i[start:stop]])
        b, _ = _within_range(b_MD[j[start:stop]])
        lengths = torch.linalg.vector_norm(a, dim=1) * torch.linalg.vector_norm(b, dim=1)
        cosines_P[start:stop] = a.mul_(b).sum(dim=1).div_(lengths)
    return cosines_P


def _within_range(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows in float64 whose squares neither overflow nor vanish, and what they were divided by."""
    if rows.dtype != torch.float64:
        # Squares of narrower floats lie within float64's range.
        return rows.double(), torch.ones(1, 1, dtype=torch.float64, device=rows.device)
    scale = rows.abs().amax(dim=1, keepdim=True)
    return rows / scale, scale


def candidates(
    clip: tuple[torch.Tensor, torch.Tensor | None],
    dino: tuple[torch.Tensor, torch.Tensor | None],
    *,
    clip_above: float,
) -> Iterator[Pairs]:
    """All pairs whose CLIP cosine is strictly above a threshold, with both cosines.

    Args:
        clip: ([N, D], [M, D] or None); None joins the first set with itself (i < j).
        dino: ([N, E], [M, E] or None), the same images in the same order.
        clip_above: the threshold.

    Yields:
        The candidates of one block of rows after the other.

    Raises:
        ValueError: a row is zero or not finite.
    """
    a_ND, b_MD = clip[0], clip[0] if clip[1] is None else clip[1]
    e_NE, f_ME = dino[0], dino[0] if dino[1] is None else dino[1]
    for rows, name in ((a_ND, "clip"), (b_MD, "clip"), (e_NE, "dino"), (f_ME, "dino")):
        norms(rows, name)
    unit_b_MD = b_MD.double() / norms(b_MD, "clip")[:, None]
    norms_N = norms(a_ND, "clip")
    for start in range(0, len(a_ND), BLOCK_ROWS):
        stop = min(start + BLOCK_ROWS, len(a_ND))
        block = a_ND[start:stop].double() / norms_N[start:stop, None]
        hits = (block @ unit_b_MD.T > clip_above - 1e-9).nonzero()
        i, j = hits[:, 0] + start, hits[:, 1]
        if clip[1] is None:
            upper = i < j
            i, j = i[upper], j[upper]
        clip_cos = cosines(a_ND, b_MD, i, j)
        sure = clip_cos > clip_above
        i, j, clip_cos = i[sure], j[sure], clip_cos[sure]
        yield Pairs(i=i, j=j, clip_cos=clip_cos, dino_cos=cosines(e_NE, f_ME, i, j))
