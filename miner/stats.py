"""Counters and stage timers that add up across shards."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

STAGES = ("read", "decode", "copy", "clip", "dino", "write")
"""Where the time of an embedding goes, in the order that images take.

Time is seen from the thread that encodes: what it waits for, or does. `read` and `decode` are its
waiting for pixels, `copy` is pixels on their way to a device, `clip` and `dino` are the encoders by
their role, and `write` is everything about what is kept: tables, hashes, commits.
"""


@dataclass
class Stats:
    """What was done, and the time it took; two of them add up with `+`.

    Attributes:
        counts: of things.
        seconds: wall time of each stage; together they are the wall time of all.
        core_seconds: processor time of the threads and processes beside the encoding one.
    """

    counts: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=dict)
    core_seconds: dict[str, float] = field(default_factory=dict)

    def count(self, name: str, number: int = 1) -> None:
        """Add to a counter."""
        self.counts[name] += number

    def shares(self) -> dict[str, float]:
        """Each stage's part of the wall time, in the order of `STAGES`."""
        total_s = sum(self.seconds.values())
        return {s: self.seconds[s] / total_s for s in STAGES if self.seconds.get(s)}

    def __add__(self, other: Stats) -> Stats:
        counts = Counter(self.counts)
        # update, not +: Counter's own sum drops what is zero.
        counts.update(other.counts)
        return Stats(
            counts,
            _sum(self.seconds, other.seconds),
            _sum(self.core_seconds, other.core_seconds),
        )


class Laps:
    """A clock that gives every moment to one stage: laps follow each other without a gap."""

    def __init__(self) -> None:
        self._last_s = time.perf_counter()
        self._seconds: dict[str, float] = {}

    def lap(self, stage: str) -> None:
        """Give the time since the last lap to a stage."""
        self.split({stage: 1.0})

    def split(self, weights: Mapping[str, float]) -> None:
        """Give the time since the last lap to several stages, in proportion to their weights."""
        now_s, total = time.perf_counter(), sum(weights.values())
        for stage, weight in weights.items():
            elapsed_s = (now_s - self._last_s) * weight / total
            self._seconds[stage] = self._seconds.get(stage, 0.0) + elapsed_s
        self._last_s = now_s

    def skip(self) -> None:
        """Give the time since the last lap to no stage."""
        self._last_s = time.perf_counter()

    def take(self) -> dict[str, float]:
        """The seconds of every stage since the last call of this."""
        seconds, self._seconds = self._seconds, {}
        return seconds


def _sum(a: Mapping[str, float], b: Mapping[str, float]) -> dict[str, float]:
    return {name: a.get(name, 0.0) + b.get(name, 0.0) for name in {**a, **b}}
