"""Launches of the tile kernels over one super-block, and the records they append.

Shape suffixes: C records there is room for, W words of a mask, B blocks of rows that share a floor.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch

from kernels import dual_threshold
from kernels.bounds import BLOCK_ROWS
from kernels.codes import Codes, code_floors
from kernels.gpu_rows import DeviceRows, ScreenRows
from kernels.tiles import CODE_WIDTH, Tile

DECODE_WORDS = 128
"""Words of a mask that are decoded at a time."""

RECHECK_PAIRS = 16
"""Pairs of one program of the re-check."""

RECHECK_DEPTH = 128
"""Elements of a row that the re-check multiplies at a time."""

FUSED = {"enable_fp_fusion": True}
"""Multiply and add in one rounding; said outright, as Triton's default is about to change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Records:
    """Room for records of tiles with hits, on the device; what is not counted is undefined.

    Attributes:
        counter: [1] int32, records appended, also those there was no room for.
        tiles_C: [C] int32, which tile.
        counts_C: [C] int32, bits set in its mask.
        masks_CW: [C, W] int32.
    """

    counter: torch.Tensor
    tiles_C: torch.Tensor
    counts_C: torch.Tensor
    masks_CW: torch.Tensor


def room(num_records: int, tile: Tile, device: torch.device) -> Records:
    """Empty records."""

    def int32(*shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=torch.int32, device=device)

    return Records(
        counter=int32(1),
        tiles_C=int32(num_records),
        counts_C=int32(num_records),
        masks_CW=int32(num_records, tile.words),
    )


class Screen(Protocol):
    """What finds the tiles with hits."""

    @property
    def tile(self) -> Tile:
        """How the kernel is compiled."""

    @property
    def block_rows(self) -> int:
        """Rows of a super-block."""

    def append(self, row: int, column: int, records: Records, *, diagonal: bool) -> None:
        """Append the records of the super-block that starts at a row and a column."""


def options(tile: Tile) -> dict[str, Any]:
    """How Triton compiles a tile kernel."""
    limit = {} if tile.max_registers is None else {"maxnreg": tile.max_registers}
    return {"num_warps": tile.num_warps, "num_stages": tile.num_stages, **limit, **FUSED}


