"""Rows as a person wants them at once: one line a provider, and a line for every target."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import click

from bench.rows import Row

SHOWN = {"time", "peak memory", "pairs", "recall"}
"""Metrics that share a provider's line; ratios without a target are in the file alone."""


def show(rows: Iterable[Row]) -> None:
    """Write rows to the terminal."""
    lines: dict[tuple[str, str, str, str], dict[str, Row]] = defaultdict(dict)
    for row in rows:
        lines[row.data, row.shape, row.provider, row.dtype][row.metric] = row
    for (data, shape, provider, dtype), by_metric in lines.items():
        head = f"{data:14} {shape:16} {provider:18} {dtype:9}"
        if shown := [by_metric[metric] for metric in by_metric if metric in SHOWN]:
            click.echo(head + "  ".join(_cell(row) for row in shown))
        for metric, row in by_metric.items():
            is_told = metric not in SHOWN and row.median is not None
            if "target" in row.note or (is_told and not metric.startswith("time / ")):
                click.echo(f"{head}{metric}: {_value(row)} {row.note}".rstrip())


def _cell(row: Row) -> str:
    if row.median is None:
        return f"{row.metric} - {row.note}"
    spread = f" ({row.p20:.3g} to {row.p80:.3g})" if row.metric == "time" else ""
    return f"{row.metric} {_value(row)}{spread}"


def _value(row: Row) -> str:
    if row.median is None:
        return "-"
    if row.unit == "ratio" and 0 < row.median < 1:
        return f"1/{1 / row.median:.1f}"
    return f"{row.median:.4g} {row.unit}".removesuffix("ratio").rstrip()
