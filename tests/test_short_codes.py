"""int8 codes of rows: what is measured of them, and that their floors lose no pair."""

import pytest
import torch
from hypothesis import settings

from kernels.axes import find_axes, project
from kernels.bounds import BLOCK_ROWS, unit_rows
from kernels.codes import Codes, code_floors, empty_codes, encode_block
from tests.adversaries import ADVERSARIES, KINDS, rows, true_cosines


def encoded(a: torch.Tensor, width: int, sample: torch.Tensor | None = None) -> Codes:
    unit = unit_rows(a)
    axes = find_axes(unit_rows(sample) if sample is not None else unit, width)
    codes = empty_codes(len(a), axes)
    for block in range(len(codes.scale_B)):
        some = unit[block * BLOCK_ROWS : (block + 1) * BLOCK_ROWS]
        encode_block(codes, block, project(some, axes))
    return codes


def products(codes: Codes) -> torch.Tensor:
    return codes.codes_NK.long() @ codes.codes_NK.long().T


@settings(max_examples=150, deadline=None)
@ADVERSARIES
@pytest.mark.parametrize("width", [2, 8, 64])
def test_code_products_above_the_threshold_exceed_the_floor(
    width: int, kind: str, number: int, dim: int, above: float, seed: int
) -> None:
    given_rows = rows(kind, number, dim, seed, above)
    codes = encoded(given_rows, width)
    floor = code_floors(codes, codes, above)[0, 0]
    assert bool((products(codes)[true_cosines(given_rows) > above] > floor).all())


@pytest.mark.parametrize("kind", KINDS)
def test_axes_of_other_rows_lose_no_pair(kind: str) -> None:
    # A basis from a sample that looks nothing like the rows is slow, not wrong.
    given_rows = rows(kind, 300, 200, 5)
    codes = encoded(given_rows, 32, sample=rows("one_hot", 64, 200, 6))
    floor = code_floors(codes, codes, 0.95)[0, 0]
    assert bool((products(codes)[true_cosines(given_rows) > 0.95] > floor).all())


def test_residuals_along_the_rows_use_up_the_bound_of_int8() -> None:
    # One row sets the scale; the others' entries lie just below half a step over a whole one.
    width = round((127 / 11.499) ** 2)
    image = torch.full((20, width), width**-0.5, dtype=torch.float64)
    image[0] = 0
    image[0, 0] = 1
    axes = find_axes(torch.eye(width), width)
    codes = empty_codes(len(image), axes)
    encode_block(codes, 0, image)
    product = float(products(codes)[1, 2])
    scale = float(codes.scale_B[0] ** 2)
    floor = float(code_floors(codes, codes, 1 - 1e-9)[0, 0])
    assert floor < product < floor + 0.01 / scale
    assert float(codes.error_B[0]) > 0.04


def test_one_outlier_block_does_not_spoil_the_others() -> None:
    generator = torch.Generator().manual_seed(3)
    centre = torch.randn(1, 128, generator=generator)
    given_rows = centre + 0.3 * torch.randn(3 * BLOCK_ROWS, 128, generator=generator)
    unspoiled = encoded(given_rows, 128)
    spoiled_rows = given_rows.clone()
    spoiled_rows[5] = 0
    # All of an image's energy in one coordinate of the code: the coarsest scale there can be.
    axes = find_axes(unit_rows(given_rows), 128)
    spoiled_rows[5] = axes.turned_DK[:, 0]
    spoiled = encoded(spoiled_rows, 128, sample=given_rows)
    assert float(spoiled.error_B[0]) > 2 * float(unspoiled.error_B[0])
    assert spoiled.error_B[1:].tolist() == pytest.approx(unspoiled.error_B[1:].tolist(), rel=0.01)


def test_what_is_measured_is_what_is_there() -> None:
    given_rows = rows("anisotropic", BLOCK_ROWS + 100, 300, 4)
    unit = unit_rows(given_rows)
    axes = find_axes(unit, 64)
    codes = encoded(given_rows, 64)
    image = project(unit, axes)
    for block, part in enumerate((slice(0, BLOCK_ROWS), slice(BLOCK_ROWS, None))):
        residual = image[part] - codes.scale_B[block] * codes.codes_NK[part].double()
        assert float(codes.error_B[block]) == pytest.approx(float(residual.norm(dim=1).max()))
        assert float(codes.length_B[block]) == pytest.approx(float(image[part].norm(dim=1).max()))
    # Unclipped: the largest entry has the largest code.
    assert int(codes.codes_NK.abs().max()) == 127


@pytest.mark.parametrize(("dim", "width"), [(1, 64), (64, 64), (65, 64), (63, 64), (64, 63)])
def test_widths_at_the_edge_of_the_rows(dim: int, width: int) -> None:
    given_rows = rows("random", 50, dim, 1)
    codes = encoded(given_rows, width)
    assert codes.codes_NK.shape == (50, min(dim, width))
    floor = code_floors(codes, codes, 0.5)[0, 0]
    assert bool((products(codes)[true_cosines(given_rows) > 0.5] > floor).all())


def test_floors_are_tight_enough_to_screen() -> None:
    # At 128 of 768 coordinates the slack is about 0.02, so unlike rows do not survive.
    generator = torch.Generator().manual_seed(1)
    given_rows = torch.randn(BLOCK_ROWS, 768, generator=generator)
    codes = encoded(given_rows, 128)
    floor = float(code_floors(codes, codes, 0.95)[0, 0] * codes.scale_B[0] ** 2)
    assert 0.92 < floor < 0.95
