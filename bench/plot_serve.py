"""A picture of what bench.serve measured: latency by load, and throughput beside what bounds it.

    python -m bench.plot_serve bench/results/serve.csv docs/serve.png

Draws only; every number comes from the file, the last row of each kind.
"""

from __future__ import annotations

import re

import click
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from bench.plotting import INK, OWN, PEER, SOFT, blank_figure, drawing_command, dress
from bench.rows import Row

TITLES = {"demo": "the demo's encoders", "b16": "two ViT-B/16"}
THROUGHPUT = ("plain", "one by one", "batched", "raw")
LATENCIES = {"p50": "-", "p95": "--", "p99": ":"}
OPEN = re.compile(r"batched, ([\d.]+) % load")

Latest = dict[tuple[str, str], Row]
"""By provider and metric."""


def latest(rows: list[Row]) -> dict[str, Latest]:
    """By towers, the last row of each provider and metric, of the last row's device.

    Raises:
        click.ClickException: there are none.
    """
    found: dict[str, Latest] = {}
    for row in rows:
        if row.device == rows[-1].device and row.median is not None:
            found.setdefault(row.data, {})[row.provider, row.metric] = row
    whole = {
        data: by_key
        for data, by_key in found.items()
        if all((provider, "images/s") in by_key for provider in THROUGHPUT)
    }
    if not whole:
        raise click.ClickException("the file has no throughput of the service; run bench.serve")
    return whole


def draw(rows: list[Row]) -> Figure:
    """A line of two panels for each pair of towers."""
    by_towers = latest(rows)
    figure = blank_figure(10.5, 0.6 + 3.2 * len(by_towers))
    panels = figure.subplots(len(by_towers), 2, squeeze=False, width_ratios=(3, 2))
    for (left, right), (towers, found) in zip(panels, by_towers.items(), strict=True):
        _draw_latency(left, found, TITLES.get(towers, towers))
        _draw_throughput(right, found)
    figure.text(0.01, 0.005, rows[-1].device, color=SOFT, fontsize=8)
    figure.tight_layout(rect=(0, 0.02, 1, 1))
    return figure


def _draw_latency(axes: Axes, found: Latest, of: str) -> None:
    shares = sorted({float(m[1]) for provider, _ in found if (m := OPEN.fullmatch(provider))})
    for metric, style in LATENCIES.items():
        rows = [found[f"batched, {share:g} % load", metric] for share in shares]
        middles = [row.median or 0.0 for row in rows]
        axes.plot(shares, middles, style, marker="o", color=OWN, label=metric)
    axes.set_yscale("log")
    for which in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        which(LogFormatter(labelOnlyBase=False, minor_thresholds=(2, 1)))
    axes.set_xlabel("requests a second, % of the throughput (open loop)", color=SOFT, fontsize=9)
    axes.set_ylabel("ms from when it was due", color=SOFT, fontsize=9)
    if shares:
        axes.legend(frameon=False, labelcolor=INK)
    dress(axes, f"Latency under load, {of}")


def _draw_throughput(axes: Axes, found: Latest) -> None:
    for place, provider in enumerate(THROUGHPUT):
        rate = found[provider, "images/s"].median or 0.0
        axes.barh(place, rate, height=0.6, color=OWN if provider == "batched" else PEER)
        axes.annotate(
            f"{rate:.3g}",
            xy=(rate, place),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            color=INK,
        )
    names = {"raw": "no HTTP", "plain": "plain, one by one", "one by one": "batches of one"}
    axes.set_yticks(range(len(THROUGHPUT)), [names.get(name, name) for name in THROUGHPUT])
    axes.margins(x=0.18)
    dress(axes, "Images a second", grid="x")


main = drawing_command(draw, "bench.serve")


if __name__ == "__main__":
    main()
