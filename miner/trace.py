"""A trace of where the time goes, for people who tune: torch's profiler with our stages marked."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import torch
from torch.profiler import ProfilerActivity, profile, record_function

TRACED_BATCHES = 50
"""Batches after which a trace ends: it shows what repeats, and is still read by a browser."""

_BEGUN: set[Path] = set()
"""The files of traces that were begun in this process."""


class Trace:
    """Marks stages, and writes a Chrome trace where a file is given. Use as a context manager.

    A command may go through images several times; the first trace of a file is kept.
    """

    def __init__(self, path: Path | None, device: torch.device) -> None:
        """Prepare to trace.

        Args:
            path: of the trace; None to mark nothing.
            device: where the encoders compute.
        """
        self._path, self._on_gpu = path, device.type == "cuda"
        self._num_batches = 0
        self._profile: profile | None = None

    @property
    def is_on(self) -> bool:
        """Whether stages are recorded now."""
        return self._profile is not None

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Mark a block as one stage's, for the trace and, on a GPU, for NVTX tools."""
        if not self.is_on:
            yield
            return
        marks = contextlib.ExitStack()
        marks.enter_context(record_function(name))
        if self._on_gpu:
            marks.enter_context(torch.cuda.nvtx.range(name))
        with marks:
            yield

    def batch(self) -> None:
        """One more batch was encoded."""
        self._num_batches += 1
        if self._num_batches == TRACED_BATCHES:
            self._finish()

    def _finish(self) -> None:
        if self._profile is None or self._path is None:
            return
        traced, self._profile = self._profile, None
        traced.stop()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        traced.export_chrome_trace(str(self._path))

    def __enter__(self) -> Self:
        if self._path is not None and self._path.absolute() not in _BEGUN:
            _BEGUN.add(self._path.absolute())
            gpu = [ProfilerActivity.CUDA] if self._on_gpu else []
            self._profile = profile(activities=[ProfilerActivity.CPU, *gpu])
            self._profile.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._finish()
