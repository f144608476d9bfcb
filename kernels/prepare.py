"""How a join on CPU cores will screen its pairs, and rows made ready for that.

The choice weighs what the machine was measured to do (`kernels.pace`) against how many pairs of a
sample survive each screen. It decides how long a join takes, never what it finds.

Shape suffixes: N rows, D row width, K code width, P axes, S rows of a sample, R rows of a block.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch

from kernels.axes import Axes, principal_axes, project, turn_axes
from kernels.bounds import BLOCK_ROWS, Rounded, round_rows, unit_rows
from kernels.codes import Codes, code_floors, empty_codes, encode_block
from kernels.layout import find_centres, nearest_centres, order_of_clusters
from kernels.pace import TILES, is_trusted, pair_s

WIDTHS = (64, 128, 256)
"""Widths of int8 codes that are tried."""

SAMPLE_ROWS = 3072
"""Two thirds of them to find axes by, one third to see how many pairs survive.

Axes are the better for the rows that they were found by, in a flat spectrum by so much that hardly
a pair of these survives a code that nearly all others would."""

SMALL_PAIRS = 60_000_000
"""So few pairs are multiplied in float32 before anything about them could be measured."""

LAYOUT_ROWS = 262_144
"""Rows that are laid out together; their images are in memory while that is done."""

REFINE_PAIR_S = 3e-6
"""Seconds to re-check a survivor, about: it weighs survivors against width, no more."""


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
    sample_SD, others_SD = (unit_rows(rows) for rows in _samples(a_ND, b_MD))
    if screen != "auto":
        _demand("int8")
        plans = _int8_plans(sample_SD, others_SD, above, num_pairs, _asked_widths(screen, dim))
    else:
        plans = _float_plans(dim, num_pairs)
        if is_trusted("int8"):
            plans += _int8_plans(sample_SD, others_SD, above, num_pairs, _likely_widths(dim))
    plan = min(plans, key=lambda plan: plan.expected_s or 0.0)
    if plan.axes is None:
        return plan
    num_rows = len(a_ND) + (0 if b_MD is None else len(b_MD))
    centre_CK = find_centres(project(sample_SD, plan.axes).float(), num_rows)
    return replace(plan, centre_CK=centre_CK)


def _demand(format: str) -> None:
    if not is_trusted(format):
        raise ValueError(
            f"screen {format}: this machine adds {format} products too coarsely for the join to "
            "be exact; use screen='auto' or 'float32'"
        )


def _likely_widths(dim: int) -> list[int]:
    """Widths in the order in which they are tried; rows that are short are coded as they are."""
    return [width for width in WIDTHS if width < dim] or [min(dim, WIDTHS[-1])]


def _asked_widths(screen: str, dim: int) -> list[int]:
    name, _, width = screen.partition("-")
    if screen != "int8" and (name != "int8" or not width.isdigit() or int(width) == 0):
        raise ValueError(
            f"screen is {screen!r}; there are auto, float32, bfloat16, int8 and int8-WIDTH"
        )
    return [min(int(width), dim)] if width else [min(w, dim) for w in WIDTHS]


def _samples(a_ND: torch.Tensor, b_MD: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Two seeded samples of the rows without a row in common, as much of either set in each."""
    sets = [rows for rows in (a_ND, b_MD) if rows is not None and len(rows)]
    if not sets:
        return a_ND, a_ND
    generator = torch.Generator().manual_seed(0)
    each = SAMPLE_ROWS // len(sets)
    picked = [(rows, torch.randperm(len(rows), generator=generator)[:each]) for rows in sets]
    sample_SD = torch.cat(
        [rows[places[torch.arange(len(places)) % 3 < 2]] for rows, places in picked]
    )
    return sample_SD, torch.cat([rows[places[2::3]] for rows, places in picked])


def _int8_plans(
    sample_SD: torch.Tensor,
    others_SD: torch.Tensor,
    above: float,
    num_pairs: int,
    widths: Iterable[int],
) -> list[Plan]:
    """Plans with what they would take; wider codes are tried while survivors cost too much."""
    plans: list[Plan] = []
    for width in widths:
        axes = turn_axes(principal_axes(sample_SD, width - 1), width)
        share = _surviving_share(others_SD, axes, above)
        each_s = pair_s("int8", axes.width, torch.get_num_threads())
        assert each_s is not None
        plans.append(
            Plan(
                format="int8",
                width=axes.width,
                tile=TILES["int8"],
                axes=axes,
                expected_s=num_pairs * (each_s + share * REFINE_PAIR_S),
            )
        )
        if share * REFINE_PAIR_S < each_s / 8:
            break
    return plans


def _surviving_share(sample_SD: torch.Tensor, axes: Axes, above: float) -> float:
    """The share of a sample's pairs that survive a screen of codes."""
    codes = _encode(project(sample_SD, axes), axes)
    floors_BB = code_floors(codes, codes, above).tolist()
    num_hits = 0
    for row, floors_B in enumerate(floors_BB):
        a_AK = codes.codes_NK[row * BLOCK_ROWS : (row + 1) * BLOCK_ROWS].float()
        for column in range(row, len(floors_B)):
            b_BK = codes.codes_NK[column * BLOCK_ROWS : (column + 1) * BLOCK_ROWS].float()
            hits_AB = a_AK @ b_BK.T > floors_B[column]
            num_hits += int((hits_AB.triu_(1) if row == column else hits_AB).sum())
    return num_hits / max(len(sample_SD) * (len(sample_SD) - 1) // 2, 1)


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
