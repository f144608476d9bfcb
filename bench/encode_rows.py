"""What bench.encode measures, and the rows that come of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from bench.encode_providers import Encode, EncodeProvider
from bench.roofline import timed
from bench.rows import Row, blank_row, read_rows
from bench.targets import judged
from bench.towers import TOWERS, Work, attention_calls, product_call
from miner.encoders import PRECISIONS

NAME = "encode"
BOTH = "both towers"


@dataclass(kw_only=True)
class Runs:
    """One provider on one tower.

    Attributes:
        provider: who.
        encode: the encoder; None once it has failed or is done.
        elapsed_s: of a batch, by round.
        deviation: largest difference of a pair's cosine from float32's.
        failure: why it has no time; empty where it has.
    """

    provider: EncodeProvider
    encode: Encode | None = None
    elapsed_s: list[float] = field(default_factory=list)
    deviation: float | None = None
    failure: str = ""


def ceiling_rows(work: Work, blank: Row, batch_size: int, dtype: str, device: str) -> list[Row]:
    """Every product and every attention of a tower at its shapes, and the bound they add up to."""
    torch_dtype = PRECISIONS[dtype]
    base = replace(blank, dtype=dtype)
    rows, total_s = [], 0.0
    for product, times in work.products.items():
        call = product_call(product, batch_size, torch_dtype, device)
        seconds = timed(call, device, 3)
        rates = [product.flops * batch_size / s / 1e12 for s in seconds]
        shape = f"{batch_size * product.rows}x{product.inner}x{product.columns}"
        one = replace(base, provider=f"product {shape}")
        rows.append(one.measured("matmul", rates, unit="TFLOP/s", note=f"{times} times a batch"))
        total_s += times * float(np.median(seconds))
    fastest_s = np.inf
    for name, call in attention_calls(work.attention, batch_size, torch_dtype, device).items():
        one = replace(base, provider=f"attention {name}")
        try:
            seconds = timed(call, device, 3)
        except RuntimeError as error:
            # A backend that does not take this shape, dtype or device.
            note = f"does not run here: {str(error).partition('.')[0]:.100}"
            rows.append(one.measured("attention", [], unit="TFLOP/s", note=note))
            continue
        rates = [work.attention.flops * batch_size / s / 1e12 for s in seconds]
        note = f"{work.blocks} times a batch"
        rows.append(one.measured("attention", rates, unit="TFLOP/s", note=note))
        if name.startswith("sdpa"):
            fastest_s = min(fastest_s, float(np.median(seconds)))
    total_s += work.blocks * fastest_s
    bound = replace(base, provider="bound")
    note = "products and torch's fastest attention at the tower's shapes, nothing else"
    return [*rows, bound.measured("images/s", [batch_size / total_s], unit="images/s", note=note)]


def tower_rows(
    runs: list[Runs], blank: Row, batch_size: int, bounds: dict[str, float]
) -> list[Row]:
    """Images a second, ratios to every other provider, deviation and share of the bound."""
    rows = []
    for run in runs:
        provider = run.provider
        base = replace(blank, provider=provider.name, dtype=provider.precision)
        if run.failure:
            rows.append(base.measured("images/s", [], unit="images/s", note=run.failure))
            continue
        rates = [batch_size / s for s in run.elapsed_s]
        rows.append(base.measured("images/s", rates, unit="images/s", note=provider.note))
        if run.deviation is not None:
            rows.append(base.measured("pair deviation", [run.deviation]))
        for other in runs:
            if other is not run and other.elapsed_s:
                ratios = [a / b for a, b in zip(run.elapsed_s, other.elapsed_s, strict=False)]
                metric = f"time / {other.provider.name}"
                rows.append(base.measured(metric, ratios, unit="ratio"))
        bound = bounds.get("bf16" if provider.precision == "fp8" else provider.precision)
        if bound:
            shares = [100 * rate / bound for rate in rates]
            rows.append(base.measured("share of the bound", shares, unit="%"))
    return [judged(row) for row in rows]


def both_rows(rows: list[Row], blank: Row) -> list[Row]:
    """What is not among the rows yet: images a second through both towers, of all who have both."""
    rates: dict[tuple[str, str], dict[str, float]] = {}
    for row in rows:
        if row.metric == "images/s" and row.median and row.data in TOWERS:
            rates.setdefault((row.provider, row.dtype), {})[row.data] = row.median
    both = {
        key: 1 / sum(1 / rate for rate in by_tower.values())
        for key, by_tower in rates.items()
        if len(by_tower) == len(TOWERS)
    }
    found = []
    for (provider, dtype), rate in both.items():
        base = replace(blank, provider=provider, dtype=dtype, data=BOTH)
        found.append(base.measured("images/s", [rate], unit="images/s"))
        if provider == "bound":
            continue
        bounds = both.get(("bound", "bf16" if dtype == "fp8" else dtype))
        others = {other: speed for (other, _), speed in both.items() if other != "bound"}
        others |= {"bound": bounds} if bounds else {}
        found += [
            base.measured(f"time / {other}", [speed / rate], unit="ratio")
            for other, speed in others.items()
            if other != provider
        ]
    known = {(row.provider, row.dtype, row.metric) for row in rows if row.data == BOTH}
    return [judged(row) for row in found if (row.provider, row.dtype, row.metric) not in known]


def known_rows(out: Path, device: str, batch_size: int) -> list[Row]:
    """Rows of a file that were measured on this device by this version, with such a batch."""
    here = blank_row(NAME, device)
    rows = read_rows(out) if out.exists() else []
    return [
        row
        for row in rows
        if (row.device, row.commit, row.num_rows) == (here.device, here.commit, batch_size)
    ]
