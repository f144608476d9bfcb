"""Figures as CSV: one table of all measures, one of every pair, one of compared encoders.

Names come from files of other people, and spreadsheets run what looks like a formula: such a name
gets an apostrophe in front.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

from miner.evaluate import Evaluation
from miner.measuring.compare import Compared

Cell = str | int | float | None


def figures_csv(evaluation: Evaluation) -> str:
    """Every figure: a row for each subset and measure, with its interval and chance."""
    header = ("model", "subset", "measure", "num_statements", "num", "value", "low", "high")
    rows = (
        (
            *(evaluation.model, figure.subset, figure.measure, figure.num_statements or None),
            *(figure.estimate.num, figure.estimate.value, figure.estimate.low),
            *(figure.estimate.high, figure.chance),
        )
        for figure in evaluation.figures
    )
    return _csv((*header, "chance"), rows)


def pairs_csv(evaluation: Evaluation) -> str:
    """Every pair: what was found of it, by measure; empty where a measure means nothing."""
    kinds = [*dict.fromkeys(kind for outcome in evaluation.outcomes for kind in outcome)]
    pairs_of = {kind: 2 if kind[0] == "individual" else 1 for kind in kinds}
    names = [
        f"{measure}{f'_of_{ways}' if ways > 2 else ''}{f'_{n + 1}' if pairs_of[kind] == 2 else ''}"
        for kind in kinds
        for measure, ways in [kind]
        for n in range(pairs_of[kind])
    ]
    rows = []
    for item, outcome in zip(evaluation.labelled.items, evaluation.outcomes, strict=True):
        values: list[Cell] = []
        for kind in kinds:
            found = list(outcome.get(kind, ()))
            values += [int(v) if isinstance(v, bool) else v for v in found]
            values += [None] * (pairs_of[kind] - len(found))
        images = [source.name for source in item.images]
        rows.append((item.name, item.subset, *images, *item.statements[:2], *values))
    header = ("pair", "subset", "image_1", "image_2", "statement_1", "statement_2", *names)
    return _csv(header, rows)


def compared_csv(compared: Sequence[Compared], measure: str) -> str:
    """Every share of every encoder: a row for each encoder and subset, then its average."""
    header = (
        *("encoder", "pixels", "parameters_m", "above", "measure", "subset", "num", "value"),
        *("low", "high"),
    )
    rows: list[tuple[Cell, ...]] = []
    for each in compared:
        first = (each.encoder_id, each.pixels, round(each.parameters_m, 3), each.above, measure)
        rows += [
            (*first, subset, share.num, share.value, share.low, share.high)
            for subset, share in each.shares.items()
        ]
        rows.append((*first, "average of the subsets", None, each.average, None, None))
    return _csv(header, rows)


def _csv(header: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([_cell(cell) for cell in row] for row in rows)
    return buffer.getvalue()


def _cell(cell: Cell) -> Cell:
    if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r")):
        return f"'{cell}"
    return cell
