"""Which screen a GPU join takes, int8 codes or rows at full width, and everything it multiplies.

Shape suffixes: S rows of a sample, B blocks of rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from kernels.axes import Axes, find_axes
from kernels.bounds import BLOCK_ROWS
from kernels.codes import code_floors
from kernels.gpu_rows import DeviceRows, encode, rows_floor, screen_rows
from kernels.tiles import CODE_WIDTH, CODES, ROWS, Tile, architecture, check_rows_compile

if TYPE_CHECKING:
    from kernels.gpu_screens import Screen

Stage = Literal["auto", "full", "int8"]

SAMPLE_ROWS = 4096
"""Rows of each set that `auto` looks at."""

MAX_SHARE = 1e-3
"""Share of pairs that may survive the codes: re-checking one costs as much as multiplying some
five hundred at full width."""

MIN_PAIRS = 1 << 28
"""Pairs below which coding the rows is not worth it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What is done at a time; none of it changes a result.

    Attributes:
        tile: how the tile kernel is compiled; None takes the architecture's.
        block_rows: rows of a super-block, a multiple of `kernels.bounds.BLOCK_ROWS` unless the
            stage is full.
        num_records: tiles with hits there is room for at first.
        num_pairs: pairs that are re-checked at a time, rounded up to whole tiles.

    Raises:
        ValueError: a number is below 1.
    """

    tile: Tile | None = None
    block_rows: int = 131_072
    num_records: int = 16_384
    num_pairs: int = 1 << 24

    def __post_init__(self) -> None:
        for name in ("block_rows", "num_records", "num_pairs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; give 1 or more")

    def check_codes(self) -> None:
        """Refuse what would read past the floors of codes.

        Raises:
            ValueError: a super-block or a tile does not fit the rows that share a floor.
        """
        if self.block_rows % BLOCK_ROWS:
            raise ValueError(
                f"block_rows is {self.block_rows} and {BLOCK_ROWS} rows of codes share a floor; "
                f"give a multiple of {BLOCK_ROWS}, or take the stage full"
            )
        if self.tile and (BLOCK_ROWS % self.tile.rows or BLOCK_ROWS % self.tile.columns):
            raise ValueError(
                f"the tile is {self.tile.rows} x {self.tile.columns} and {BLOCK_ROWS} rows of "
                f"codes share a floor; give sides that divide {BLOCK_ROWS}, or take the stage full"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Sets:
    """Both sets of both encoders on the device; the second is the first in a self-join."""

    clip_a: DeviceRows
    clip_b: DeviceRows
    dino_a: DeviceRows
    dino_b: DeviceRows
    clip_above: float
    dino_below: float | None

    @property
    def within(self) -> bool:
        """Whether one set is joined with itself."""
        return self.clip_a is self.clip_b


def find_screen(sets: Sets, stage: Stage, limits: Limits, device: torch.device) -> Screen:
    """The screen of a stage, with everything it multiplies.

    Raises:
        Unavailable: the device is too old, or Triton cannot compile what is needed for it.
    """
    from kernels.dual_threshold import TRITON_VERSION
    from kernels.gpu_screens import CodesScreen, RowsScreen

    interpreted = device.type == "cpu"
    arch = 90 if interpreted else architecture(torch.cuda.get_device_capability(device))
    axes = axes_that_pay(sets, stage)
    if axes is not None:
        codes_a = encode(sets.clip_a.rows_ND, axes)
        return CodesScreen(
            a=codes_a,
            b=codes_a if sets.within else encode(sets.clip_b.rows_ND, axes),
            num_a=len(sets.clip_a),
            num_b=len(sets.clip_b),
            above=sets.clip_above,
            tile=limits.tile or CODES[arch],
            block_rows=limits.block_rows,
        )
    check_rows_compile(arch, TRITON_VERSION)
    tile = limits.tile or ROWS[arch]
    dtypes = {sets.clip_a.rows_ND.dtype, sets.clip_b.rows_ND.dtype}
    # In the interpreter, products of bfloat16 are wrong.
    keep_bfloat16 = dtypes == {torch.bfloat16} and not interpreted
    dtype = torch.bfloat16 if keep_bfloat16 else torch.float16
    rows_a = screen_rows(sets.clip_a, dtype, tile.depth)
    rows_b = rows_a if sets.within else screen_rows(sets.clip_b, dtype, tile.depth)
    floor = rows_floor(sets.clip_above, rows_a, rows_b)
    return RowsScreen(a=rows_a, b=rows_b, floor=floor, tile=tile, block_rows=limits.block_rows)


def axes_that_pay(sets: Sets, stage: Stage) -> Axes | None:
    """The axes of the codes to take; None for rows at full width.

    `auto` takes codes where the sets are large and wide enough and few pairs of a sample survive.
    """
    num_pairs, width = len(sets.clip_a) * len(sets.clip_b), sets.clip_a.width
    too_small = num_pairs < MIN_PAIRS or width < 2 * CODE_WIDTH
    if stage == "full" or (stage == "auto" and too_small):
        return None
    sample_a = sets.clip_a.sample(SAMPLE_ROWS)
    axes = find_axes(sample_a, CODE_WIDTH)
    if stage == "int8":
        return axes
    sample_b = sample_a if sets.within else sets.clip_b.sample(SAMPLE_ROWS)
    share = survivors(sample_a, sample_b, axes, sets.clip_above, within=sets.within)
    return axes if share <= MAX_SHARE else None


def survivors(
    a_SD: torch.Tensor, b_SD: torch.Tensor, axes: Axes, above: float, *, within: bool
) -> float:
    """Share of the pairs of two samples that their codes cannot rule out."""
    a, b = encode(a_SD, axes), encode(b_SD, axes)
    num_survivors = 0
    for block, floors_B in enumerate(code_floors(a, b, above)):
        rows = slice(block * BLOCK_ROWS, min((block + 1) * BLOCK_ROWS, len(a_SD)))
        # Exact: sums of products of codes stay below 2^24.
        products_RS = a.codes_NK[rows].float() @ b.codes_NK[: len(b_SD)].float().T
        floor_S = floors_B.repeat_interleave(BLOCK_ROWS)[: len(b_SD)]
        num_survivors += int((products_RS > floor_S).sum())
    # A row always survives beside itself.
    itself = len(a_SD) if within else 0
    return (num_survivors - itself) / max(1, len(a_SD) * len(b_SD) - itself)
