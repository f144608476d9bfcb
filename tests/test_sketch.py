"""A sketch rules out no pair above the threshold, and most of those far below."""

from __future__ import annotations

import pytest
import torch

from kernels.axes import Axes, project
from kernels.bounds import BLOCK_ROWS
from kernels.reference import cosines
from kernels.sketch import WIDTH, Sketch, draw_sketch, sketch_axes


def rows_of(num_rows: int, dim: int, *, decay: float, dtype: torch.dtype) -> torch.Tensor:
    """Unit rows around a mean, with a spectrum as embeddings have it where it decays."""
    generator = torch.Generator().manual_seed(num_rows + dim)
    spectrum = torch.arange(1, dim + 1) ** -decay
    rows_ND = torch.randn(num_rows, dim, generator=generator) * spectrum + 0.1
    # Twins of the first rows, so that some cosines are all but one.
    number = min(num_rows // 2, 20)
    rows_ND[-number:] = rows_ND[:number] + 1e-3 * rows_ND[-number:]
    return torch.nn.functional.normalize(rows_ND, dim=1).to(dtype)


def sketched(rows_ND: torch.Tensor) -> Sketch:
    axes = sketch_axes(rows_ND)
    room_NK = torch.full((len(rows_ND), axes.width), torch.nan)
    return draw_sketch(rows_ND, axes, room_NK)


def truth(rows_ND: torch.Tensor, query: int) -> torch.Tensor:
    everything = torch.arange(len(rows_ND))
    return cosines(rows_ND, rows_ND, everything, torch.full_like(everything, query))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("decay", [0.0, 1.0])
@pytest.mark.parametrize("dim", [3, WIDTH, WIDTH + 1, 400])
def test_no_row_above_a_threshold_is_ruled_out(dim: int, decay: float, dtype: torch.dtype) -> None:
    rows_ND = rows_of(BLOCK_ROWS + 77, dim, decay=decay, dtype=dtype)
    sketch = sketched(rows_ND)
    for query in (0, 5, BLOCK_ROWS, len(rows_ND) - 1):
        cosines_N = truth(rows_ND, query)
        image_K = sketch.image(rows_ND[query])
        # Thresholds that lie as close below a cosine as float64 has them.
        for rank in (0, 1, 2, 10, 500, len(rows_ND) - 1):
            above = float(cosines_N.sort(descending=True).values[rank]) - 1e-15
            may = sketch.may_exceed(image_K, above, 0, len(rows_ND))
            assert not (~may & (cosines_N > above)).any()


def test_rows_are_told_apart_by_their_own_part() -> None:
    rows_ND = rows_of(3000, 400, decay=1.0, dtype=torch.float16)
    sketch = sketched(rows_ND)
    image_K = sketch.image(rows_ND[0])
    whole = sketch.may_exceed(image_K, 0.9, 0, 3000)
    parts = [sketch.may_exceed(image_K, 0.9, start, start + 1000) for start in (0, 1000, 2000)]
    assert torch.equal(torch.cat(parts), whole)
    # It is a screen: little is left beside what lies above.
    num_above = int((truth(rows_ND, 0) > 0.9).sum())
    assert 0 < num_above <= int(whole.sum()) < num_above + 30 < 1000


def test_of_no_rows_there_is_an_empty_sketch() -> None:
    nothing = torch.empty(0, 400, dtype=torch.float16)
    sketch = sketched(nothing)
    assert sketch.image_NK.shape == (0, WIDTH)
    query_D = torch.nn.functional.normalize(torch.ones(400), dim=0)
    assert sketch.may_exceed(sketch.image(query_D), 0.5, 0, 0).shape == (0,)


def test_products_are_exact_whatever_the_caller_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def watched(unit_ND: torch.Tensor, axes: Axes) -> torch.Tensor:
        seen.append(torch.get_float32_matmul_precision())
        return project(unit_ND, axes)

    monkeypatch.setattr("kernels.sketch.project", watched)
    rows_ND = rows_of(50, 8, decay=0.0, dtype=torch.float32)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        sketched(rows_ND).image(rows_ND[0])
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert seen == ["highest"] * 2


def test_rows_that_are_not_finite_are_refused() -> None:
    rows_ND = rows_of(50, 8, decay=0.0, dtype=torch.float32)
    sketch = sketched(rows_ND)
    for wrong in (torch.nan, torch.inf):
        image_K = sketch.image(rows_ND[0])
        image_K[0] = wrong
        with pytest.raises(ValueError, match=r"length (nan|inf); rows have to be finite"):
            sketch.may_exceed(image_K, 0.5, 0, 50)
    rows_ND[3, 0] = torch.nan
    with pytest.raises(ValueError, match="image of 50 rows has the length nan"):
        draw_sketch(rows_ND, sketch.axes, torch.empty(50, sketch.axes.width))
