"""A calibration as files: its figures, its curve as CSV and as a plot."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from miner.measuring.calibration import Calibration, Point, Threshold
from miner.records import Json, write_whole

INK, ACCENT, SOFT = "#22201d", "#c2410c", "#6f6a63"

NAMES = ("calibration.json", "calibration.csv", "calibration.svg", "calibration.png")


def write_calibration(found: Calibration, said: Json, folder: Path) -> list[Path]:
    """Write a calibration into a folder; the paths of its files.

    Args:
        found: the calibration.
        said: what else is known: the encoders, the runs, whether images were sampled.
        folder: made where it is not there; files of an earlier calibration are replaced.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / name for name in NAMES]
    figures = {name: value for name, value in asdict(found).items() if name != "curve"}
    write_whole(paths[0], (json.dumps(said | figures, indent=1) + "\n").encode())
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, [field.name for field in fields(Point)])
    table.writeheader()
    table.writerows(asdict(point) for point in found.curve)
    write_whole(paths[1], text.getvalue().encode())
    figure = draw(found, said)
    for path in paths[2:]:
        drawn, is_svg = io.BytesIO(), path.suffix == ".svg"
        # Else the names in an SVG are drawn by chance.
        with rc_context({"svg.hashsalt": "calibration"}):
            figure.savefig(
                drawn, format=path.suffix[1:], dpi=150, metadata={"Date": None} if is_svg else {}
            )
        write_whole(path, drawn.getvalue())
    return paths


def draw(found: Calibration, said: Json) -> Figure:
    """Both curves: shares of pairs against the thresholds that let them through."""
    figure = Figure(figsize=(9.6, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    clip, dino = figure.subplots(1, 2)
    _draw_side(clip, found, "clip", said, found.clip)
    clip.set(yscale="log", xlabel="CLIP cosine", ylabel="share of all pairs above")
    _draw_side(dino, found, "dino", said, found.dino)
    dino.set(xlabel="DINO cosine", ylabel="share of candidates below", ylim=(0, 1))
    return figure


def _draw_side(axes: Axes, found: Calibration, side: str, said: Json, threshold: Threshold) -> None:
    points = [point for point in found.curve if point.side == side]
    rates = [point.rate for point in points]
    dots: dict[str, Any] = {"marker": "o", "markersize": 3, "linewidth": 1.4}
    axes.plot([p.threshold for p in points], rates, color=ACCENT, label=said[side], **dots)
    known = [p.reference for p in points if p.reference is not None]
    if known:
        axes.plot(known, rates, color=SOFT, label=said[f"reference_{side}"], **dots)
    axes.axvspan(threshold.low, threshold.high, color=ACCENT, alpha=0.15, linewidth=0)
    axes.axvline(threshold.value, color=INK, linewidth=1.2)
    axes.legend(frameon=False)
    axes.grid(alpha=0.25)
