"""The plot of a report: both cosines of random pairs and of all candidates, and their counts."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.collections import PolyCollection
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from miner import schema
from miner.reporting.plot_style import Palette, annotate, in_page_type, keep_plain, plot_style

HEXAGON = 0.02
"""Width of a hexagon in CLIP cosine; coarser than a bin, so that bins leave no pattern."""

POINTS_PER_BIN = 4
"""A bin's count is spread evenly over this many points along each side before it is hexed."""

SERIES = {"random": "random pairs", "candidates": "all candidates"}
"""Sources of the histogram, from back to front, and their names."""

# Fixed: matplotlib's own layouts give up where a colour scale is this thin.
PLACES = {
    "plane": (0.062, 0.215, 0.618, 0.765),
    "beside": (0.705, 0.215, 0.285, 0.765),
    "random": (0.062, 0.052, 0.3, 0.024),
    "candidates": (0.38, 0.052, 0.3, 0.024),
}
"""Left, bottom, width and height of both axes and both colour scales, in parts of the figure."""


def draw_cosines(
    histogram: pa.Table, *, clip_above: float, dino_below: float, palette: Palette
) -> str:
    """Draw the hexbin with the threshold corner, and the candidates' DINO cosines beside it.

    Args:
        histogram: the table `histogram`.
        clip_above: the join's threshold.
        dino_below: likewise.
        palette: `LIGHT` or `DARK`; the background stays transparent.

    Returns:
        SVG text, the same for the same arguments.
    """
    with plot_style(palette):
        figure = Figure(figsize=(10.4, 5.2))
        FigureCanvasSVG(figure)
        axes = {name: figure.add_axes(place) for name, place in PLACES.items()}
        _draw_plane(axes, histogram, clip_above, dino_below, palette)
        _draw_candidates(axes["beside"], histogram, dino_below, palette)
        axes["beside"].set_ylim(axes["plane"].get_ylim())
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return in_page_type(buffer.getvalue())


def _draw_plane(
    axes: dict[str, Axes],
    histogram: pa.Table,
    clip_above: float,
    dino_below: float,
    palette: Palette,
) -> None:
    """Random pairs and candidates as hexagons, and the corner where the blind pairs are."""
    plane = axes["plane"]
    places = [np.array([[clip_above], [dino_below]]), *(_points(histogram, s)[0] for s in SERIES)]
    everywhere = np.concatenate(places, axis=1)
    plane.set_xlim(everywhere[0].min() - HEXAGON, 1.0)
    low, high = everywhere[1].min() - HEXAGON, everywhere[1].max() + HEXAGON
    plane.set_ylim(low, min(max(high, dino_below + 0.1), 1.0))
    beyond = Rectangle((clip_above, -1), 1 - clip_above, 2, transform=plane.transData)
    for source in SERIES:
        cells = _hexagons(plane, histogram, source, palette)
        if cells is not None and source == "candidates":
            cells.set_clip_path(beyond)
        _draw_scale(axes[source], cells, source, palette)
    corner: dict[str, Any] = {"color": palette.ink, "linewidth": 1.6, "zorder": 5}
    plane.plot([clip_above, clip_above], [-1, dino_below], **corner)
    plane.plot([clip_above, 1], [dino_below, dino_below], **corner)
    blind = f"blind: CLIP > {clip_above:g} and DINO < {dino_below:g}"
    annotate(plane, blind, (clip_above, low), (-8, 9), palette.accent)
    plane.set_xlabel("CLIP cosine")
    plane.set_ylabel("DINO cosine")
    keep_plain(plane)


def _draw_scale(axes: Axes, cells: PolyCollection | None, source: str, palette: Palette) -> None:
    """The colour scale of a source, or nothing where there are no pairs."""
    if cells is None:
        axes.set_axis_off()
        return
    assert axes.figure is not None
    bar = axes.figure.colorbar(cells, cax=axes, orientation="horizontal")
    bar.outline.set_visible(False)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.tick_params(length=0, labelsize=9)
    axes.set_title(f"{SERIES[source]} to a hexagon", fontsize=9.5, color=palette.soft)


def _draw_candidates(axes: Axes, histogram: pa.Table, dino_below: float, palette: Palette) -> None:
    """How many candidates have which DINO cosine; the blind ones in the accent's colour."""
    counts: dict[int, int] = {}
    for row in _rows(histogram, "candidates"):
        counts[row["dino_bin"]] = counts.get(row["dino_bin"], 0) + row["count"]
    width = schema.HISTOGRAM_BIN_WIDTH
    bins = sorted(counts)
    colours = [palette.accent if (b + 0.5) * width < dino_below else palette.soft for b in bins]
    axes.barh(
        [place * width for place in bins],
        [counts[place] for place in bins],
        height=width,
        align="edge",
        linewidth=0.3,
        color=colours,
        # Without it a seam shows between the bars.
        edgecolor=colours,
    )
    axes.axhline(dino_below, color=palette.ink, linewidth=1.6)
    # Room for two words beside the longest bar.
    most = 1.4 * max(counts.values(), default=1)
    axes.set_xlim(0, most)
    annotate(axes, "blind", (most, dino_below), (0, -14), palette.accent)
    annotate(axes, "not blind", (most, dino_below), (0, 6), palette.soft)
    axes.set_xlabel("candidates in each 0.01")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.tick_params(labelleft=False)
    keep_plain(axes)


def _hexagons(
    axes: Axes, histogram: pa.Table, source: str, palette: Palette
) -> PolyCollection | None:
    """The pairs of a source as hexagons, coloured by the logarithm of their number."""
    places, counts = _points(histogram, source)
    if not counts.size:
        return None
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    num_columns = max(2, round((right - left) / HEXAGON))
    # Regular on the screen: the plane is drawn about 1.75 times as wide as high.
    num_rows = max(2, round(num_columns / 1.75 / 3**0.5))
    cells = axes.hexbin(
        places[0],
        places[1],
        C=counts,
        reduce_C_function=np.sum,
        gridsize=(num_columns, num_rows),
        extent=(left, right, low, high),
        cmap=LinearSegmentedColormap.from_list(source, palette.scales[source]),
        linewidths=0.2,
        zorder=2,
    )
    most = float(np.max(np.asarray(cells.get_array())))
    cells.set_norm(LogNorm(vmin=min(1.0, most / 2), vmax=max(most, 10.0)))
    return cells


def _points(histogram: pa.Table, source: str) -> tuple[np.ndarray, np.ndarray]:
    """Points [2, P] and weights [P] that stand for a source's bins, each spread evenly."""
    rows = _rows(histogram, source)
    corners = np.array([[row["clip_bin"], row["dino_bin"]] for row in rows]).reshape(-1, 2).T
    steps = (np.arange(POINTS_PER_BIN) + 0.5) / POINTS_PER_BIN
    inside = np.stack(np.meshgrid(steps, steps)).reshape(2, 1, -1)
    points = ((corners[:, :, None] + inside) * schema.HISTOGRAM_BIN_WIDTH).reshape(2, -1)
    counts = np.array([row["count"] for row in rows], dtype=np.float64)
    return points, np.repeat(counts / POINTS_PER_BIN**2, POINTS_PER_BIN**2)


def _rows(histogram: pa.Table, source: str) -> list[dict[str, Any]]:
    return [row for row in histogram.to_pylist() if row["source"] == source]
