"""A picture of what bench.encode measured: images a second through both towers, and their bound.

    python -m bench.plot_encode bench/results/encode.csv docs/encode.png

Draws only; every number comes from the file, the last row of each kind.
"""

from __future__ import annotations

import click
from matplotlib.figure import Figure

from bench.encode_rows import BOTH
from bench.plotting import INK, LINE, OWN, PEER, SOFT, blank_figure, drawing_command, dress
from bench.rows import Row

OWN_PREFIXES = ("compile", "onnx", "tensorrt")


def latest(rows: list[Row]) -> tuple[list[Row], dict[str, float]]:
    """Images a second through both towers by provider, and the bound of each precision.

    Raises:
        click.ClickException: there are none.
    """
    found = {
        row.provider + row.dtype: row
        for row in rows
        if row.data == BOTH and row.metric == "images/s" and row.median
    }
    if not found:
        raise click.ClickException(f"the file has no images/s of {BOTH}; run bench.encode first")
    device = list(found.values())[-1].device
    rates = [row for row in found.values() if row.device == device]
    bounds = {row.dtype: row.median or 0.0 for row in rates if row.provider == "bound"}
    bars = sorted((row for row in rates if row.provider != "bound"), key=lambda r: r.median or 0)
    return bars, bounds


def draw(rows: list[Row]) -> Figure:
    """One bar for each provider, with the bound of its precision behind it."""
    bars, bounds = latest(rows)
    figure = blank_figure(9.5, 1.6 + 0.42 * len(bars))
    axes = figure.subplots()
    most = max(bounds.values(), default=0.0)
    for place, row in enumerate(bars):
        rate = row.median or 0.0
        bound = bounds.get("bf16" if row.dtype == "fp8" else row.dtype, 0.0)
        is_own = row.provider.startswith(OWN_PREFIXES)
        axes.barh(place, bound, height=0.62, color=LINE, alpha=0.55)
        axes.barh(place, rate, height=0.62, color=OWN if is_own else PEER, alpha=0.92)
        share = f"  {rate / bound:.0%} of its bound" if bound else ""
        axes.annotate(
            f"{rate:.3g}{share}".replace("%", " %"),
            xy=(max(rate, bound), place),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=9.5,
            color=INK,
        )
    axes.set_yticks(range(len(bars)), [row.provider for row in bars])
    axes.set_xlim(0, 1.45 * max(most, *(row.median or 0.0 for row in bars)))
    dress(axes, "Images a second through both L/14 towers", grid="x")
    of = f"({bars[0].shape}; {bars[0].device})"
    axes.set_xlabel(
        f"pale: bound by the towers' own products and attention   {of}",
        color=SOFT,
        fontsize=8.5,
        loc="left",
    )
    figure.tight_layout()
    return figure


main = drawing_command(draw, "bench.encode")


if __name__ == "__main__":
    main()
