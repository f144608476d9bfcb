"""Rows of other tools become unit vectors, or are refused."""

import numpy as np
import pytest

from miner.importing.vectors import unit_rows
from tests.foreign import some_vectors
from tests.runs import unit


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_stored_unit_rows_stay_as_they_are(dtype: type[np.floating]) -> None:
    import torch

    stored = unit(torch.randn(500, 768, generator=torch.Generator().manual_seed(0)))
    found, is_zero, is_bad = unit_rows(stored.astype(dtype))
    np.testing.assert_array_equal(found, stored)
    assert not (is_zero | is_bad).any()


def test_rows_of_nearly_unit_length_stay_as_they_are() -> None:
    """What float16 took from a length is not given back, which would move other bits."""
    rows = np.full((1, 4), 0.501, np.float16)
    found, _, _ = unit_rows(rows)
    assert abs(np.linalg.norm(rows.astype(float)) - 1) > 1e-3
    np.testing.assert_array_equal(found, rows)


@pytest.mark.parametrize("scale", [5e-324, 1e-200, 1e-5, 0.99, 1.01, 30, 1e30, 1e300])
def test_rows_of_any_length(scale: float) -> None:
    rows = some_vectors(50, 40).astype(np.float64)
    wanted = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    if scale == 5e-324:
        rows = np.sign(rows)
        wanted = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    found, is_zero, is_bad = unit_rows(rows * scale)
    np.testing.assert_array_equal(found, wanted.astype(np.float16))
    assert not (is_zero | is_bad).any()


def test_rows_without_a_direction() -> None:
    rows = some_vectors(5, 4).astype(np.float64)
    rows[1], rows[2, 0], rows[3, 1] = 0, np.nan, -np.inf
    found, is_zero, is_bad = unit_rows(rows)
    assert is_zero.tolist() == [False, True, False, False, False]
    assert is_bad.tolist() == [False, False, True, True, False]
    assert np.abs(np.linalg.norm(found[[0, 4]].astype(float), axis=1) - 1).max() < 1e-3
