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
) -> tuple[Pairs, int]:
    """All candidates, and the number of super-blocks' screens that it took."""
    from kernels import gpu, gpu_screens

    launches = 0
    append = {kind: kind.append for kind in (gpu_screens.RowsScreen, gpu_screens.CodesScreen)}

    def counted(screen: Any, *arguments: Any, **names: Any) -> None:
        nonlocal launches
        launches += 1
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
