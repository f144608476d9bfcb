"""What bench.serve measures, and the rows that come of it.

Providers: `raw` is bytes to vectors without HTTP; `batched` the service; `one by one` the service
with batches of one; `plain` a service that answers one image after the other (bench.serve_plain).
"""

from __future__ import annotations

from collections.abc import Sequence
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
        plain: the closed loop at the plainest service, which counts nothing.
        opened: the open loops by share, likewise.
    """

    raw: RawRate
    batched: tuple[Driven, Counts]
    single: tuple[Driven, Counts]
    plain: Driven
    opened: dict[float, tuple[Driven, Counts]] = field(default_factory=dict)


def rows_of(plan: Plan, rounds: list[Round]) -> list[Row]:
    """What was measured."""
    blank = replace(
        blank_row(NAME), data=plan.towers, shape=str(plan.max_batch), dtype=plan.precision
    )
    raw = [each.raw.images_per_s for each in rounds]
    batched = [each.batched[0].images_per_s for each in rounds]
    single = [each.single[0].images_per_s for each in rounds]
    plain = [each.plain.images_per_s for each in rounds]
    note = f"no HTTP; batches of {plan.max_batch}"
    rows = [replace(blank, provider="raw").measured("images/s", raw, unit="images/s", note=note)]
    note = f"closed loop, {plan.connections} connections"
    for provider, measured in (
        ("batched", [each.batched for each in rounds]),
        ("one by one", [each.single for each in rounds]),
        ("plain", [(each.plain, None) for each in rounds]),
    ):
        rows += driven_rows(replace(blank, provider=provider), measured, note)
    row = replace(blank, provider="batched")
    bases = {
        "raw": raw,
        "one by one": single,
        "plain": plain,
        "faster of both": [max(pair) for pair in zip(single, plain, strict=True)],
    }
    for base, rates in bases.items():
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


def driven_rows(row: Row, measured: Sequence[tuple[Driven, Counts | None]], note: str) -> list[Row]:
    """Throughput, latencies, fill of the batches, and what may make the figures worse."""
    driven = [each for each, _ in measured]
    rows = [row.measured("images/s", [d.images_per_s for d in driven], unit="images/s", note=note)]
    for share in (0.5, 0.95, 0.99):
        latencies_ms = [1e3 * _quantile(each, share) for each in driven]
        rows.append(row.measured(f"p{100 * share:.0f}", latencies_ms, unit="ms", note=note))
    fills = [counts.images / max(counts.batches, 1) for _, counts in measured if counts]
    lags_ms = [1e3 * float(np.quantile(each.lags_s, 0.99)) for each in driven]
    refused = [1 - each.statuses[200] / each.statuses.total() for each in driven]
    return [
        *rows,
        *([row.measured("images a batch", fills)] if fills else []),
        row.measured("generator", [each.generator_cores for each in driven], unit="cores"),
        row.measured("sent late, p99", lags_ms, unit="ms"),
        row.measured("not answered", refused, unit="share"),
    ]


def _quantile(driven: Driven, share: float) -> float:
    return float(np.quantile(driven.latencies_s, share))
