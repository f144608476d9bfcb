"""Counters and stage timers that add up across shards."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Stats:
    """Counts of things and seconds spent per stage; two of them add up with `+`."""

    counts: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def time(self, stage: str) -> Iterator[None]:
        """Add the wall time of the block to a stage, also where it raises."""
        start_s = time.perf_counter()
        try:
            yield
        finally:
            elapsed_s = time.perf_counter() - start_s
            self.seconds[stage] = self.seconds.get(stage, 0.0) + elapsed_s

    def count(self, name: str, number: int = 1) -> None:
        """Add to a counter."""
        self.counts[name] += number

    def __add__(self, other: Stats) -> Stats:
        counts = Counter(self.counts)
        # update, not +: Counter's own sum drops what is zero.
        counts.update(other.counts)
        seconds = dict(self.seconds)
        for stage, elapsed_s in other.seconds.items():
            seconds[stage] = seconds.get(stage, 0.0) + elapsed_s
        return Stats(counts, seconds)
