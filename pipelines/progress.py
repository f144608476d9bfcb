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


class PartProgress:
    """Counts parts of some work towards a known number of them, on stderr.

    Use as a context manager; call `advance` for each part that is done.
    """

    doing, done, parts = "joining", "joined", "blocks"
    """The work in progress, what it has done, and what its parts are called."""

    def __init__(self, num_parts: int, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._num_parts = num_parts
        self._num_done = 0
        self._start_s = time.monotonic()
        self._is_over = threading.Event()
        self._lines = threading.Thread(target=self._print_lines, daemon=True)
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn(self.doing),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(self.parts),
            TextColumn("{task.fields[detail]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task(self.doing, total=num_parts, detail="")

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
        if not self._console.is_terminal and self._has_more_to_say():
            self._print_line()

    def advance(self, *, of: int | None = None) -> None:
        """One more part is done; `of` so many, where their number is only known now."""
        self._num_done += 1
        self._num_parts = self._num_parts if of is None else of
        self._bar.update(self._task, advance=1, total=self._num_parts, detail=self._detail())

    def _has_more_to_say(self) -> bool:
        """Whether short work deserves a line at its end."""
        return False

    def _detail(self) -> str:
        return ""

    def _print_lines(self) -> None:
        # A thread, since a batch or a join may take longer than a line should wait.
        while not self._is_over.wait(LINE_EVERY_S):
            if not self._console.is_terminal:
                self._print_line()

    def _print_line(self) -> None:
        detail = f", {self._detail()}" if self._detail() else ""
        self._console.print(
            f"{self.done} {self._num_done}/{self._num_parts} {self.parts}{detail}",
            highlight=False,
            soft_wrap=True,
        )


class ShardProgress(PartProgress):
    """Counts shards, and the images in them; call `images` for decoded images."""

    doing, done, parts = "embedding", "embedded", "shards"

    def __init__(self, num_shards: int, console: Console | None = None) -> None:
        super().__init__(num_shards, console)
        self._num_images = 0

    def images(self, number: int) -> None:
        """So many more images were decoded."""
        self._num_images += number
        self._bar.update(self._task, detail=self._detail())

    def _has_more_to_say(self) -> bool:
        return self._num_images > 0

    def _detail(self) -> str:
        elapsed_s = max(time.monotonic() - self._start_s, 1e-9)
        return f"{self._num_images} images, {self._num_images / elapsed_s:.1f}/s"


class JoinProgress(PartProgress):
    """Counts blocks, and the images that are encoded on the way; call `at` after every block."""

    def __init__(self, console: Console | None = None) -> None:
        super().__init__(1, console)
        self._num_images = 0

    def at(self, num_done: int, num_parts: int) -> None:
        """So many blocks are done, of so many; a screening before the join counts for itself."""
        self._num_done, self._num_parts = num_done, num_parts
        self._bar.update(self._task, completed=num_done, total=num_parts, detail=self._detail())

    def image(self) -> None:
        """One more image was decoded to be encoded now."""
        self._num_images += 1
        self._bar.update(self._task, detail=self._detail())

    def _detail(self) -> str:
        return f"{self._num_images} images encoded" if self._num_images else ""
