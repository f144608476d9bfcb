"""Flat tables for pandas, DuckDB, Polars and the like: a row for each pair."""

from __future__ import annotations

from miner.handoff.delimited import csv_text, json_lines
from miner.handoff.pairs import IMAGES, PAIRS
from miner.handoff.work import Files, Format, Work

COLUMNS = tuple(
    dict.fromkeys(
        [
            *PAIRS.names,
            *(f"{name}_{n}" for n in (1, 2) for name in IMAGES.names if name != "image_id"),
        ]
    )
)
"""Those of the pair, then those of both images."""

USAGE = """\
`pairs.{name}` has a row for each pair: its cosines, what reviewers say of it, and where both
images are. Values are as they were found, lossless: {form}. Captions come from strangers: a
spreadsheet would take a text that begins with `=`, `+`, `-` or `@` for a formula, so import the
columns as text there.
"""


def write_csv(work: Work) -> Files:
    """Write pairs.csv."""
    with (work.folder / "pairs.csv").open("w", encoding="utf-8", newline="") as file:
        file.writelines(csv_text(COLUMNS, map(work.handoff.flat, work.handoff.pairs)))
    return {}


def write_jsonl(work: Work) -> Files:
    """Write pairs.jsonl."""
    with (work.folder / "pairs.jsonl").open("w", encoding="utf-8", newline="") as file:
        file.writelines(json_lines(map(work.handoff.flat, work.handoff.pairs)))
    return {}


CSV = Format(
    name="csv",
    summary="a flat table for pandas, DuckDB, Polars",
    usage=USAGE.format(
        name="csv",
        form="RFC 4180 in UTF-8, every text in quotes, a null as nothing between two commas "
        "(DuckDB tells it from an empty text with `allow_quoted_nulls = false`)",
    ),
    write=write_csv,
    options=frozenset(),
)

JSONL = Format(
    name="jsonl",
    summary="the same as JSON lines",
    usage=USAGE.format(name="jsonl", form="one JSON object a line, in UTF-8"),
    write=write_jsonl,
    options=frozenset(),
)
