"""Few of many pairs, each unlike all the others: greedy k-center, farthest first.

The feature of a pair says what it shows and not which image is the first: the mean of both CLIP
vectors and the mean of both DINO vectors, each of unit length, side by side. The first centre is
the first row; each further one is the row whose nearest centre is farthest away, the first of those
that are equally far. So no row is farther from a centre than twice what the best choice of centres
could have (Gonzalez, 1985).

Features are rounded to integers of which float32 computes every product and every sum exactly: the
choice is the same on every machine. Distances only ever shrink, so that a row is looked at again
only where its last known distance could still win.

Shape suffixes: P rows, R some of them, U images, D and E widths of vectors, W = D + E, K centres.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Features = npt.NDArray[np.float32]
"""[R, W] float32 that hold integers, a squared length below 2**24 each."""

SCALE = 4000
"""Length of a feature before it is rounded; rounding adds less than 96 up to a width of 36,000."""

BATCH_ROWS = 4096
"""Rows whose features are in memory at once."""


def pair_features(
    clip_UD: npt.NDArray[np.float16],
    dino_UE: npt.NDArray[np.float16],
    first: npt.NDArray[np.int64],
    second: npt.NDArray[np.int64],
) -> Features:
    """[R, W]: what some pairs show.

    Args:
        clip_UD: [U, D], of unit length.
        dino_UE: [U, E], likewise.
        first: [R], row of each pair's first image.
        second: [R], of its second.
    """
    halves = []
    for vectors in (clip_UD, dino_UE):
        mean = vectors[first].astype(np.float64) + vectors[second]
        halves.append(mean / np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-12))
    features = np.concatenate(halves, axis=1) * (SCALE / np.sqrt(2))
    rounded: Features = np.rint(features).astype(np.float32)
    return rounded


def farthest_first(
    features: Callable[[npt.NDArray[np.int64]], Features], num_rows: int, num_centres: int
) -> npt.NDArray[np.int64]:
    """Rows that are far from one another, in the order in which they are chosen.

    Args:
        features: of given rows.
        num_rows: P.
        num_centres: K, at most; all rows where there are no more.

    Returns:
        [min(K, P)] int64.
    """
    num_centres = min(num_centres, num_rows)
    chosen = np.empty(num_centres, np.int64)
    if num_centres == 0:
        return chosen
    rows = _Rows(features, num_rows, num_centres)
    for number in range(num_centres):
        chosen[number] = rows.farthest()
        rows.add(chosen[number])
    return chosen


class _Rows:
    """Squared distances of rows to their nearest centre, each as of some number of centres."""

    def __init__(
        self,
        features: Callable[[npt.NDArray[np.int64]], Features],
        num_rows: int,
        num_centres: int,
    ) -> None:
        self._features = features
        self._nearest = np.full(num_rows, np.inf)
        self._seen = np.zeros(num_rows, np.int64)
        width = features(np.zeros(1, np.int64)).shape[1]
        self._centres_KW = np.empty((num_centres, width), np.float32)
        self._num_centres = 0

    def add(self, row: np.int64) -> None:
        """Make a row a centre."""
        self._centres_KW[self._num_centres] = self._features(np.array([row]))[0]
        self._num_centres += 1
        # A centre is never chosen again, however near all others are.
        self._nearest[row], self._seen[row] = -1, len(self._centres_KW)

    def farthest(self) -> np.int64:
        """The row with the largest distance, the first of several."""
        most = BATCH_ROWS
        while True:
            top = np.argmax(self._nearest)
            if self._seen[top] >= self._num_centres:
                return top
            # Every row that could still be farther than those that are up to date.
            least = self._nearest[self._seen >= self._num_centres].max(initial=-1)
            stale = np.flatnonzero((self._seen < self._num_centres) & (self._nearest >= least))
            if len(stale) > most:
                last = len(stale) - most
                stale = stale[np.argpartition(self._nearest[stale], last)[last:]]
            for start in range(0, len(stale), BATCH_ROWS):
                self._update(stale[start : start + BATCH_ROWS])
            most *= 2

    def _update(self, rows: npt.NDArray[np.int64]) -> None:
        """Look at some rows beside all centres that they have not seen."""
        oldest = int(self._seen[rows].min())
        features_RW = self._features(rows)
        centres_KW = self._centres_KW[oldest : self._num_centres]
        # Sums of integers below 2**24: exact, in whatever order they are added.
        products_RK = (features_RW @ centres_KW.T).astype(np.float64)
        lengths_R1 = np.einsum("rw,rw->r", features_RW, features_RW).astype(np.float64)[:, None]
        lengths_K = np.einsum("kw,kw->k", centres_KW, centres_KW).astype(np.float64)
        distances_RK = lengths_R1 + lengths_K - 2 * products_RK
        self._nearest[rows] = np.minimum(self._nearest[rows], distances_RK.min(axis=1))
        self._seen[rows] = self._num_centres
