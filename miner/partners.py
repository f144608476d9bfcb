"""Rows with very many blind partners keep the first of them, whatever order pairs are found in.

A pair's rank at a row is its place among all pairs of that row, by CLIP cosine descending, then
image_ids. The join keeps a pair that ranks among the first m at both of its rows. While pairs are
still being found, those that rank among the first m at neither cannot come back and are dropped;
what is left tells every rank up to m exactly.

Shape suffixes: P pairs, N rows.
"""

from __future__ import annotations

import numpy as np
import torch

from kernels.reference import Pairs, concatenate

WAITING_PAIRS = 4_000_000
"""Pairs that are held before those out of every rank are dropped."""


def ranks(i: np.ndarray, j: np.ndarray, clip_cos: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rank, from 0, of each pair at both of its rows.

    Args:
        i: [P] int64, rows of the first set.
        j: [P] int64, rows of the second set; numbered apart from the first's.
        clip_cos: [P] float64.

    Returns:
        [P] int64 at i and [P] int64 at j.
    """
    order = np.lexsort((j, i, -clip_cos))
    rows = np.concatenate([i[order], j[order]])
    # Both ends of a pair, sorted by row and then by the pair's place in that order.
    ends = np.lexsort((np.tile(np.arange(len(order)), 2), rows))
    first_of_row = np.searchsorted(rows[ends], rows[ends], side="left")
    rank = np.empty(len(rows), np.int64)
    rank[ends] = np.arange(len(rows)) - first_of_row
    at_i, at_j = np.empty(len(order), np.int64), np.empty(len(order), np.int64)
    at_i[order], at_j[order] = rank[: len(order)], rank[len(order) :]
    return at_i, at_j


class Partners:
    """The pairs of one set of rows, or across two, of which no more are held than may be kept."""

    def __init__(self, most: int | None, num_rows: int, num_others: int | None = None) -> None:
        """Hold nothing yet.

        Args:
            most: m, partners that a row may keep; None for all.
            num_rows: N, rows of the first set.
            num_others: M, rows of the second set; None where both sets are one.
        """
        self.most = most
        # Rows of a second set are numbered on from those of the first.
        self.offset = 0 if num_others is None else num_rows
        self.degree = np.zeros(num_rows + (num_others or 0), np.int64)
        self.num_pairs = 0
        self._held: list[Pairs] = []
        self._num_held = 0

    def add(self, pairs: Pairs) -> None:
        """Take pairs, in any order."""
        self.degree += self._degree(pairs)
        self.num_pairs += len(pairs)
        self._held.append(pairs)
        self._num_held += len(pairs)
        if self._num_held >= WAITING_PAIRS:
            self._held = [self.held()]
            self._num_held = len(self._held[0])

    def held(self) -> Pairs:
        """The pairs that rank among the first m at one of their rows at least."""
        return self._where(concatenate(self._held), np.logical_or)

    def kept(self) -> Pairs:
        """The pairs that rank among the first m at both of their rows."""
        return self._where(self.held(), np.logical_and)

    def dropped(self, pairs: Pairs) -> np.ndarray:
        """[N + M] int64: partners of every row that are not among these pairs."""
        missing: np.ndarray = self.degree - self._degree(pairs)
        return missing

    def _degree(self, pairs: Pairs) -> np.ndarray:
        ends = np.concatenate([pairs.i.numpy(), pairs.j.numpy() + self.offset])
        return np.bincount(ends, minlength=len(self.degree))

    def _where(self, pairs: Pairs, either_or_both: np.ufunc) -> Pairs:
        if self.most is None or not (self.degree > self.most).any():
            return pairs
        at_i, at_j = ranks(pairs.i.numpy(), pairs.j.numpy() + self.offset, pairs.clip_cos.numpy())
        mask = either_or_both(at_i < self.most, at_j < self.most)
        return pairs.where(torch.from_numpy(mask))
