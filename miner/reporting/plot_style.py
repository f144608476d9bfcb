"""How the plots of a report are drawn: colours, letters, and axes without ornament."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass

from matplotlib import style
from matplotlib.axes import Axes


@dataclass(frozen=True, slots=True, kw_only=True)
class Palette:
    """Colours of a plot; `scales` run from few pairs to many, for each source."""

    ink: str
    soft: str
    line: str
    accent: str
    scales: dict[str, tuple[str, str, str]]


LIGHT = Palette(
    ink="#22201d",
    soft="#6f6a63",
    line="#d9d2c8",
    accent="#c2410c",
    scales={
        "random": ("#dbe9ec", "#5aa3b3", "#0f3e4b"),
        "candidates": ("#fad7b5", "#ec8433", "#8f2b05"),
    },
)
DARK = Palette(
    ink="#eceae6",
    soft="#a09b93",
    line="#3a3e48",
    accent="#ff9d5c",
    scales={
        "random": ("#1d3841", "#3f8ea3", "#c9eff7"),
        "candidates": ("#55290f", "#d9722b", "#ffe3c4"),
    },
)


def plot_style(palette: Palette) -> AbstractContextManager[None]:
    """Draw in these colours, with letters as text and the same bytes every time."""
    settings = {
        "svg.hashsalt": "blindpairs",
        "svg.fonttype": "none",
        "font.size": 10.5,
        "text.color": palette.ink,
        "axes.edgecolor": palette.line,
        "axes.labelcolor": palette.ink,
        "xtick.color": palette.soft,
        "ytick.color": palette.soft,
    }
    return style.context(["default", settings])


def in_page_type(svg: str) -> str:
    """A drawing in the page's own typeface: the browser that shows the page draws the letters."""
    return svg.replace("'DejaVu Sans'", "system-ui, 'DejaVu Sans'")


def annotate(
    axes: Axes, text: str, place: tuple[float, float], shift: tuple[int, int], colour: str
) -> None:
    """A word in bold, right-aligned at a place, shifted by points."""
    axes.annotate(
        text,
        xy=place,
        xytext=shift,
        textcoords="offset points",
        ha="right",
        color=colour,
        weight="bold",
        zorder=6,
    )


def keep_plain(axes: Axes) -> None:
    """Axes without a box, a background and tick marks."""
    axes.set_facecolor("none")
    axes.tick_params(length=0)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
