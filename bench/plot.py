"""Pictures of what the CSV files hold: time over N, and how much longer the peers take.

    python -m bench.plot bench/results/join.csv docs/join.png

Draws only; every number comes from the file, the last row of each kind.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict

import click
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from bench.plotting import INK, OWN, PEER, SOFT, blank_figure, drawing_command, dress
from bench.rows import Row

COLOURS = {
    "cpu": OWN,
    "triton": OWN,
    "cpu-no-cascade": "#ec8433",
    "faiss-range": PEER,
    "faiss-knn": "#3f8ea3",
    "faiss-gpu": PEER,
    "torch-fp32": "#5b3f8c",
    "torch-bf16": "#9a7fd1",
    "torch-fp16": "#9a7fd1",
    "two-pass-tiles": "#3f8ea3",
    "scikit-learn": "#8a8f2a",
    "semdedup": "#7a7f87",
    "cuvs": "#8a8f2a",
    "reference": "#b5aea4",
}
"""One colour for a provider in every picture; the own ones are the warm ones."""

OWN_NAMES = ("triton", "cpu")

Cells = dict[tuple[str, int, str, str], Row]
"""Rows by data, N, provider and metric."""


def latest(rows: list[Row]) -> tuple[Cells, str]:
    """The last row of each kind, on the device that most rows are of, and that device."""
    counts = Counter(row.device for row in rows if row.metric == "time")
    if not counts:
        raise click.ClickException("the file has no row with the metric `time`; nothing to draw")
    device = counts.most_common(1)[0][0]
    cells = {
        (row.data, row.num_rows, row.provider, row.metric): row
        for row in rows
        if row.device == device and row.median is not None
    }
    return cells, device


def draw(rows: list[Row]) -> Figure:
    """A panel of time over N for each data with three N or more, and one with the ratios.

    Args:
        rows: of one CSV file.

    Raises:
        click.ClickException: there is no time among them.
    """
    cells, device = latest(rows)
    sizes = _sizes(cells)
    panels = [data for data, found in sizes.items() if len(found) >= 3] or list(sizes)[:1]
    figure = blank_figure(6.2 * len(panels) + 5.0, 5.6)
    widths = [6.2] * len(panels) + [4.2]
    axes = figure.subplots(1, len(widths), width_ratios=widths, squeeze=False)[0]
    for place, data in zip(axes, panels, strict=False):
        _draw_times(place, cells, data)
    _draw_ratios(axes[-1], cells, panels[0])
    shape = next(row.shape for row in cells.values() if row.metric == "time")
    widths_text = shape.partition("x")[2].replace("+", ", E = ")
    figure.suptitle(
        f"All CLIP-blind pairs of N images   (D = {widths_text}; {device})",
        x=0.012,
        ha="left",
        fontsize=11,
        color=SOFT,
    )
    figure.tight_layout(rect=(0, 0, 1, 0.97), w_pad=2.5)
    return figure


def _sizes(cells: Cells) -> dict[str, list[int]]:
    """For each data the N that have a time, ascending."""
    sizes: dict[str, set[int]] = defaultdict(set)
    for data, num_rows, _, metric in cells:
        if metric == "time" and num_rows:
            sizes[data].add(num_rows)
    return {data: sorted(found) for data, found in sizes.items()}


def _draw_times(axes: Axes, cells: Cells, data: str) -> None:
    """Time over N, both logarithmic, with every provider's exponent at the end of its line."""
    series: dict[str, list[Row]] = defaultdict(list)
    for (of, _, provider, metric), row in sorted(cells.items()):
        if of == data and metric == "time":
            series[provider].append(row)
    ends = []
    for provider, rows in series.items():
        colour = COLOURS.get(provider, SOFT)
        own = provider in OWN_NAMES
        sizes = [row.num_rows for row in rows]
        medians = [row.median or math.nan for row in rows]
        low, high = ([getattr(row, side) or math.nan for row in rows] for side in ("p20", "p80"))
        axes.fill_between(sizes, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.plot(
            sizes,
            medians,
            color=colour,
            linewidth=2.6 if own else 1.5,
            marker="o",
            markersize=5 if own else 3.5,
            zorder=3 if own else 2,
        )
        grown = next((cells[key] for key in cells if _is_growth(key, data, provider)), None)
        power = f"  $N^{{{grown.median:.2f}}}$" if grown is not None and grown.median else ""
        ends.append((medians[-1], sizes[-1], provider + power, colour, own))
    axes.set_xscale("log")
    axes.set_yscale("log")
    sizes = sorted({row.num_rows for rows in series.values() for row in rows})
    axes.set_xticks(sizes, [_count(size) for size in sizes])
    _label_ends(axes, ends, sizes[-1] * max(sizes[-1] / sizes[0], 2.0) ** 0.05)
    dress(axes, f"{data}: time")
    _drop_minor_ticks(axes)
    axes.set_xlabel("N, images", color=SOFT)
    axes.yaxis.set_major_formatter(FuncFormatter(_seconds))


def _is_growth(key: tuple[str, int, str, str], data: str, provider: str) -> bool:
    return (key[0], key[2], key[3]) == (data, provider, "growth exponent")


def _label_ends(axes: Axes, ends: list[tuple[float, int, str, str, bool]], right: float) -> None:
    """Names beside the ends of the lines, moved apart where they would touch."""
    low, high = (math.log(limit) for limit in axes.get_ylim())
    gap = (high - low) / 21
    height = -math.inf
    for seconds, num_rows, text, colour, own in sorted(ends):
        height = max(math.log(seconds), height + gap)
        axes.annotate(
            text,
            xy=(num_rows, seconds),
            xytext=(right, math.exp(height)),
            color=colour,
            fontsize=9.5,
            fontweight="bold" if own else "normal",
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "alpha": 0.35, "linewidth": 0.8},
        )


