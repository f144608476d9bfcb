"""The plots of a report: what each says, the rows of its CSV, and what the page draws of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa

from miner.records import Json
from miner.reporting import figures
from miner.reporting.clusters import MAX_PAIRS, Cluster, cluster_pairs
from miner.reporting.corner import GRID_COLUMNS, corner_data, grid_rows
from miner.reporting.cosine_plot import draw_cosines
from miner.reporting.csv_text import COSINES, CsvCell, cosine_rows, csv_text
from miner.reporting.groups import decided_on, pattern_rows, source_rows
from miner.reporting.plot_style import DARK, LIGHT
from miner.review import Decision, consensus
from miner.store import Store

MAX_COLUMNS = 40
"""Columns that the histogram of gaps is drawn with, at most."""

MAX_SOURCES = 20
"""Sources that are drawn; the others are drawn as one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """A plot of the page.

    Attributes:
        name: of its CSV, without the extension, and of its place on the page.
        title: what it shows, as a message.
        note: of what it is made.
        columns: of its CSV.
        rows: likewise.
        drawing: what the page's script draws.
    """

    name: str
    title: str
    note: str
    columns: Sequence[str]
    rows: Sequence[Sequence[CsvCell]]
    drawing: Json = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plots:
    """All plots of a page.

    Attributes:
        corner: data of the plot with the movable threshold corner.
        plots: the others, in the order in which they are shown.
    """

    corner: Json
    plots: Sequence[Plot]

    @property
    def data(self) -> Json:
        """JSON for the page's script."""
        return {"corner": self.corner, "plots": {plot.name: plot.drawing for plot in self.plots}}


def write_plots(
    store: Store,
    name: str,
    record: Json,
    selected: pa.Table,
    decisions: Sequence[Decision],
    report: Path,
) -> Plots:
    """Draw the hexbin, write every plot's numbers as CSV, and give what the page draws itself.

    Args:
        store: the run directory.
        name: the join's.
        record: the content of join.json.
        selected: all rows of `selected`.
        decisions: those that the run keeps.
        report: the folder of the report.
    """
    raw = store.raw(name)
    histogram = store.read_table(f"pairs/{name}/histogram.parquet")
    for scheme, palette in (("light", LIGHT), ("dark", DARK)):
        thresholds = {word: record[word] for word in ("clip_above", "dino_below")}
        picture = draw_cosines(histogram, **thresholds, palette=palette)
        (report / f"cosines-{scheme}.svg").write_text(picture, "utf-8", newline="\n")
    grid = figures.threshold_grid(raw, record)
    plots = [
        *_of_cosines(raw, histogram, record),
        *_of_decisions(raw, decisions),
        _sources(selected),
        _clusters(cluster_pairs(store, record, selected), len(selected)),
    ]
    tables = [
        ("cosines", COSINES, cosine_rows(histogram)),
        ("thresholds", GRID_COLUMNS, grid_rows(grid, record)),
        *((plot.name, plot.columns, plot.rows) for plot in plots),
    ]
    for table, columns, rows in tables:
        (report / f"{table}.csv").write_text(csv_text(columns, rows), "utf-8", newline="\n")
    return Plots(corner=corner_data(grid, histogram, record), plots=plots)


def _of_cosines(raw: pa.Table, histogram: pa.Table, record: Json) -> list[Plot]:
    return [
        _gaps(raw),
        _survival(raw, histogram, record, "clip"),
        _survival(raw, histogram, record, "dino"),
        _pairs_per_image(raw),
    ]


