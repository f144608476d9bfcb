"""The numbers behind a report's plots: the threshold grid, gaps, survival, pairs per image.

Shape suffixes: P pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from miner import schema
from miner.records import Json

GRID_STEPS = (0.001, 0.002, 0.005, 0.01)
"""Widths of the threshold grid in cosine; the finest that MAX_CELLS allows is taken."""

MAX_CELLS = 40_000
"""Cells of the threshold grid that hold pairs, at most: half a megabyte of the page."""

CELL_STRIDE = 2**16
"""More than there are places of a cosine on the finest grid."""

GAP_WIDTH = 0.01
"""Bins of the gap."""

CLIP_WIDTH = 0.001
"""Steps of the CLIP threshold for blind pairs: most lie within 0.05 of cosine."""

DINO_WIDTH = 0.01
"""Steps of the DINO threshold."""

DECIMALS = 9
"""Edges are rounded to so many decimals, so that 0.95 + 3 * 0.001 is the number 0.953."""

Survival = list[tuple[str, float, int, float]]
"""Rows of a survival curve: whose, threshold, pairs left, share of all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ThresholdGrid:
    """How many rows of `raw` each pair of thresholds keeps.

    Cell (k, m) counts pairs with `clip_above + k step < CLIP <= clip_above + (k + 1) step` and
    `dino_below + m step <= DINO < dino_below + (m + 1) step`, of the join's own thresholds; so
    those that CLIP > clip_above + k step and DINO < dino_below + m step keep are the sum over all
    cells from k on and below m.

    Attributes:
        step: width of a cell in either cosine.
        cells: [C, 3] int64: k, m, count; ordered.
    """

    step: float
    cells: np.ndarray


def edges(anchor: float, places: np.ndarray, step: float) -> np.ndarray:
    """The edges with these numbers of a grid that has one at `anchor`."""
    return np.round(anchor + places * step, DECIMALS)


def bins_of(
    values_P: np.ndarray, anchor: float, step: float, *, closed: Literal["left", "right"]
) -> np.ndarray:
    """The number of the bin of each value, where bin n reaches from edge n to edge n + 1.

    Args:
        values_P: [P], any float dtype; compared with the edges as float64.
        anchor: edge 0.
        step: width of a bin.
        closed: `left` for edge n <= value < edge n + 1, `right` for edge n < value <= edge n + 1.
    """
    values = values_P.astype(np.float64)
    # Division may err by one, so the neighbours are compared.
    near = np.floor((values - anchor) / step).astype(np.int64)
    passed = np.greater_equal if closed == "left" else np.greater
    found: np.ndarray = near - 1
    for place in (near, near + 1):
        found = found + passed(values, edges(anchor, place, step))
    return found


def blind_mask(raw: pa.Table) -> np.ndarray:
    """Which rows of `raw` are blind: all, unless it reaches beyond the thresholds."""
    if "blind" not in raw.column_names:
        return np.ones(raw.num_rows, dtype=bool)
    mask: np.ndarray = raw["blind"].to_numpy()
    return mask


def reach_of(record: Json) -> tuple[float, float]:
    """How far `raw` reaches: it holds the pairs with CLIP above and DINO below these."""
    keep_clip, keep_dino = record["keep_clip"], record["keep_dino"]
    return (
        record["clip_above"] if keep_clip is None else keep_clip,
        record["dino_below"] if keep_dino is None else keep_dino,
    )


