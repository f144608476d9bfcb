"""How time grows with N: what a longer run would take, and the exponent of those that were made."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np

from bench.providers import Provider
from bench.rows import Row

GROWTH_FROM = 10_000
"""Smallest N of an exponent where three are as large: below, what any call costs counts more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Tells before a run about how long it will take, from the last one of the same provider.

    Attributes:
        limit_s: longer runs are skipped.
        last: N and seconds of each provider's last run.
    """

    limit_s: float
    last: dict[str, tuple[int, float]] = field(default_factory=dict)

    def why_not(self, provider: Provider, num_rows: int) -> str:
        """Why a provider is not run on so many rows; empty if it is."""
        if provider.max_rows is not None and num_rows > provider.max_rows:
            return f"skipped: only up to N = {provider.max_rows}"
        rows, elapsed_s = self.last.get(provider.name, (num_rows, 0.0))
        expected_s = elapsed_s * (num_rows / rows) ** 2
        if expected_s > self.limit_s:
            return f"skipped: about {expected_s:.0f} s expected, the limit is {self.limit_s:.0f} s"
        return ""


def exponent(seconds: dict[int, float]) -> tuple[float, list[int]]:
    """The slope of log time over log N by least squares.

    Args:
        seconds: by N, three at least.

    Returns:
        The slope, and the N that it is taken over.
    """
    sizes = sorted(seconds)
    large = [size for size in sizes if size >= GROWTH_FROM]
    sizes = large if len(large) >= 3 else sizes
    slope = np.polyfit(np.log(sizes), [math.log(seconds[size]) for size in sizes], 1)[0]
    return float(slope), sizes


def growth_rows(rows: Iterable[Row]) -> list[Row]:
    """A row with the growth exponent of every provider's time.

    Args:
        rows: those of the same provider, data, device and commit belong together; of two with the
            same N the later counts.
    """
    series: dict[tuple[str, ...], dict[int, Row]] = defaultdict(dict)
    for row in rows:
        if row.metric == "time" and row.median:
            key = (row.name, row.provider, row.data, row.device, row.commit)
            series[key][row.num_rows] = row
    found = []
    for by_size in series.values():
        if len(by_size) < 3:
            continue
        slope, sizes = exponent({size: row.median or 0.0 for size, row in by_size.items()})
        found.append(
            replace(
                by_size[max(by_size)],
                metric="growth exponent",
                unit="",
                median=slope,
                p20=None,
                p80=None,
                repeats=1,
                note=f"time over N = {', '.join(map(str, sizes))}",
            )
        )
    return found
