import math

import pytest
import torch

from kernels.reference import Pairs, candidates, concatenate, cosines, norms


def rows_at(cosine: float) -> torch.Tensor:
    return torch.tensor([[1.0, 0.0], [cosine, math.sqrt(1 - cosine**2)]], dtype=torch.float64)


def found(rows: torch.Tensor, above: float) -> list[tuple[int, int]]:
    pairs = concatenate(list(candidates((rows, None), (rows, None), clip_above=above)))
    return list(zip(pairs.i.tolist(), pairs.j.tolist(), strict=True))


def test_threshold_is_strict() -> None:
    rows = torch.tensor([[3.0, 4.0], [3.0, 4.0]], dtype=torch.float64)
    assert found(rows, 1.0) == []
    assert found(rows, math.nextafter(1.0, 0.0)) == [(0, 1)]


@pytest.mark.parametrize(("cosine", "expected"), [(0.95 - 1e-12, []), (0.95 + 1e-12, [(0, 1)])])
def test_tells_cosines_apart_that_float32_cannot(
    cosine: float, expected: list[tuple[int, int]]
) -> None:
    assert found(rows_at(cosine), 0.95) == expected


def test_length_of_rows_does_not_matter() -> None:
    rows = rows_at(0.97)
    scaled = rows * torch.tensor([[1e-150], [1e150]], dtype=torch.float64)
    assert found(scaled, 0.95) == [(0, 1)]
    assert cosines(scaled, scaled, torch.tensor([0]), torch.tensor([1])).item() == pytest.approx(
        0.97, abs=1e-15
    )


def test_across_two_sets_keeps_both_orders() -> None:
    rows = torch.eye(3, dtype=torch.float64)
    pairs = concatenate(list(candidates((rows, rows), (rows, rows), clip_above=0.5)))
    assert list(zip(pairs.i.tolist(), pairs.j.tolist(), strict=True)) == [(0, 0), (1, 1), (2, 2)]


def test_norms_of_tiny_and_huge_rows() -> None:
    rows = torch.tensor([[3e-200, 4e-200], [3e200, 4e200]], dtype=torch.float64)
    assert norms(rows, "clip").tolist() == pytest.approx([5e-200, 5e200])


@pytest.mark.parametrize(
    ("value", "what"), [(0.0, "is zero"), (float("nan"), "holds NaN"), (float("inf"), "holds NaN")]
)
def test_row_without_a_cosine_is_named(value: float, what: str) -> None:
    rows = torch.ones(5, 4)
    rows[3] = value
    with pytest.raises(ValueError, match=f"clip: row 3 of 5 {what}"):
        norms(rows, "clip")


def test_concatenate_of_nothing_is_empty() -> None:
    pairs = concatenate([])
    assert len(pairs) == 0
    assert pairs.i.dtype == torch.int64
    assert isinstance(pairs, Pairs)
