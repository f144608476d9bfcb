"""The numbers behind a report's plots as CSV (RFC 4180) that a spreadsheet takes as data alone."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

import pyarrow as pa

from miner import schema

CsvCell = str | int | float

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
"""A cell that begins so is a formula to a spreadsheet."""

COSINES = ("source", "clip_from", "clip_to", "dino_from", "dino_to", "count")
"""Columns of cosines.csv."""


def csv_text(columns: Sequence[str], rows: Iterable[Sequence[CsvCell]]) -> str:
    """Rows as CSV: CRLF after each, cells quoted where they need it.

    Args:
        columns: their names.
        rows: cells, one to a column. A text that a spreadsheet would take for a formula gets an
            apostrophe before it; numbers stay as they are.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\r\n")
    writer.writerow(columns)
    writer.writerows([_cell(cell) for cell in row] for row in rows)
    return buffer.getvalue()


def _cell(cell: CsvCell) -> CsvCell:
    if isinstance(cell, str) and cell.startswith(FORMULA_STARTS):
        return f"'{cell}"
    return cell


def cosine_rows(histogram: pa.Table) -> list[list[CsvCell]]:
    """The bins of the table `histogram` by their edges, as rows of cosines.csv."""
    width = schema.HISTOGRAM_BIN_WIDTH
    return [
        [
            row["source"],
            *(
                round((row[n] + step) * width, 2)
                for n in ("clip_bin", "dino_bin")
                for step in (0, 1)
            ),
            row["count"],
        ]
        for row in histogram.to_pylist()
    ]
