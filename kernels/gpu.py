"""The join on a GPU: a screen of tiles, a re-check of what it finds, and float64 for what is left.

The screen multiplies int8 codes or the rows themselves, with a floor that loses no pair (see
`kernels.bounds` and `kernels.gpu_rows`). The re-check looks at both cosines in float32, with a
slack of its own. What is left, the pairs and a few within that slack, is decided in float64.

Shape suffixes: N rows of the first set, M rows of the second, D clip width, E dino width, P pairs,
S rows of a sample.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from kernels.bounds import BLOCK_ROWS, Axes, code_floors, find_axes
from kernels.gpu_rows import (
    DeviceRows,
    encode,
    float32_below,
    recheck_slack,
    rows_floor,
    screen_rows,
    to_device,
)
from kernels.reference import Pairs, cosines
from kernels.tiles import CODE_WIDTH, CODES, ROWS, Tile, architecture

if TYPE_CHECKING:
    from kernels.gpu_screens import Records, Screen

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
        block_rows: rows of a super-block, a multiple of `kernels.bounds.BLOCK_ROWS` for codes.
        num_records: tiles with hits there is room for at first.
        num_pairs: pairs that are re-checked at a time, rounded up to whole tiles.
    """

    tile: Tile | None = None
    block_rows: int = 131_072
    num_records: int = 16_384
    num_pairs: int = 1 << 24


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sets:
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


def candidates(
    clip: tuple[torch.Tensor, torch.Tensor | None],
    dino: tuple[torch.Tensor, torch.Tensor | None],
    *,
    clip_above: float,
    dino_below: float | None = None,
    stage: Stage = "auto",
    limits: Limits | None = None,
) -> Iterator[Pairs]:
    """All pairs whose CLIP cosine is strictly above a threshold, with both cosines.

    The same contract as `kernels.reference.candidates`, and the same pairs; with `dino_below`,
    those of them whose DINO cosine is strictly below it. The order is the same in every run.

    Args:
        clip: ([N, D], [M, D] or None) of any float dtype, rows of any length but zero; None joins
            the first set with itself (i < j). Rows on the CPU are copied to the current device.
        dino: ([N, E], [M, E] or None), the same images in the same order.
        clip_above: the threshold.
        dino_below: None keeps every candidate.
        stage: what the screen multiplies: `int8` codes, rows at `full` width, or `auto`, which
            codes a sample of the rows and takes codes where few pairs survive them.
        limits: what is done at a time.

    Yields:
        The pairs of one part after the other, on the CPU; parts without any are left out.

    Raises:
        RuntimeError: there is no CUDA device and Triton does not interpret, the device is too old,
            or Triton is not installed.
        ValueError: a row is zero or not finite, or the stage is unknown.
    """
    if stage not in ("auto", "full", "int8"):
        raise ValueError(f"stage is {stage!r}; there are auto, full and int8")
    limits = limits or Limits()
    device = _device(clip[0])
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        clip_a, dino_a = to_device(clip[0], "clip", device), to_device(dino[0], "dino", device)
        sets = _Sets(
            clip_a=clip_a,
            clip_b=clip_a if clip[1] is None else to_device(clip[1], "clip", device),
            dino_a=dino_a,
            dino_b=dino_a if dino[1] is None else to_device(dino[1], "dino", device),
            clip_above=clip_above,
            dino_below=dino_below,
        )
        if len(sets.clip_a) and len(sets.clip_b):
            yield from _search(sets, _screen(sets, stage, limits, device), limits)


def _device(rows: torch.Tensor) -> torch.device:
    """Where to work.

    Raises:
        RuntimeError: there is nothing to work on.
    """
    try:
        from kernels.dual_threshold import INTERPRETED
    except ImportError as error:
        raise RuntimeError(
            "the Triton join needs the package triton, which cannot be imported here; "
            "install it (pip install triton) or use the CPU join"
        ) from error
    if INTERPRETED:
        return torch.device("cpu")
    if rows.device.type == "cuda":
        return rows.device
    if not torch.cuda.is_available():
        raise RuntimeError(
            "the Triton join needs a CUDA device and torch sees none; use the CPU join, or set "
            "TRITON_INTERPRET=1 before Python starts to run the kernels in Triton's interpreter"
        )
    return torch.device("cuda", torch.cuda.current_device())