def _draw_ratios(axes: Axes, cells: Cells, data: str) -> None:
    """How many times longer than the own join every peer takes, at the largest N with peers."""
    own = next((name for name in OWN_NAMES if any(key[2] == name for key in cells)), "")
    found: dict[int, dict[str, Row]] = defaultdict(dict)
    for (of, num_rows, provider, metric), row in cells.items():
        if (of, provider) == (data, own) and metric.startswith("time / ") and row.median:
            found[num_rows][metric.removeprefix("time / ")] = row
    if not found:
        axes.set_axis_off()
        return
    most = max(len(peers) for peers in found.values())
    num_rows = max(size for size, peers in found.items() if len(peers) >= most - 2)
    bars = sorted((1 / (row.median or 1), name) for name, row in found[num_rows].items())
    for place, (times, name) in enumerate(bars):
        axes.barh(place, times, height=0.62, color=COLOURS.get(name, SOFT), alpha=0.9)
        recall = cells.get((data, num_rows, name, "recall"))
        lost = recall is not None and recall.median is not None and recall.median < 1
        text = f"{times:.1f} \N{MULTIPLICATION SIGN}"
        text += f", finds {recall.median:.1%}" if lost and recall else ""
        axes.annotate(
            text.replace("%", " %"),
            xy=(max(times, 1), place),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=9.5,
            color=INK,
        )
    axes.axvline(1, color=OWN, linewidth=1.5)
    axes.set_yticks(range(len(bars)), [name for _, name in bars])
    axes.set_xscale("log")
    left, longest = min(0.7, bars[0][0] / 1.3), bars[-1][0]
    # Half of the width is for the words beside the bars.
    axes.set_xlim(left, longest * max(longest / left, 2.0))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    dress(axes, f"{data}, N = {_count(num_rows)}", grid="x")
    _drop_minor_ticks(axes)
    axes.set_xlabel(f"times longer than {own}", color=SOFT)


def _drop_minor_ticks(axes: Axes) -> None:
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_minor_locator(NullLocator())


def _count(value: float) -> str:
    if value >= 1e6:
        return f"{value / 1e6:g} M"
    return f"{value / 1e3:g} k" if value >= 1e3 else f"{value:g}"


def _seconds(value: float, _: int | None = None) -> str:
    if value < 1:
        return f"{value * 1e3:g} ms"
    return f"{value:g} s" if value < 3600 else f"{value / 3600:.3g} h"


main = drawing_command(draw, "bench.join or bench.join_gpu")


if __name__ == "__main__":
    main()
