"""How a join on CPU cores will screen its pairs, and rows made ready for that.

The choice weighs what the machine was measured to do (`kernels.pace`) against how many pairs of a
sample survive each screen. It decides how long a join takes, never what it finds.

Shape suffixes: N rows, D row width, K code width, P axes, S rows of a sample, R rows of a block.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from kernels.bounds import (
    BLOCK_ROWS,
    Axes,
    Codes,
    Rounded,
    code_floors,
    empty_codes,
    encode_block,
    principal_axes,
    project,
    round_rows,
    turn_axes,
    unit_rows,
)
from kernels.layout import find_centres, nearest_centres, order_of_clusters
from kernels.pace import TILES, is_trusted, pair_s

WIDTHS = (64, 128, 256)
"""Widths of int8 codes that are tried."""

SAMPLE_ROWS = 2048

SMALL_PAIRS = 20_000_000
"""So few pairs are multiplied in float32 before anything about them could be measured."""

LAYOUT_ROWS = 262_144
"""Rows that are laid out together; their images are in memory while that is done."""

REFINE_PAIR_S = 3e-6
ENCODE_ROW_S = 5e-6
"""Seconds to re-check a survivor and to encode a row, about: weights of the choice, no more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a join screens its pairs.

    Attributes:
        format: a key of `kernels.pace.FORMATS`.
        width: of what is multiplied.
        tile: rows and columns of a tile.
        axes: of an int8 code.
        centre_CK: [C, K] float32, centres of the layout of int8 codes.
        expected_s: seconds that the choice was made on; None where nothing was measured.
    """

    format: str
    width: int
    tile: tuple[int, int]
    axes: Axes | None = None
    centre_CK: torch.Tensor | None = None
    expected_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """Rows made ready for a plan's screen.

    Attributes:
        rows_ND: [N, D] of any float dtype, as they were given.
        order_N: [N] int64, the row at each place of the layout; None where rows lie as given.
        codes: for an int8 screen, in the layout's order.
        rounded: for a bfloat16 screen.
    """

    rows_ND: torch.Tensor
    order_N: torch.Tensor | None = None
    codes: Codes | None = None
    rounded: Rounded | None = None

    def __len__(self) -> int:
        return len(self.rows_ND)

    def given(self, places: torch.Tensor) -> torch.Tensor:
        """The rows, as they were given, at places of the layout."""
        return places if self.order_N is None else self.order_N[places]


def make_plan(
    a_ND: torch.Tensor, b_MD: torch.Tensor | None, above: float, *, screen: str = "auto"
) -> Plan:
    """Choose the screen of a join.

    Args:
        a_ND: [N, D] rows of the first set, none zero or not finite.
        b_MD: [M, D] rows of the second; None joins the first with itself.
        above: the threshold.
        screen: `auto`, `float32`, `bfloat16`, `int8` or, with a width, for example `int8-128`.

    Raises:
        ValueError: there is no such screen, or the format is not exact on this machine.
    """
    num_pairs = len(a_ND) * (len(a_ND) - 1) // 2 if b_MD is None else len(a_ND) * len(b_MD)
    dim = a_ND.shape[1]
    if screen == "auto" and num_pairs <= SMALL_PAIRS:
        screen = "float32"
    if screen in ("float32", "bfloat16"):
        _demand(screen)
        return Plan(format=screen, width=dim, tile=TILES[screen])
    sample_SD = unit_rows(_sample(a_ND, b_MD))
    num_rows = len(a_ND) + (0 if b_MD is None else len(b_MD))
    widths = [width for width in WIDTHS if width < dim] or [min(dim, WIDTHS[-1])]
    if screen != "auto":
        _demand("int8")
        widths = _asked_widths(screen, dim)
    plans = []
    if is_trusted("int8"):
        axes_DP = principal_axes(sample_SD, widths[-1] - 1)
        plans = [
            _int8_plan(turn_axes(axes_DP, width), sample_SD, above, num_pairs, num_rows)
            for width in widths
        ]
    if screen == "auto":
        plans += _float_plans(dim, num_pairs)
    return min(plans, key=lambda plan: plan.expected_s or 0.0)


def _demand(format: str) -> None:
    if not is_trusted(format):
        raise ValueError(
            f"screen {format}: this machine adds {format} products too coarsely for the join to "
            "be exact; use screen='auto' or 'float32'"
        )


def _asked_widths(screen: str, dim: int) -> list[int]:
    name, _, width = screen.partition("-")
    if screen != "int8" and (name != "int8" or not width.isdigit() or int(width) == 0):
        raise ValueError(
            f"screen is {screen!r}; there are auto, float32, bfloat16, int8 and int8-WIDTH"
        )
    return [min(int(width), dim)] if width else [min(w, dim) for w in WIDTHS]


def _sample(a_ND: torch.Tensor, b_MD: torch.Tensor | None) -> torch.Tensor:
    """A seeded sample of the rows, the same number of each set."""
    sets = [a_ND] if b_MD is None else [a_ND, b_MD]
    generator = torch.Generator().manual_seed(0)
    each = SAMPLE_ROWS // len(sets)
    picked = [
        rows[torch.randint(len(rows), (min(each, len(rows)),), generator=generator)]
        for rows in sets
        if len(rows)
    ]
    return torch.cat(picked) if picked else a_ND


def _int8_plan(
    axes: Axes, sample_SD: torch.Tensor, above: float, num_pairs: int, num_rows: int
) -> Plan:
    """A plan with what it would take, by the share of the sample's pairs that survive."""
    image_SK = project(sample_SD, axes)
    codes = _encode(image_SK, axes)
    products_SS = codes.codes_NK.float() @ codes.codes_NK.float().T
    floors_SS = code_floors(codes, codes, above)
    floors_SS = floors_SS.repeat_interleave(BLOCK_ROWS, 0).repeat_interleave(BLOCK_ROWS, 1)
    number = len(sample_SD)
    hits = int((products_SS > floors_SS[:number, :number]).triu_(1).sum())
    share = hits / max(number * (number - 1) // 2, 1)
    each_s = pair_s("int8", axes.width, torch.get_num_threads())
    assert each_s is not None
    return Plan(
        format="int8",
        width=axes.width,
        tile=TILES["int8"],
        axes=axes,
        centre_CK=find_centres(image_SK.float(), num_rows),
        expected_s=num_pairs * (each_s + share * REFINE_PAIR_S) + num_rows * ENCODE_ROW_S,
    )


def _float_plans(dim: int, num_pairs: int) -> list[Plan]:
    plans = []
    for format in ("float32", "bfloat16"):
        each_s = pair_s(format, dim, torch.get_num_threads())
        if each_s is not None:
            expected_s = num_pairs * each_s
            plans.append(Plan(format=format, width=dim, tile=TILES[format], expected_s=expected_s))
    return plans


def prepare(rows_ND: torch.Tensor, plan: Plan) -> Prepared:
    """Make rows ready for a plan's screen.

    Args:
        rows_ND: [N, D] of any float dtype, none zero or not finite; may be memory-mapped.
        plan: from `make_plan`.

    Returns:
        N (K + 12) bytes beside the rows for an int8 screen, 2 N D for bfloat16, none for float32.
    """
    if plan.format == "float32":
        return Prepared(rows_ND=rows_ND)
    if plan.format == "bfloat16":
        return Prepared(rows_ND=rows_ND, rounded=round_rows(rows_ND))
    assert plan.axes is not None
    assert plan.centre_CK is not None
    codes = empty_codes(len(rows_ND), plan.axes)
    order_N = torch.empty(len(rows_ND), dtype=torch.int64)
    place_C = order_of_clusters(plan.centre_CK)
    for start in range(0, len(rows_ND), LAYOUT_ROWS):
        part_ND = rows_ND[start : start + LAYOUT_ROWS]
        image_NK = torch.empty(len(part_ND), plan.width)
        cluster_N = torch.empty(len(part_ND), dtype=torch.int64)
        for row in range(0, len(part_ND), BLOCK_ROWS):
            image_RK = project(unit_rows(part_ND[row : row + BLOCK_ROWS]), plan.axes).float()
            image_NK[row : row + BLOCK_ROWS] = image_RK
            cluster_N[row : row + BLOCK_ROWS] = place_C[nearest_centres(image_RK, plan.centre_CK)]
        order_N[start : start + LAYOUT_ROWS] = cluster_N.argsort(stable=True) + start
        for block in range(start // BLOCK_ROWS, -(-(start + len(part_ND)) // BLOCK_ROWS)):
            places = order_N[block * BLOCK_ROWS : (block + 1) * BLOCK_ROWS] - start
            encode_block(codes, block, image_NK[places].double())
    return Prepared(rows_ND=rows_ND, order_N=order_N, codes=codes)


def _encode(image_NK: torch.Tensor, axes: Axes) -> Codes:
    codes = empty_codes(len(image_NK), axes)
    for block in range(len(codes.scale_B)):
        encode_block(codes, block, image_NK[block * BLOCK_ROWS : (block + 1) * BLOCK_ROWS])
    return codes
