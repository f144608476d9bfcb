"""Rows as CSV or JSON lines from which a reader gets back the very same values."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from miner.records import Json, canonical

Cell = str | int | float | bool | None


def csv_text(columns: Sequence[str], rows: Iterable[Json]) -> Iterable[str]:
    """Rows as lines of CSV (RFC 4180), the header first.

    Every text is quoted, so that a null (nothing) is told from an empty text (""), and none is
    altered: a text that begins as a formula does stays as it is, since this is for programs.

    Args:
        columns: their names, in order.
        rows: with a value for each column.
    """
    yield _line(columns)
    for row in rows:
        yield _line([row[name] for name in columns])


def _line(cells: Sequence[Cell]) -> str:
    return ",".join(map(_cell, cells)) + "\r\n"


def _cell(value: Cell) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + value.replace('"', '""') + '"'
    return repr(value)


def json_lines(rows: Iterable[Json]) -> Iterable[str]:
    """Rows as JSON, one to a line."""
    for row in rows:
        # Some readers take U+2028 and its like for ends of lines.
        yield (
            canonical(row)
            .replace("\u2028", "\\u2028")
            .replace("\u2029", "\\u2029")
            .replace("\x85", "\\u0085")
            + "\n"
        )