def _screen(sets: _Sets, stage: Stage, limits: Limits, device: torch.device) -> Screen:
    """The screen of a stage, with everything it multiplies."""
    from kernels.gpu_screens import CodesScreen, RowsScreen

    interpreted = device.type == "cpu"
    arch = 90 if interpreted else architecture(torch.cuda.get_device_capability(device))
    axes = None if stage == "full" else find_axes(sets.clip_a.sample(SAMPLE_ROWS), CODE_WIDTH)
    if axes is not None and (stage == "int8" or _codes_pay(sets, axes)):
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
    tile = limits.tile or ROWS[arch]
    dtypes = {sets.clip_a.rows_ND.dtype, sets.clip_b.rows_ND.dtype}
    # In the interpreter, products of bfloat16 are wrong.
    keep_bfloat16 = dtypes == {torch.bfloat16} and not interpreted
    dtype = torch.bfloat16 if keep_bfloat16 else torch.float16
    rows_a = screen_rows(sets.clip_a, dtype, tile.depth)
    rows_b = rows_a if sets.within else screen_rows(sets.clip_b, dtype, tile.depth)
    floor = rows_floor(sets.clip_above, rows_a, rows_b)
    return RowsScreen(a=rows_a, b=rows_b, floor=floor, tile=tile, block_rows=limits.block_rows)


def _codes_pay(sets: _Sets, axes: Axes) -> bool:
    """Whether the sets are large and wide enough for codes, and few pairs of a sample survive."""
    if len(sets.clip_a) * len(sets.clip_b) < MIN_PAIRS or sets.clip_a.width < 2 * CODE_WIDTH:
        return False
    sample_a = sets.clip_a.sample(SAMPLE_ROWS)
    sample_b = sample_a if sets.within else sets.clip_b.sample(SAMPLE_ROWS)
    return survivors(sample_a, sample_b, axes, sets.clip_above, within=sets.within) <= MAX_SHARE


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


def _search(sets: _Sets, screen: Screen, limits: Limits) -> Iterator[Pairs]:
    """The pairs, super-block by super-block."""
    from kernels.gpu_screens import decode, room

    tile, size = screen.tile, screen.block_rows
    records = room(limits.num_records, tile, sets.clip_a.rows_ND.device)
    for row in range(0, len(sets.clip_a), size):
        for column in range(row if sets.within else 0, len(sets.clip_b), size):
            diagonal = sets.within and row == column
            records, num_records = _fill(screen, row, column, records, diagonal=diagonal)
            num_tiles_n = -(-min(size, len(sets.clip_b) - column) // tile.columns)
            for slots, ends in _batches(records, num_records, limits.num_pairs):
                i, j = decode(records, slots, ends, tile, num_tiles_n)
                pairs = _decide(sets, i + row, j + column)
                if len(pairs):
                    yield pairs


def _fill(
    screen: Screen, row: int, column: int, records: Records, *, diagonal: bool
) -> tuple[Records, int]:
    """Fill the records with a super-block; where they are too few, once more with enough."""
    from kernels.gpu_screens import room

    while True:
        records.counter.zero_()
        screen.append(row, column, records, diagonal=diagonal)
        num_records = int(records.counter)
        if num_records <= len(records.tiles_C):
            return records, num_records
        records = room(num_records, screen.tile, records.counter.device)


def _batches(
    records: Records, num_records: int, num_pairs: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Records in the order of their tiles, in batches of about so many pairs."""
    slots = torch.argsort(records.tiles_C[:num_records])
    slots = slots[records.counts_C[slots] > 0]
    ends = torch.cumsum(records.counts_C[slots], dim=0, dtype=torch.int64)
    start = done = 0
    ends_cpu = ends.cpu()
    while start < len(ends):
        stop = max(start + 1, int(torch.searchsorted(ends_cpu, done + num_pairs, right=True)))
        yield slots[start:stop], ends[start:stop] - done
        start, done = stop, int(ends_cpu[stop - 1])


def _decide(sets: _Sets, i: torch.Tensor, j: torch.Tensor) -> Pairs:
    """Both cosines of some pairs: float32 in the kernel, float64 for what it keeps."""
    from kernels.gpu_screens import recheck

    below = math.inf if sets.dino_below is None else sets.dino_below
    keep = recheck(
        (sets.clip_a, sets.clip_b),
        (sets.dino_a, sets.dino_b),
        i,
        j,
        clip_floor=float32_below(sets.clip_above - recheck_slack(sets.clip_a.width)),
        dino_ceiling=-float32_below(-below - recheck_slack(sets.dino_a.width)),
    )
    i, j = i[keep], j[keep]
    clip_cos = cosines(sets.clip_a.rows_ND, sets.clip_b.rows_ND, i, j)
    dino_cos = cosines(sets.dino_a.rows_ND, sets.dino_b.rows_ND, i, j)
    sure = (clip_cos > sets.clip_above) & (dino_cos < below)
    return Pairs(i=i.cpu(), j=j.cpu(), clip_cos=clip_cos, dino_cos=dino_cos).where(sure)
