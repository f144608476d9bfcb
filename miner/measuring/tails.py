"""The cosines of all pairs of some images: their distribution, and the pairs at its upper end.

Shape suffixes: N images, D width of a vector, P pairs, B bins.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from kernels.reference import cosines

BIN_WIDTH = 1e-4
"""Width of a bin in cosine."""

NUM_BINS = 20_002
"""Bins from -1 to 1, and one more at either end for what rounding takes beyond."""

BLOCK_ROWS = 1024

MARGIN = 1e-9
"""More than a float64 product of unit rows can be off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tail:
    """Pairs with a cosine above a limit, the highest first; of equal ones by their places.

    Attributes:
        i: [P] int64, place of an image.
        j: [P] int64, of another, i < j.
        cos: [P] float64.
    """

    i: np.ndarray
    j: np.ndarray
    cos: np.ndarray

    def __len__(self) -> int:
        return len(self.cos)

    def cosines_of(self, vectors_ND: torch.Tensor) -> np.ndarray:
        """[P] float64 cosines of the same pairs by other vectors."""
        found: np.ndarray = cosines(
            vectors_ND, vectors_ND, torch.from_numpy(self.i), torch.from_numpy(self.j)
        ).numpy()
        return found


def histogram(vectors_ND: torch.Tensor) -> np.ndarray:
    """How many of all pairs have their cosine in which bin: [B] int64.

    Bin b holds cosines from `edge(b)` on, up to `edge(b + 1)`.
    """
    counts = np.zeros(NUM_BINS, np.int64)
    for _, block, is_pair in _blocks(vectors_ND):
        cos = block[is_pair].numpy()
        bins = np.floor(cos / BIN_WIDTH).astype(np.int64) + NUM_BINS // 2
        counts += np.bincount(bins, minlength=NUM_BINS)
    return counts


def edge(bin: int) -> float:
    """Where a bin begins, in cosine."""
    return (bin - NUM_BINS // 2) * BIN_WIDTH


def threshold_at(counts: np.ndarray, number: int) -> float:
    """An edge with at least so many pairs above it, the highest there is."""
    above = np.cumsum(counts[::-1])[::-1]
    return edge(int(np.flatnonzero(above >= min(number, above[0]))[-1]))


def tail(vectors_ND: torch.Tensor, above: float) -> Tail:
    """All pairs with a cosine strictly above a limit."""
    places = []
    for start, block, is_pair in _blocks(vectors_ND):
        i, j = (is_pair & (block > above - MARGIN)).nonzero(as_tuple=True)
        places.append(torch.stack([i, j]) + start)
    i, j = torch.cat(places, dim=1)
    # One by one, so that a cosine does not depend on the block it was found in.
    cos = cosines(vectors_ND, vectors_ND, i, j)
    is_above = cos > above
    first, second, found = (each[is_above].numpy() for each in (i, j, cos))
    order = np.lexsort((second, first, -found))
    return Tail(i=first[order], j=second[order], cos=found[order])


def _blocks(vectors_ND: torch.Tensor) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
    """Cosines of some images with those from the first of them on, and which are pairs."""
    unit_ND = torch.nn.functional.normalize(vectors_ND.double(), dim=1)
    for start in range(0, len(unit_ND), BLOCK_ROWS):
        block = unit_ND[start : start + BLOCK_ROWS] @ unit_ND[start:].T
        # Each pair once, and no image with itself.
        yield start, block, torch.ones_like(block, dtype=torch.bool).triu(1)