@dataclass(frozen=True, slots=True, kw_only=True)
class RowsScreen:
    """Rows at full width.

    Attributes:
        a: the first set.
        b: the second set; the same object for a join of one set with itself.
        floor: from `kernels.gpu_rows.rows_floor`.
        tile: how the kernel is compiled.
        block_rows: rows of a super-block.
    """

    a: ScreenRows
    b: ScreenRows
    floor: float
    tile: Tile
    block_rows: int

    def append(self, row: int, column: int, records: Records, *, diagonal: bool) -> None:
        """Append the records of the super-block that starts at a row and a column."""
        rows, columns = (slice(start, start + self.block_rows) for start in (row, column))
        a_ND, b_ND = self.a.rows_ND[rows], self.b.rows_ND[columns]
        num_tiles = -(-len(a_ND) // self.tile.rows) * -(-len(b_ND) // self.tile.columns)
        dual_threshold.similar_rows_kernel[(num_tiles,)](
            a_ND, b_ND, self.a.inverse_N[rows], self.b.inverse_N[columns],
            records.counter, records.tiles_C, records.counts_C, records.masks_CW,
            len(a_ND), len(b_ND), a_ND.shape[1], self.floor, len(records.tiles_C),
            DIAGONAL=diagonal, BLOCK_M=self.tile.rows, BLOCK_N=self.tile.columns,
            BLOCK_K=self.tile.depth, GROUP_M=self.tile.group, **options(self.tile),
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class CodesScreen:
    """int8 codes.

    Attributes:
        a: the first set's codes, padded to whole blocks.
        b: the second set's; the same object for a join of one set with itself.
        num_a: rows of the first set.
        num_b: rows of the second set.
        above: the threshold.
        tile: how the kernel is compiled.
        block_rows: rows of a super-block, a multiple of `kernels.bounds.BLOCK_ROWS`.
    """

    a: Codes
    b: Codes
    num_a: int
    num_b: int
    above: float
    tile: Tile
    block_rows: int

    def append(self, row: int, column: int, records: Records, *, diagonal: bool) -> None:
        """Append the records of the super-block that starts at a row and a column."""
        a, b = _part(self.a, row, self.block_rows), _part(self.b, column, self.block_rows)
        num_a, num_b = min(self.num_a - row, len(a)), min(self.num_b - column, len(b))
        limit = torch.iinfo(torch.int32).max
        floors_BB = code_floors(a, b, self.above).clamp_(-limit, limit).to(torch.int32)
        num_strips = -(-num_b // (self.tile.columns * self.tile.group))
        dual_threshold.similar_codes_kernel[(-(-num_a // self.tile.rows) * num_strips,)](
            a.codes_NK, b.codes_NK, floors_BB,
            records.counter, records.tiles_C, records.counts_C, records.masks_CW,
            num_a, num_b, floors_BB.shape[1], len(records.tiles_C),
            DIAGONAL=diagonal, WIDTH=CODE_WIDTH, FLOOR_ROWS=BLOCK_ROWS, BLOCK_M=self.tile.rows,
            BLOCK_N=self.tile.columns, STRIP=self.tile.group, **options(self.tile),
        )  # fmt: skip


def _part(codes: Codes, start: int, num_rows: int) -> Codes:
    """The codes of whole blocks of rows, without a copy."""
    blocks = slice(start // BLOCK_ROWS, (start + num_rows) // BLOCK_ROWS)
    return replace(
        codes,
        codes_NK=codes.codes_NK[start : start + num_rows],
        scale_B=codes.scale_B[blocks],
        error_B=codes.error_B[blocks],
        length_B=codes.length_B[blocks],
    )


def decode(
    records: Records, slots: torch.Tensor, ends: torch.Tensor, tile: Tile, num_tiles_n: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The pairs of some records, within their super-block.

    Args:
        records: where the masks are.
        slots: int64, which records, in which order.
        ends: int64, pairs up to the end of each of them.
        tile: the tile they are of.
        num_tiles_n: tiles in a row of the super-block.

    Returns:
        [P] int64 rows and columns.
    """
    num_pairs = int(ends[-1])
    i, j = (torch.empty(num_pairs, dtype=torch.int64, device=ends.device) for _ in range(2))
    dual_threshold.decode_kernel[(len(slots),)](
        slots, records.tiles_C, ends, records.counts_C, records.masks_CW, i, j, num_tiles_n,
        BLOCK_M=tile.rows, BLOCK_N=tile.columns, CHUNK_W=min(DECODE_WORDS, tile.words),
        num_warps=4, **FUSED,
    )  # fmt: skip
    return i, j


def recheck_options(element_bytes: int, *, with_dino: bool) -> dict[str, Any]:
    """How Triton compiles `recheck_kernel`.

    Args:
        element_bytes: of an element of the CLIP rows, the wider ones where they differ.
        with_dino: whether it looks at DINO as well.
    """
    # Left alone, the compiler keeps this one to 56 registers on SM90 and spills in its loop.
    limit = {"maxnreg": 64} if element_bytes == 2 and not with_dino else {}
    return {"num_warps": 4, "num_stages": 2, **limit, **FUSED}


def recheck(
    clip: tuple[DeviceRows, DeviceRows],
    dino: tuple[DeviceRows, DeviceRows],
    i: torch.Tensor,
    j: torch.Tensor,
    *,
    clip_floor: float,
    dino_ceiling: float,
) -> torch.Tensor:
    """Which pairs have a float32 CLIP cosine above the floor and a DINO cosine below the ceiling.

    Args:
        clip: both sets.
        dino: both sets.
        i: [P] int64.
        j: [P] int64.
        clip_floor: strictly above this.
        dino_ceiling: strictly below this; infinity leaves DINO out.

    Returns:
        [P] bool.
    """
    keep = torch.empty(len(i), dtype=torch.int8, device=i.device)
    with_dino = dino_ceiling < math.inf
    element_bytes = max(rows.rows_ND.element_size() for rows in clip)
    dual_threshold.recheck_kernel[(-(-len(i) // RECHECK_PAIRS),)](
        clip[0].rows_ND, clip[1].rows_ND, clip[0].inverse_N, clip[1].inverse_N,
        dino[0].rows_ND, dino[1].rows_ND, dino[0].inverse_N, dino[1].inverse_N,
        i, j, keep,
        len(i), clip[0].width, dino[0].width, clip_floor, dino_ceiling,
        DINO=with_dino, BLOCK_P=RECHECK_PAIRS, BLOCK_D=RECHECK_DEPTH,
        **recheck_options(element_bytes, with_dino=with_dino),
    )  # fmt: skip
    return keep.bool()