def threshold_grid(raw: pa.Table, record: Json, *, max_cells: int = MAX_CELLS) -> ThresholdGrid:
    """Count the rows of `raw` on a grid of both cosines.

    Args:
        raw: all rows.
        record: the content of join.json.
        max_cells: cells that may hold pairs, unless the widest step needs more.
    """
    cells = np.empty((0, 3), np.int64)
    step = GRID_STEPS[0]
    for step in GRID_STEPS:
        k, m = _places(raw, record, step)
        # One number to a cell: numpy sorts numbers much faster than rows.
        cell, counts = np.unique(k * CELL_STRIDE + m, return_counts=True)
        places = (cell + CELL_STRIDE // 2) // CELL_STRIDE
        cells = np.stack([places, cell - places * CELL_STRIDE, counts], axis=1)
        if len(cells) <= max_cells:
            break
    return ThresholdGrid(step=step, cells=cells)


def _places(raw: pa.Table, record: Json, step: float) -> tuple[np.ndarray, np.ndarray]:
    """The cell of each row, on the sides of all thresholds on which the join put it.

    The join decides in float64, `raw` keeps float32: a cosine next to a threshold may be rounded
    to its other side.
    """
    clip, dino = (raw[name].to_numpy().astype(np.float64) for name in ("clip_cos", "dino_cos"))
    clip_above, dino_below = record["clip_above"], record["dino_below"]
    k = bins_of(clip, clip_above, step, closed="right")
    m = bins_of(dino, dino_below, step, closed="left")
    keep_clip, keep_dino = reach_of(record)
    k = np.maximum(k, int(np.floor((keep_clip - clip_above) / step + 1e-6)))
    m = np.minimum(m, int(np.ceil((keep_dino - dino_below) / step - 1e-6)) - 1)
    blind = blind_mask(raw)
    k[blind], m[blind] = np.maximum(k[blind], 0), np.minimum(m[blind], -1)
    seems_blind = ~blind & (k >= 0) & (m < 0)
    by_clip = np.abs(clip - clip_above) < np.abs(dino - dino_below)
    k[seems_blind & by_clip], m[seems_blind & ~by_clip] = -1, 0
    return k, m


def gap_rows(raw: pa.Table) -> list[tuple[float, float, int]]:
    """The gaps of the blind pairs in bins of GAP_WIDTH: from, up to but not including, pairs.

    Empty bins between the first and the last are there, too.
    """
    gaps = raw["gap"].to_numpy()[blind_mask(raw)]
    if not len(gaps):
        return []
    places = bins_of(gaps, 0.0, GAP_WIDTH, closed="left")
    first = int(places.min())
    counts = np.bincount(places - first)
    at = edges(0.0, np.arange(first, first + len(counts) + 1), GAP_WIDTH).tolist()
    return list(zip(at[:-1], at[1:], counts.tolist(), strict=True))


def survival_rows(
    raw: pa.Table, histogram: pa.Table, record: Json, kind: Literal["clip", "dino"]
) -> Survival:
    """How many candidates, and how many blind pairs, a stricter threshold leaves.

    Args:
        raw: all rows; its blind pairs are counted one by one.
        histogram: the table `histogram`, by which candidates are counted at the edges of its bins.
        record: the content of join.json.
        kind: of which cosine: pairs with CLIP above, or with DINO below, each threshold.
    """
    values = raw[f"{kind}_cos"].to_numpy()[blind_mask(raw)]
    ones = np.ones(len(values), dtype=np.int64)
    candidates = histogram.filter(pc.equal(histogram["source"], "candidates"))
    binned = candidates[f"{kind}_bin"].to_numpy().astype(np.int64)
    counts, width = candidates["count"].to_numpy(), schema.HISTOGRAM_BIN_WIDTH
    if kind == "clip":
        least = record["clip_above"]
        places = np.maximum(bins_of(values, least, CLIP_WIDTH, closed="right"), 0)
        blind = _from_above(least, CLIP_WIDTH, places, ones)
        counted = _not_below(least, _from_above(0.0, width, binned, counts))
    else:
        most = record["dino_below"]
        places = np.minimum(bins_of(values, most, DINO_WIDTH, closed="left"), -1)
        blind = _from_below(most, DINO_WIDTH, places, ones)
        counted = _from_below(0.0, width, binned, counts)
    return [
        (whose, at, number, number / total)
        for whose, points in (("candidates", counted), ("blind pairs", blind))
        for total in [max((number for _, number in points), default=0)]
        for at, number in points
    ]


def _from_above(
    anchor: float, step: float, places: np.ndarray, counts: np.ndarray
) -> list[tuple[float, int]]:
    """For each lower edge from the first bin to the last, what is in the bins from there on."""
    if not len(places):
        return []
    first, binned = _summed(places, counts)
    at = edges(anchor, np.arange(first, first + len(binned)), step)
    return list(zip(at.tolist(), np.cumsum(binned[::-1])[::-1].tolist(), strict=True))


def _from_below(
    anchor: float, step: float, places: np.ndarray, counts: np.ndarray
) -> list[tuple[float, int]]:
    """For each upper edge from the first bin to the last, what is in the bins up to there."""
    if not len(places):
        return []
    first, binned = _summed(places, counts)
    at = edges(anchor, np.arange(first, first + len(binned)) + 1, step)
    return list(zip(at.tolist(), np.cumsum(binned).tolist(), strict=True))


def _summed(places: np.ndarray, counts: np.ndarray) -> tuple[int, np.ndarray]:
    """The first bin, and the sum of the counts in each from it to the last."""
    first = int(places.min())
    binned = np.zeros(int(places.max()) - first + 1, dtype=np.int64)
    np.add.at(binned, places - first, counts)
    return first, binned


def _not_below(least: float, points: list[tuple[float, int]]) -> list[tuple[float, int]]:
    """Without edges below a threshold, of which the last has what the threshold has."""
    below = [number for at, number in points if at < least]
    kept = [(at, number) for at, number in points if at >= least]
    if below and (not kept or kept[0][0] > least):
        return [(least, below[-1]), *kept]
    return kept


def partner_rows(raw: pa.Table) -> list[tuple[int, int]]:
    """In how many blind pairs images are: (pairs, images with so many), by pairs."""
    blind = raw.filter(pa.array(blind_mask(raw)))
    both = pa.chunked_array([*blind["image_1"].chunks, *blind["image_2"].chunks], pa.string())
    degrees = pc.value_counts(both).field("counts").to_numpy()
    num_pairs, num_images = np.unique(degrees, return_counts=True)
    return list(zip(num_pairs.tolist(), num_images.tolist(), strict=True))
