"""How the pictures of the benchmarks look, and the command that draws one from a CSV file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import click
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bench.rows import Row, read_rows

INK, SOFT, LINE, PAPER = "#22201d", "#6f6a63", "#d9d2c8", "#fffdfa"
OWN, PEER = "#c2410c", "#0f4c5c"


def blank_figure(width: float, height: float) -> Figure:
    """An empty figure that draws without a screen; width and height in inches."""
    figure = Figure(figsize=(width, height), facecolor=PAPER)
    FigureCanvasAgg(figure)
    return figure


def dress(axes: Axes, title: str, grid: Literal["both", "x"] = "both") -> None:
    """Give axes their title, paper, soft ticks and grid, and take their frame away."""
    axes.set_title(title, loc="left", fontsize=12, color=INK, fontweight="bold")
    axes.set_facecolor(PAPER)
    axes.tick_params(colors=SOFT, which="both", length=0)
    axes.grid(True, axis=grid, color=LINE, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left", "bottom"]].set_visible(False)


def drawing_command(draw: Callable[[list[Row]], Figure], of: str) -> click.Command:
    """The command `SOURCE TARGET`: read a CSV file, write a picture.

    Args:
        draw: the figure of a file's rows.
        of: which benchmark writes such files, for the help.
    """

    @click.command(help=f"Draw a CSV file of {of}.")
    @click.argument("source", type=click.Path(exists=True, dir_okay=False, path_type=Path))
    @click.argument("target", type=click.Path(path_type=Path))
    def main(source: Path, target: Path) -> None:
        figure = draw(read_rows(source))
        target.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(target, dpi=150)

    return main
