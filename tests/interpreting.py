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

    with dirty_memory(), mock.patch.multiple(gpu_screens.RowsScreen, append=counted):
        with mock.patch.multiple(gpu_screens.CodesScreen, append=counted):
            blocks = list(gpu.candidates(clip, dino, **options))
    return concatenate(blocks), launches