def _gaps(raw: pa.Table) -> Plot:
    gaps = raw["gap"].to_numpy()[figures.blind_mask(raw)]
    rows = figures.gap_rows(raw)
    title = f"Half of the blind pairs have a gap above {np.median(gaps):.2f}" if rows else NONE
    places = [round(row[0] / figures.GAP_WIDTH) for row in rows]
    width = next(
        (w for w in (1, 2, 5) if not rows or places[-1] // w - places[0] // w < MAX_COLUMNS), 10
    )
    bars: dict[int, int] = {}
    for place, (*_, number) in zip(places, rows, strict=True):
        bars[place // width] = bars.get(place // width, 0) + number
    step = width * figures.GAP_WIDTH
    return Plot(
        name="gaps",
        title=title,
        note=f"CLIP cosine minus DINO cosine of {len(gaps):,} blind pairs, in steps of {step:g}.",
        columns=("gap_from", "gap_to", "num_pairs"),
        rows=rows,
        drawing={
            "kind": "columns",
            "axis": "CLIP cosine \N{MINUS SIGN} DINO cosine",
            "unit": "pairs",
            "columns": [[round(at * step, 2), round((at + 1) * step, 2), bars[at]] for at in bars],
        },
    )


NONE = "There is no blind pair"


def _survival(
    raw: pa.Table, histogram: pa.Table, record: Json, kind: Literal["clip", "dino"]
) -> Plot:
    is_clip = kind == "clip"
    name, sign = ("CLIP", ">") if is_clip else ("DINO", "<")
    threshold = "clip_above" if is_clip else "dino_below"
    values = raw[f"{kind}_cos"].to_numpy()[figures.blind_mask(raw)]
    rows = figures.survival_rows(raw, histogram, record, kind)
    half = f"{np.median(values):.3f}" if len(values) else ""
    series = [
        {"name": whose, "points": [[at, number] for of, at, number, _ in rows if of == whose]}
        for whose in ("candidates", "blind pairs")
    ]
    return Plot(
        name=f"survival_{kind}",
        title=f"Half of the blind pairs have {name} {sign} {half}" if half else NONE,
        note=(
            f"Pairs that a {'higher CLIP' if is_clip else 'lower DINO'} threshold leaves; "
            "on a logarithmic scale."
        ),
        columns=("of", threshold, "num_pairs", "share"),
        rows=rows,
        drawing={
            "kind": "curves",
            "axis": f"{name} cosine {'above' if is_clip else 'below'}",
            "sign": sign,
            "threshold": record[threshold],
            "series": series,
        },
    )


def _pairs_per_image(raw: pa.Table) -> Plot:
    rows = figures.partner_rows(raw)
    images = sum(number for _, number in rows)
    single = sum(number for pairs, number in rows if pairs == 1)
    bins: dict[int, int] = {}
    for pairs, number in rows:
        place = (pairs - 1).bit_length()
        bins[place] = bins.get(place, 0) + number
    columns = []
    for place in range(max(bins, default=-1) + 1):
        low, high = 2**place // 2 + 1, 2**place
        label = f"{high:,}" if high - low < 1 else f"{low:,}\N{EN DASH}{high:,}"
        columns.append([label, bins.get(place, 0)])
    return Plot(
        name="pairs_per_image",
        title=f"{single:,} of {images:,} images are in one blind pair only" if rows else NONE,
        note="Images by the number of blind pairs that they are in; both on a logarithmic scale.",
        columns=("num_pairs", "num_images"),
        rows=rows,
        drawing={"kind": "ranges", "axis": "blind pairs of an image", "columns": columns},
    )


def _of_decisions(raw: pa.Table, decisions: Sequence[Decision]) -> list[Plot]:
    decided = decided_on(raw, consensus(decisions))
    if not decided:
        return []
    rows = pattern_rows(decided)
    accepted, rejected = sum(row[2] for row in rows), sum(row[3] for row in rows)
    return [
        Plot(
            name="patterns",
            title=f"{accepted:,} of {len(decided):,} reviewed pairs are accepted",
            note=f"By visual pattern, as the reviewers together say; {rejected:,} are rejected.",
            columns=("pattern", "name", "num_accepted", "num_rejected", "num_undecided"),
            rows=rows,
            drawing={
                "kind": "bars",
                "parts": ["accepted", "undecided", "rejected"],
                "bars": [
                    {"label": f"{number or ''} {name}".strip(), "counts": [yes, open_, no]}
                    for number, name, yes, no, open_ in rows
                ],
            },
        )
    ]


def _sources(selected: pa.Table) -> Plot:
    rows = source_rows(selected)
    shown, rest = rows[:MAX_SOURCES], rows[MAX_SOURCES:]
    bars = [
        {"label": source, "note": f"{images:,} images", "counts": [pairs]}
        for source, _, pairs, images in shown
    ]
    if rest:
        bars.append(
            {
                "label": f"{len(rest):,} others",
                "note": f"{sum(row[3] for row in rest):,} images",
                "counts": [sum(row[2] for row in rest)],
            }
        )
    title = {0: "No pair was selected", 1: "The selected pairs come from one source"}
    return Plot(
        name="sources",
        title=title.get(len(rows), f"The selected pairs come from {len(rows):,} sources"),
        note=(
            "Selected pairs by the host of an image's web address, or its dataset where it has "
            "none; a pair of two sources counts for each."
        ),
        columns=("source", "kind", "num_pairs", "num_images"),
        rows=rows,
        drawing={"kind": "bars", "parts": ["pairs"], "bars": bars},
    )


def _clusters(found: list[Cluster] | str, num_selected: int) -> Plot:
    columns = ("cluster", "num_pairs", "medoid_rank", "medoid_pair_id", "words")
    if isinstance(found, str):
        title = "The selected pairs are not grouped"
        return Plot(name="clusters", title=title, note=f"{found}.", columns=columns, rows=[])
    which = "" if num_selected <= MAX_PAIRS else f"The best {MAX_PAIRS:,} by rank. "
    return Plot(
        name="clusters",
        title=f"The selected pairs in {len(found)} groups of like pictures",
        note=(
            f"{which}Grouped by their vectors (k-means). A group goes by the words that its "
            "captions have more often than the others', and by its most typical pair."
        ),
        columns=columns,
        rows=[
            (number, each.num_pairs, each.rank, each.pair_id, " ".join(each.words))
            for number, each in enumerate(found, start=1)
        ],
        drawing={
            "kind": "bars",
            "parts": ["pairs"],
            "bars": [
                {
                    "label": " ".join(each.words) or "no words of its own",
                    "note": f"as #{each.rank}",
                    "counts": [each.num_pairs],
                }
                for each in found
            ],
        },
    )
