"""The join on a GPU: a screen of tiles, a re-check of what it finds, and float64 for what is left.

The screen multiplies int8 codes or the rows themselves, with a floor that loses no pair (see
`kernels.codes` and `kernels.gpu_rows`). The re-check looks at both cosines in float32, with a
slack of its own. What is left, the pairs and a few within that slack, is decided in float64.

Shape suffixes: N rows of the first set, M rows of the second, D clip width, E dino width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch

from kernels.gpu_rows import float32_below, recheck_slack, to_device
from kernels.gpu_stages import Limits, Sets, Stage, find_screen
from kernels.reference import Pairs, cosines
from kernels.tiles import Unavailable, architecture, check_rows_compile

if TYPE_CHECKING:
    from kernels.gpu_screens import Records, Screen


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
        Unavailable: there is no CUDA device and Triton does not interpret, the device is too old,
            or Triton is not installed or cannot compile for it.
        ValueError: a row is zero or not finite, the stage is unknown, or the limits do not fit it.
    """
    if stage not in ("auto", "full", "int8"):
        raise ValueError(f"stage is {stage!r}; there are auto, full and int8")
    limits = limits or Limits()
    if stage != "full":
        limits.check_codes()
    device = _device(clip[0])
    with _current(device):
        clip_a, dino_a = to_device(clip[0], "clip", device), to_device(dino[0], "dino", device)
        sets = Sets(
            clip_a=clip_a,
            clip_b=clip_a if clip[1] is None else to_device(clip[1], "clip", device),
            dino_a=dino_a,
            dino_b=dino_a if dino[1] is None else to_device(dino[1], "dino", device),
            clip_above=clip_above,
            dino_below=dino_below,
        )
        if not len(sets.clip_a) or not len(sets.clip_b):
            return
        screen = find_screen(sets, stage, limits, device)
    search = _search(sets, screen, limits)
    # The caller's device is current whenever the caller's code runs.
    while True:
        with _current(device):
            pairs = next(search, None)
        if pairs is None:
            return
        yield pairs


def _current(device: torch.device) -> AbstractContextManager[object]:
    """Makes a device current, which is where Triton launches."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def available() -> str | None:
    """Why the join cannot run on a GPU here, in a few words; None where it can."""
    if not torch.cuda.is_available():
        return "torch sees no CUDA device"
    try:
        from kernels.dual_threshold import INTERPRETED, TRITON_VERSION
    except ImportError:
        return "the package triton cannot be imported"
    if INTERPRETED:
        return "Triton interprets its kernels (TRITON_INTERPRET is set)"
    try:
        check_rows_compile(architecture(torch.cuda.get_device_capability()), TRITON_VERSION)
    except Unavailable as error:
        return str(error)
    return None


def _device(rows: torch.Tensor) -> torch.device:
    """Where to work.

    Raises:
        Unavailable: there is nothing to work on.
    """
    try:
        from kernels.dual_threshold import INTERPRETED
    except ImportError as error:
        raise Unavailable(
            "the Triton join needs the package triton, which cannot be imported here; "
            "install it (pip install triton) or use the CPU join"
        ) from error
    if INTERPRETED:
        return torch.device("cpu")
    if rows.device.type == "cuda":
        return rows.device
    if not torch.cuda.is_available():
        raise Unavailable(
            "the Triton join needs a CUDA device and torch sees none; use the CPU join, or set "
            "TRITON_INTERPRET=1 before Python starts to run the kernels in Triton's interpreter"
        )
    return torch.device("cuda", torch.cuda.current_device())


def _search(sets: Sets, screen: Screen, limits: Limits) -> Iterator[Pairs]:
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
        # Twice as much at least, so that rising numbers do not repeat every super-block.
        num_records = max(2 * len(records.tiles_C), num_records)
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


def _decide(sets: Sets, i: torch.Tensor, j: torch.Tensor) -> Pairs:
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
    # Chosen where everything lies, and only then brought to the CPU.
    pairs = Pairs(i=i, j=j, clip_cos=clip_cos, dino_cos=dino_cos).where(sure)
    return Pairs(
        i=pairs.i.cpu(),
        j=pairs.j.cpu(),
        clip_cos=pairs.clip_cos.cpu(),
        dino_cos=pairs.dino_cos.cpu(),
    )
