"""Progress of long work: a rich bar on a terminal, else one line every 10 seconds."""

from __future__ import annotations

import threading
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

    Use as a context manager; call `image` for each decoded image, `advance` for each shard.
    """

    def __init__(self, num_shards: int, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._num_shards = num_shards
        self._num_done = self._num_images = 0
        self._start_s = time.monotonic()
        self._is_over = threading.Event()
        self._lines = threading.Thread(target=self._print_lines, daemon=True)
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
        self._lines.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._is_over.set()
        self._lines.join()
        self._bar.stop()
        if not self._console.is_terminal and self._num_images:
            self._print_line()

    def image(self) -> None:
        """One more image was decoded."""
        self._num_images += 1
        self._bar.update(self._task, detail=self._detail())

    def advance(self) -> None:
        """One more shard is done."""
        self._num_done += 1
        self._bar.update(self._task, advance=1, detail=self._detail())

    def _print_lines(self) -> None:
        # A thread, since a batch or a join may take longer than a line should wait.
        while not self._is_over.wait(LINE_EVERY_S):
            if not self._console.is_terminal:
                self._print_line()

    def _detail(self) -> str:
        elapsed_s = max(time.monotonic() - self._start_s, 1e-9)
        return f"{self._num_images} images, {self._num_images / elapsed_s:.1f}/s"

    def _print_line(self) -> None:
        self._console.print(
            f"embedded {self._num_done}/{self._num_shards} shards, {self._detail()}",
            highlight=False,
            soft_wrap=True,
        )
