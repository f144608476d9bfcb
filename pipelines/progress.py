"""Progress of long work: a rich bar on a terminal, else one line every 10 seconds."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

LINE_EVERY_S = 10.0


class ShardProgress:
    """Counts shards and images towards a known number of shards, on stderr.

    Use as a context manager; `advance` once for each shard.
    """

    def __init__(self, num_shards: int, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._num_shards = num_shards
        self._num_done = self._num_images = self._num_refused = 0
        self._start_s = self._line_s = time.monotonic()
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("embedding"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("shards"),
            TextColumn("{task.fields[detail]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("embed", total=num_shards, detail="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()
        if not self._console.is_terminal and self._num_done:
            self._line()

    def advance(self, num_images: int, num_refused: int) -> None:
        """One more shard is done, with these numbers of embedded and refused images."""
        self._num_done += 1
        self._num_images += num_images
        self._num_refused += num_refused
        self._bar.update(self._task, advance=1, detail=self._detail())
        if time.monotonic() - self._line_s >= LINE_EVERY_S:
            self._line_s = time.monotonic()
            if not self._console.is_terminal:
                self._line()

    def _detail(self) -> str:
        elapsed_s = max(time.monotonic() - self._start_s, 1e-9)
        rate = self._num_images / elapsed_s
        return f"{self._num_images} images, {rate:.1f}/s, {self._num_refused} refused"

    def _line(self) -> None:
        self._console.print(
            f"embedded {self._num_done}/{self._num_shards} shards, {self._detail()}",
            highlight=False,
            soft_wrap=True,
        )
