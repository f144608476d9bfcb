"""Rows as they look along a few axes: a screen for one row against all, asked again and again.

Images of `kernels.axes.project` multiply to no less than the cosine of their rows, so a product
below the threshold rules a pair out, at a fraction of the memory that the rows would be read from.
What it does not rule out is looked at by its rows.

Shape suffixes: N rows, D row width, K image width, B rows of a block, S rows of a sample.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from kernels.axes import Axes, find_axes, project
from kernels.bounds import BLOCK_ROWS, UNIT_ROUNDOFF, sum_slack, unit_rows
from kernels.screens import exact_products

WIDTH = 128
"""K; a wider image rules out more and is longer to read."""

SAMPLE_ROWS = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class Sketch:
    """The images of some rows.

    Attributes:
        image_NK: [N, K] float32.
        axes: along which they were taken.
        length: of the longest image.
    """

    image_NK: torch.Tensor
    axes: Axes
    length: float

    def image(self, row_D: torch.Tensor) -> torch.Tensor:
        """[K] float32: the image of a row of any float dtype, not zero and finite."""
        with exact_products(None):
            return project(unit_rows(row_D[None]), self.axes)[0].float()

    def may_exceed(
        self, image_K: torch.Tensor, above: float, start: int, stop: int
    ) -> torch.Tensor:
        """Where a cosine may lie above a threshold.

        Args:
            image_K: the one row's, from `image`.
            above: the threshold.
            start: first row that is looked at.
            stop: the row after the last.

        Returns:
            [stop - start] bool, true for every row whose cosine lies above, and for some others.

        Raises:
            ValueError: the one row's image is not finite.
        """
        length = max(self.length, _longest(image_K[None]))
        with exact_products(None):
            products_N = self.image_NK[start:stop] @ image_K
        return products_N > sketch_floor(above, length, self.axes)


def sketch_axes(rows_ND: torch.Tensor) -> Axes:
    """Axes for the sketch of some rows, by a seeded sample of them.

    Args:
        rows_ND: [N, D] of any float dtype, none zero or not finite, N > 0.
    """
    generator = torch.Generator().manual_seed(0)
    picked = torch.randperm(len(rows_ND), generator=generator)[:SAMPLE_ROWS]
    return find_axes(unit_rows(rows_ND[picked.sort().values]), WIDTH)


def draw_sketch(rows_ND: torch.Tensor, axes: Axes, room_NK: torch.Tensor) -> Sketch:
    """The sketch of rows.

    Args:
        rows_ND: [N, D] of any float dtype, none zero or not finite; may be memory-mapped.
        axes: of `sketch_axes`.
        room_NK: [N, axes.width] float32, where images are written; may be memory-mapped.

    Raises:
        ValueError: a row is not finite.
    """
    length = 0.0
    for start in range(0, len(rows_ND), BLOCK_ROWS):
        block = slice(start, start + BLOCK_ROWS)
        with exact_products(None):
            room_NK[block] = project(unit_rows(rows_ND[block]), axes)
        length = max(length, _longest(room_NK[block]))
    return Sketch(image_NK=room_NK, axes=axes, length=length)


def sketch_floor(above: float, length: float, axes: Axes) -> float:
    """What a float32 product of two images exceeds wherever the rows' cosine exceeds a threshold.

    Args:
        above: the threshold.
        length: of the longest image.
        axes: of the images.

    Returns:
        A float32 number.
    """
    error = axes.error + UNIT_ROUNDOFF * length
    slack = error * (2 * length + error) + sum_slack(axes.width) * length * length + 1e-12
    floor = torch.tensor(above - slack, dtype=torch.float64).float()
    # Rounding the floor to float32 may have raised it.
    return float(torch.nextafter(floor, torch.tensor(-math.inf)))


def _longest(image_NK: torch.Tensor) -> float:
    length = float(torch.linalg.vector_norm(image_NK.double(), dim=1).max()) * (1 + 1e-12)
    if not math.isfinite(length):
        # Every comparison with it would be false, and rule out what may lie above.
        raise ValueError(
            f"the longest image of {len(image_NK)} rows has the length {length}; rows have to be "
            "finite and not zero"
        )
    return length
