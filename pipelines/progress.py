"""Progress of long work: a rich bar on a terminal, else one line every 10 seconds."""

from __future__ import annotations

import threading
import time
from datetime import timedelta
from types import TracebackType
from typing import Literal, Self

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

from miner.stats import Stats
from pipelines import metrics

LINE_EVERY_S = 10.0

ShardOutcome = Literal["embedded", "known", "failed"]
"""What became of a shard; `known` from an earlier command."""


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
        # Those of earlier commands took no time now.
        self._num_known = 0
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
        metrics.parts(self.doing, self._num_done, self._num_parts)
        self._bar.update(self._task, advance=1, total=self._num_parts, detail=self._detail())

    def _has_more_to_say(self) -> bool:
        """Whether short work deserves a line at its end."""
        return False

    def _detail(self) -> str:
        return ""

    def _left(self) -> str:
        """How long the rest takes if it goes on as it went; a terminal's bar says that itself."""
        num_new = self._num_done - self._num_known
        if num_new <= 0 or self._num_done >= self._num_parts:
            return ""
        elapsed_s = time.monotonic() - self._start_s
        left_s = elapsed_s * (self._num_parts - self._num_done) / num_new
        return f"about {timedelta(seconds=round(left_s))} left"

    def _print_lines(self) -> None:
        # A thread, since a batch or a join may take longer than a line should wait.
        while not self._is_over.wait(LINE_EVERY_S):
            if not self._console.is_terminal:
                self._print_line()

    def _print_line(self) -> None:
        details = [each for each in (self._detail(), self._left()) if each]
        self._console.print(
            ", ".join([f"{self.done} {self._num_done}/{self._num_parts} {self.parts}", *details]),
            highlight=False,
            soft_wrap=True,
        )


class ImportProgress(PartProgress):
    """Counts steps of an import, the samples of a shard or its vectors; call `at` after each."""

    doing, done, parts = "importing", "imported", "steps"

    def __init__(self, console: Console | None = None) -> None:
        super().__init__(0, console)

    def at(self, num_steps: int) -> None:
        """One more step of so many is done."""
        self.advance(of=num_steps)


class ShardProgress(PartProgress):
    """Counts shards and images, and says where the time goes.

    Call `images` for decoded images, and `shard` for each shard that is dealt with.
    """

    doing, done, parts = "embedding", "embedded", "shards"

    def __init__(self, num_shards: int, console: Console | None = None) -> None:
        super().__init__(num_shards, console)
        self._num_images = 0
        self._num_quarantined = 0
        self._stats = Stats()
        self._workers: dict[str, Stats] = {}

    def images(self, number: int) -> None:
        """So many more images were decoded."""
        self._num_images += number
        metrics.images(number)
        self._bar.update(self._task, detail=self._detail())

    def shard(
        self,
        outcome: ShardOutcome,
        stats: Stats,
        *,
        num_quarantined: int = 0,
        worker: str | None = None,
    ) -> None:
        """A shard is dealt with.

        Args:
            outcome: what became of it.
            stats: what was done for it now.
            num_quarantined: its samples that were refused.
            worker: who did it, where there are several.
        """
        metrics.shard(outcome, stats, num_quarantined)
        self._num_quarantined += num_quarantined
        self._num_known += outcome == "known"
        self._stats += stats
        if worker is not None and stats.seconds:
            self._workers[worker] = self._workers.get(worker, Stats()) + stats
        self.advance()

    def _has_more_to_say(self) -> bool:
        return self._num_images > 0

    def _detail(self) -> str:
        elapsed_s = max(time.monotonic() - self._start_s, 1e-9)
        said = [f"{self._num_images} images, {self._num_images / elapsed_s:.1f}/s"]
        if self._num_quarantined:
            said.append(f"{self._num_quarantined} quarantined")
        if shares := self._stats.shares():
            said.append(" ".join(f"{stage} {share:.0%}" for stage, share in shares.items()))
        return ", ".join([*said, *self._slowest()])

    def _slowest(self) -> list[str]:
        """The worker with the fewest images a second, where there are several to compare."""
        rates = {
            name: stats.counts["decodable"] / sum(stats.seconds.values())
            for name, stats in self._workers.items()
        }
        if len(rates) < 2:
            return []
        name = min(rates, key=rates.__getitem__)
        return [f"slowest {name} {rates[name]:.1f}/s of {max(rates.values()):.1f}"]


class JoinProgress(PartProgress):
    """Counts blocks, and the images that are encoded on the way; call `at` after every block."""

    def __init__(self, console: Console | None = None) -> None:
        super().__init__(1, console)
        self._num_images = 0

    def at(self, num_done: int, num_parts: int) -> None:
        """So many blocks are done, of so many; a screening before the join counts for itself."""
        self._num_done, self._num_parts = num_done, num_parts
        metrics.parts(self.doing, num_done, num_parts)
        self._bar.update(self._task, completed=num_done, total=num_parts, detail=self._detail())

    def image(self) -> None:
        """One more image was decoded to be encoded now."""
        self._num_images += 1
        self._bar.update(self._task, detail=self._detail())

    def _detail(self) -> str:
        return f"{self._num_images} images encoded" if self._num_images else ""
