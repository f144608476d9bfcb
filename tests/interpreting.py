"""Kernels in Triton's interpreter, in a process of their own: Triton decides at its import."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any
from unittest import mock

import torch

from kernels.reference import Pairs, concatenate


def _begin() -> None:
    os.environ["TRITON_INTERPRET"] = "1"
    warnings.simplefilter("error")
    # Triton 3.6 reads scalars out of arrays in a way that NumPy deprecates.
    warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"triton\.")
    torch.set_num_threads(1)


def interpreter() -> ProcessPoolExecutor:
    """One process in which kernels are interpreted."""
    return ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_begin)


@contextmanager
def dirty_memory() -> Iterator[None]:
    """Memory that nobody wrote holds NaN, or integers that are no count, tile or index."""
    empty = torch.empty

    def dirty(*shape: Any, **options: Any) -> torch.Tensor:
        tensor = empty(*shape, **options)
        return tensor.fill_(torch.nan if tensor.is_floating_point() else -7)

    with mock.patch("torch.empty", dirty):
        yield


def found(
    clip: tuple[torch.Tensor, torch.Tensor | None],
    dino: tuple[torch.Tensor, torch.Tensor | None],
    **options: Any,
) -> tuple[Pairs, list[str]]:
    """All candidates, and which screens of super-blocks it took, in their order."""
    from kernels import gpu, gpu_screens

    launches: list[str] = []
    append = {kind: kind.append for kind in (gpu_screens.RowsScreen, gpu_screens.CodesScreen)}

    def counted(screen: Any, *arguments: Any, **names: Any) -> None:
        launches.append(type(screen).__name__)
        append[type(screen)](screen, *arguments, **names)

    with (
        dirty_memory(),
        mock.patch.object(gpu_screens.RowsScreen, "append", counted),
        mock.patch.object(gpu_screens.CodesScreen, "append", counted),
    ):
        blocks = list(gpu.candidates(clip, dino, **options))
    return concatenate(blocks), launches


def far_rows_kept(path: str) -> list[int]:
    """What `recheck_kernel` keeps of three pairs, of rows on both sides of 2^31 elements."""
    from kernels.dual_threshold import recheck_kernel

    width = 64
    last = (1 << 31) // width + 5
    # A file of holes takes no room on the disk.
    with open(path, "wb") as file:
        file.truncate(2 * width * (last + 1))
    size = width * (last + 1)
    rows = torch.from_file(path, shared=True, size=size, dtype=torch.float16).view(-1, width)
    rows[0, 1] = rows[last, 1] = 2
    rows[last - 1, 2] = 2
    inverse = torch.zeros(last + 1)
    inverse[[0, last - 1, last]] = 0.5
    i, j = torch.tensor([[0, last], [0, last - 1], [0, 0]]).T.contiguous()
    keep = torch.full((3,), -7, dtype=torch.int8)
    recheck_kernel[(1,)](
        *[rows, rows, inverse, inverse] * 2, i, j, keep, 3, width, width, 0.9, 2.0,
        DINO=True, BLOCK_P=4, BLOCK_D=32,
    )  # fmt: skip
    return keep.tolist()


def under_floors(codes_NK: torch.Tensor, floors_BB: torch.Tensor) -> list[tuple[int, int]]:
    """Hits of `similar_codes_kernel` over codes, with a floor for every 64 x 64 of them."""
    from kernels.dual_threshold import similar_codes_kernel
    from kernels.gpu_screens import decode, room
    from kernels.tiles import Tile

    tile = Tile(rows=32, columns=64, depth=128, group=2, num_warps=4, num_stages=1)
    num_rows = len(codes_NK)
    records = room(64, tile, codes_NK.device)
    records.counter.zero_()
    num_tiles_m, num_tiles_n = num_rows // tile.rows, num_rows // tile.columns
    similar_codes_kernel[(num_tiles_m * -(-num_tiles_n // tile.group),)](
        codes_NK, codes_NK, floors_BB,
        records.counter, records.tiles_C, records.counts_C, records.masks_CW,
        num_rows, num_rows, floors_BB.shape[1], 64,
        DIAGONAL=False, WIDTH=128, FLOOR_ROWS=64, BLOCK_M=32, BLOCK_N=64, STRIP=tile.group,
    )  # fmt: skip
    slots = torch.argsort(records.tiles_C[: int(records.counter)])
    ends = records.counts_C[slots].cumsum(0, dtype=torch.int64)
    i, j = decode(records, slots, ends, tile, num_tiles_n)
    return sorted(zip(i.tolist(), j.tolist(), strict=True))
