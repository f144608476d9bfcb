"""Bounds of what rounding takes: no row and no product lies further off than they say."""

import pytest
import torch
from hypothesis import settings

from kernels import bounds
from kernels.bounds import bfloat16_floor, float32_slack, round_rows, unit_rows, unit_slack
from tests.adversaries import ADVERSARIES, near, rows, true_cosines


@settings(max_examples=100, deadline=None)
@ADVERSARIES
def test_unit_rows_lie_within_their_slack(
    kind: str, number: int, dim: int, above: float, seed: int
) -> None:
    given_rows = rows(kind, number, dim, seed, above)
    wide = given_rows.double() / given_rows.double().abs().amax(dim=1, keepdim=True)
    truth = wide / torch.linalg.vector_norm(wide, dim=1, keepdim=True)
    for dtype in (torch.float32, torch.float64):
        found = unit_rows(given_rows.to(dtype)).double()
        assert float((found - truth).norm(dim=1).max()) <= unit_slack(dim)


@settings(max_examples=100, deadline=None)
@ADVERSARIES
def test_float32_products_lie_within_their_slack(
    kind: str, number: int, dim: int, above: float, seed: int
) -> None:
    given_rows = rows(kind, number, dim, seed, above)
    unit = unit_rows(given_rows)
    worst = ((unit @ unit.T).double() - true_cosines(given_rows)).abs().max()
    assert float(worst) <= float32_slack(dim)


@settings(max_examples=150, deadline=None)
@ADVERSARIES
def test_bfloat16_products_above_the_threshold_reach_the_floor(
    kind: str, number: int, dim: int, above: float, seed: int
) -> None:
    given_rows = rows(kind, number, dim, seed, above)
    rounded = round_rows(given_rows)
    floor = bfloat16_floor(above, rounded.error, rounded.error, dim)
    # Summed in float32 and rounded, as a product of matrices does it.
    product = (rounded.rows_ND.float() @ rounded.rows_ND.float().T).bfloat16()
    assert bool((product[true_cosines(given_rows) > above].double() >= floor).all())


def test_rows_exact_in_bfloat16_are_where_rounding_the_product_bites() -> None:
    # No residual at all, and a cosine just above the threshold that rounds below it.
    number, dim = 201, 1024
    signs = torch.ones(number, dim)
    for row in range(1, number):
        signs[row, : row % 30] = -1.0
    cosine = true_cosines(signs)
    # 1024 coordinates make an entry of a unit row 1/32, which bfloat16 holds.
    rounded = round_rows(signs)
    assert float((rounded.rows_ND.float() * 32 - signs).abs().max()) == 0
    lost = 0
    for above in cosine[0].unique().tolist():
        if above >= 1 - 1e-9:
            continue
        product = (rounded.rows_ND.float() @ rounded.rows_ND.float().T).bfloat16()
        wanted = cosine > above - 1e-12
        lost += int((product[wanted].double() < above).sum())
        floor = bfloat16_floor(above - 1e-12, 1e-7, 1e-7, dim)
        assert bool((product[wanted].double() >= floor).all())
    assert lost > 0, "the test shows nothing"


def test_residuals_along_the_rows_use_up_the_bound_of_bfloat16() -> None:
    # All entries are equal and round the same way, so the residual lies along the row.
    tightest = 1.0
    for dim in range(2, 700):
        rounded = round_rows(torch.ones(2, dim))
        floor = bfloat16_floor(1 - 1e-9, rounded.error, rounded.error, dim)
        exact = float(rounded.rows_ND[0].double() @ rounded.rows_ND[1].double())
        assert float(torch.tensor(exact).bfloat16()) >= floor
        tightest = min(tightest, exact - floor)
    # Less than the spacing of bfloat16 below 1: nothing of the bound is given away.
    assert tightest < 2.0**-8


def test_near_threshold_rows_are_what_they_say() -> None:
    planted = true_cosines(near(0.95, 100, 768, torch.Generator().manual_seed(0)))[0, 1:]
    assert float(planted.min()) == pytest.approx(0.9499, abs=1e-6)
    assert float(planted.max()) == pytest.approx(0.9501, abs=1e-6)
    assert bounds.UNIT_ROUNDOFF == 2.0**-24
