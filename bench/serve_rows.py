"""What bench.serve measures, and the rows that come of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from bench.load import Driven
from bench.rows import Row, blank_row
from bench.serve_raw import RawRate
from bench.served import Counts
from bench.targets import judged

NAME = "serve"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is measured.

    Attributes:
        towers: `demo` or `b16`.
        precision: fp32 or bf16.
        decoders: process or thread.
        max_batch: of the service that has batches.
        connections: of the closed loops.
        loads: of the open loops, as shares of the closed loop's throughput.
        warm_s: before the seconds that count.
        seconds: of each measurement.
        repeats: rounds.
    """

    towers: str
    precision: str
    decoders: str
    max_batch: int
    connections: int
    loads: tuple[float, ...]
    warm_s: float
    seconds: float
    repeats: int


@dataclass(kw_only=True)
class Round:
    """One round's measurements.

    Attributes:
        batched: the closed loop at the service with batches, and what that counted meanwhile.
        single: likewise with batches of one.
        opened: the open loops by share, likewise.
    """

    raw: RawRate
    batched: tuple[Driven, Counts]
    single: tuple[Driven, Counts]
    opened: dict[float, tuple[Driven, Counts]] = field(default_factory=dict)


def rows_of(plan: Plan, rounds: list[Round]) -> list[Row]:
    """What was measured."""
    blank = replace(
        blank_row(NAME), data=plan.towers, shape=str(plan.max_batch), dtype=plan.precision
    )
    raw = [each.raw.images_per_s for each in rounds]
    batched, single = (
        [each.images_per_s for each, _ in pairs]
        for pairs in ([r.batched for r in rounds], [r.single for r in rounds])
    )
    note = f"no HTTP; batches of {plan.max_batch}"
    rows = [replace(blank, provider="raw").measured("images/s", raw, unit="images/s", note=note)]
    closed = {"batched": [r.batched for r in rounds], "one by one": [r.single for r in rounds]}
    for provider, measured in closed.items():
        note = f"closed loop, {plan.connections} connections"
        rows += driven_rows(replace(blank, provider=provider), measured, note)
    row = replace(blank, provider="batched")
    for base, rates in (("raw", raw), ("one by one", single)):
        ratios = [theirs / ours for theirs, ours in zip(rates, batched, strict=True)]
        rows.append(row.measured(f"time / {base}", ratios, unit="ratio"))
    for share in plan.loads:
        measured = [each.opened[share] for each in rounds]
        offered = float(np.median([share * each for each in batched]))
        provider = f"batched, {share:.0%} load".replace("%", " %")
        note = f"open loop, Poisson, {offered:.4g} requests/s"
        rows += driven_rows(replace(blank, provider=provider), measured, note)
        tails = [_quantile(each, 0.99) / _quantile(each, 0.5) for each, _ in measured]
        rows.append(replace(blank, provider=provider).measured("p99 / p50", tails, unit="ratio"))
    return [judged(row) for row in rows]


def driven_rows(row: Row, measured: list[tuple[Driven, Counts]], note: str) -> list[Row]:
    """Throughput, latencies, fill of the batches, and what may make the figures worse."""
    driven = [each for each, _ in measured]
    rows = [row.measured("images/s", [d.images_per_s for d in driven], unit="images/s", note=note)]
    for share in (0.5, 0.95, 0.99):
        latencies_ms = [1e3 * _quantile(each, share) for each in driven]
        rows.append(row.measured(f"p{100 * share:.0f}", latencies_ms, unit="ms", note=note))
    fills = [counts.images / max(counts.batches, 1) for _, counts in measured]
    lags_ms = [1e3 * float(np.quantile(each.lags_s, 0.99)) for each in driven]
    refused = [1 - each.statuses[200] / each.statuses.total() for each in driven]
    return [
        *rows,
        row.measured("images a batch", fills),
        row.measured("generator", [each.generator_cores for each in driven], unit="cores"),
        row.measured("sent late, p99", lags_ms, unit="ms"),
        row.measured("not answered", refused, unit="share"),
    ]


def _quantile(driven: Driven, share: float) -> float:
    return float(np.quantile(driven.latencies_s, share))
