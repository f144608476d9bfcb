"""The data of the plot with the movable threshold corner.

Three kinds of counts, each where it is the best there is: the pairs of `raw`, one by one, as far
as `raw` reaches; all candidates beyond it, by the histogram's bins; and below the CLIP threshold of
the candidates an estimate by the histogram's random pairs.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from miner import schema
from miner.records import Json
from miner.reporting.csv_text import CsvCell
from miner.reporting.figures import ThresholdGrid, edges, reach_of

BEYOND = 0.05
"""How far below `raw` the CLIP threshold may be moved, where random pairs tell what lies there."""

GRID_COLUMNS = ("clip_from", "clip_to", "dino_from", "dino_to", "num_pairs")
"""Columns of thresholds.csv."""


def grid_rows(grid: ThresholdGrid, record: Json) -> list[list[CsvCell]]:
    """The cells of a grid by their edges, as rows of thresholds.csv."""
    k, m, counts = grid.cells.T
    sides = [
        edges(record[name], places + more, grid.step)
        for name, places in (("clip_above", k), ("dino_below", m))
        for more in (0, 1)
    ]
    return [
        [*row, number]
        for *row, number in zip(*(side.tolist() for side in sides), counts.tolist(), strict=True)
    ]


def corner_data(grid: ThresholdGrid, histogram: pa.Table, record: Json) -> Json:
    """JSON for the page's script.

    Args:
        grid: of `raw`.
        histogram: the table `histogram`.
        record: the content of join.json.

    Returns:
        Thresholds, how far raw reaches, the grid's cells and the histogram's bins as flat lists of
        (CLIP place, DINO place, count), and how many pairs stand behind them.
    """
    reach = reach_of(record)
    candidates, random = (
        histogram.filter(pc.equal(histogram["source"], source))
        for source in ("candidates", "random")
    )
    num_random = pc.sum(random["count"]).as_py() or 0
    clip_from = reach[0] - (BEYOND if num_random else 0)
    first = int(clip_from / schema.HISTOGRAM_BIN_WIDTH) - 1
    near = random.filter(pc.greater_equal(random["clip_bin"], pa.scalar(first, pa.int16())))
    return {
        "clip_above": record["clip_above"],
        "dino_below": record["dino_below"],
        "reach": list(reach),
        "clip_from": max(clip_from, -1.0),
        "step": grid.step,
        "bin_width": schema.HISTOGRAM_BIN_WIDTH,
        "cells": grid.cells.ravel().tolist(),
        "candidates": _flat(candidates),
        "random": _flat(near),
        "num_random": num_random,
        "num_pairs": record["counts"]["pairs"],
        "num_blind": record["counts"]["blind"],
        "num_cut": record["counts"]["cut_pairs"],
    }


def _flat(bins: pa.Table) -> list[int]:
    columns = [bins[name].to_pylist() for name in ("clip_bin", "dino_bin", "count")]
    return [number for row in zip(*columns, strict=True) for number in row]
