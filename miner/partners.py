"""Rows with very many blind partners keep the first of them, whatever order pairs are found in.

A pair's rank at a row is its place among all pairs of that row: blind pairs first, then by CLIP
cosine descending, then by image_ids. The join keeps a pair that ranks among the first m at both of
its rows, so no row has more than m. While pairs are still being found, those that rank among the
first m at neither cannot come back and are dropped; what is left tells every rank up to m exactly.

Shape suffixes: P pairs, N rows.
"""

from __future__ import annotations

import numpy as np
import torch

from kernels.reference import Pairs, concatenate
from miner.config import JoinSettings

WAITING_PAIRS = 4_000_000
"""Pairs that are held before those out of every rank are dropped."""


def ranks(
    i: np.ndarray, j: np.ndarray, clip_cos: np.ndarray, blind: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The rank, from 0, of each pair at both of its rows.

    Args:
        i: [P] int64, rows of the first set.
        j: [P] int64, rows of the second set; numbered apart from the first's.
        clip_cos: [P] float64.
        blind: [P] bool.

    Returns:
        [P] int64 at i and [P] int64 at j.
    """
    order = np.lexsort((j, i, -clip_cos, ~blind))
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

    def __init__(
        self, settings: JoinSettings, num_rows: int, num_others: int | None = None
    ) -> None:
        """Hold nothing yet.

        Args:
            settings: how many partners a row may keep, and which pairs are blind.
            num_rows: N, rows of the first set.
            num_others: M, rows of the second set; None where both sets are one.
        """
        self.settings = settings
        # Rows of a second set are numbered on from those of the first.
        self.offset = 0 if num_others is None else num_rows
        self.degree = np.zeros(num_rows + (num_others or 0), np.int64)
        self.num_pairs = 0
        self._held: list[Pairs] = []
        self._num_held = 0
        self._most_held = WAITING_PAIRS

    def add(self, pairs: Pairs) -> None:
        """Take pairs, in any order."""
        rows, counts = self._degree(pairs)
        self.degree[rows] += counts
        self.num_pairs += len(pairs)
        self._held.append(pairs)
        self._num_held += len(pairs)
        if self._num_held >= self._most_held:
            self._held = [self.held()]
            self._num_held = len(self._held[0])
            # Twice what had to stay, so that pairs are ranked a few times and not at every call.
            self._most_held = max(WAITING_PAIRS, 2 * self._num_held)

    def held(self) -> Pairs:
        """The pairs that rank among the first m at one of their rows at least."""
        return self._where(concatenate(self._held), np.logical_or)

    def kept(self) -> Pairs:
        """The pairs that rank among the first m at both of their rows."""
        return self._where(self.held(), np.logical_and)

    def dropped(self, pairs: Pairs) -> np.ndarray:
        """[N + M] int64: partners of every row that are not among these pairs."""
        missing = self.degree.copy()
        rows, counts = self._degree(pairs)
        missing[rows] -= counts
        return missing

    def _degree(self, pairs: Pairs) -> tuple[np.ndarray, np.ndarray]:
        """Rows that have one of these pairs, and how many each."""
        ends = np.concatenate([pairs.i.numpy(), pairs.j.numpy() + self.offset])
        rows, counts = np.unique(ends, return_counts=True)
        return rows, counts

    def _where(self, pairs: Pairs, either_or_both: np.ufunc) -> Pairs:
        most, how = self.settings.max_partners, self.settings
        if not (self.degree > most).any():
            return pairs
        clip_cos = pairs.clip_cos.numpy()
        at_i, at_j = ranks(
            pairs.i.numpy(),
            pairs.j.numpy() + self.offset,
            clip_cos,
            (clip_cos > how.clip_above) & (pairs.dino_cos.numpy() < how.dino_below),
        )
        return pairs.where(torch.from_numpy(either_or_both(at_i < most, at_j < most)))
