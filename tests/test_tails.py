"""All pairs' cosines, against numpy."""

import numpy as np
import pytest
import torch

from kernels.reference import cosines
from miner.measuring.tails import BIN_WIDTH, BLOCK_ROWS, edge, histogram, tail, threshold_at


def all_cosines(vectors_ND: torch.Tensor) -> np.ndarray:
    rows = vectors_ND.double().numpy()
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    found: np.ndarray = (rows @ rows.T)[np.triu_indices(len(rows), 1)]
    return found


@pytest.mark.parametrize("num_rows", [2, 60, BLOCK_ROWS + 7])
def test_histogram_counts_every_pair_once(num_rows: int) -> None:
    vectors = torch.randn(num_rows, 16, generator=torch.Generator().manual_seed(0)).half()
    counts, cos = histogram(vectors), all_cosines(vectors)
    assert counts.sum() == num_rows * (num_rows - 1) // 2
    for limit in (-0.5, 0.0, 0.3):
        bin = int(np.flatnonzero([abs(edge(b) - limit) < 1e-9 for b in range(len(counts))])[0])
        assert abs(counts[bin:].sum() - (cos >= limit).sum()) <= 1


def test_extremes_have_a_bin() -> None:
    vectors = torch.tensor([[1.0, 0], [3, 0], [-2, 0], [0, 1]])
    counts = histogram(vectors)
    places = {round(edge(int(b)), 4): int(counts[b]) for b in np.flatnonzero(counts)}
    assert places == {-1.0: 2, 0.0: 3, 1.0: 1}


@pytest.mark.parametrize("above", [-2, 0, 0.4, 0.99])
def test_tail_is_every_pair_above_the_limit(above: float) -> None:
    vectors = torch.randn(BLOCK_ROWS + 9, 8, generator=torch.Generator().manual_seed(1)).half()
    found = tail(vectors, above)
    cos = all_cosines(vectors)
    assert len(found) == (cos > above).sum()
    assert (found.i < found.j).all()
    assert (np.diff(found.cos) <= 0).all()
    np.testing.assert_allclose(found.cos, np.sort(cos)[::-1][: len(found)], atol=1e-12)
    some = slice(None, None, 1 + len(found) // 50)
    i, j = torch.from_numpy(found.i[some]), torch.from_numpy(found.j[some])
    np.testing.assert_array_equal(found.cos[some], cosines(vectors, vectors, i, j).numpy())
    np.testing.assert_array_equal(found.cosines_of(vectors), found.cos)


def test_threshold_at_lets_enough_through() -> None:
    vectors = torch.randn(200, 8, generator=torch.Generator().manual_seed(2))
    counts, cos = histogram(vectors), np.sort(all_cosines(vectors))[::-1]
    for number in (1, 10, 500, len(cos), 10 * len(cos)):
        wanted = cos[min(number, len(cos)) - 1]
        assert wanted - BIN_WIDTH - 1e-9 <= threshold_at(counts, number) <= wanted + 1e-9
