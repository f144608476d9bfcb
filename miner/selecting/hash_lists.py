"""Lists of hashes of images, in files of unknown origin.

text            a sha256 (64 hex digits) or a phash (16) on each line, or what sha256sum prints
.csv, Parquet   columns sha256 and phash, also with the suffixes _1 and _2 of a table of pairs
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from miner.errors import ResourceError

HASH_COLUMN = re.compile(r"(sha256|phash)(_[12])?", re.IGNORECASE)
"""Columns of a table that are read."""

SHA256SUM = re.compile(r"\\?([0-9a-f]{64})[ ][ *].+", re.IGNORECASE)
"""A line of sha256sum: hash and name, behind a backslash where the name has escapes."""

_SHA256, _PHASH = re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9a-f]{16}")
_DECIMAL = re.compile(r"-?[0-9]{1,20}")

Hash = tuple[str, str, str]
"""Where it stands, `sha256` or `phash`, and its hex digits in lower case."""


def read_hashes(path: Path) -> list[Hash]:
    """The hashes in a file, in its order.

    Raises:
        ResourceError: it cannot be read, or holds something else.
    """
    try:
        with path.open("rb") as file:
            is_parquet = file.read(4) == b"PAR1"
        if is_parquet:
            return list(_rows_of_table(path))
        is_csv = path.suffix.lower() == ".csv"
        return list(_rows_of_csv(path) if is_csv else _rows_of_text(path))
    except (OSError, ValueError, csv.Error, pa.ArrowException) as error:
        raise ResourceError(
            f"--not-in {path} cannot be read ({error}); give UTF-8 text with a sha256 (64 hex "
            "digits) or phash (16) on each line, or a CSV or Parquet table with such columns"
        ) from error


def _checked(name: str, kind: str, value: str) -> Hash:
    text = value.strip().lower()
    pattern, num_digits = (_SHA256, 64) if kind == "sha256" else (_PHASH, 16)
    if not pattern.fullmatch(text):
        raise ValueError(f"{name}: {value[:80]!r} is no {kind}, which has {num_digits} hex digits")
    return name, kind, text


def _rows_of_text(path: Path) -> Iterator[Hash]:
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if text := line.strip():
                summed = SHA256SUM.fullmatch(text)
                text = summed[1] if summed else text
                kind = "phash" if len(text) <= 16 else "sha256"
                yield _checked(f"line {number}", kind, text)


def _rows_of_csv(path: Path) -> Iterator[Hash]:
    with path.open(encoding="utf-8-sig", newline="") as lines:
        rows = csv.reader(lines, strict=True)
        header = next(rows, [])
        columns = _hash_columns(header)
        decimal = {place for place, kind in columns if kind == "phash" and _is_decimal(path, place)}
        for number, row in enumerate(rows, start=2):
            for place, kind in columns:
                if place < len(row) and (text := row[place].strip()):
                    name = f"row {number}, column {header[place].strip()}"
                    # int64 wraps what uint64 holds.
                    text = f"{int(text) % 2**64:016x}" if place in decimal else text
                    yield _checked(name, kind, text)


def _is_decimal(path: Path, place: int) -> bool:
    """Whether a column of phash holds decimal numbers, as spreadsheets write them.

    All of it has to, and one number at least be none of 16 digits, which are hex.
    """
    with path.open(encoding="utf-8-sig", newline="") as lines:
        rows = csv.reader(lines, strict=True)
        next(rows, [])
        texts = {row[place].strip() for row in rows if place < len(row)} - {""}
    are_numbers = all(_DECIMAL.fullmatch(text) and _fits(int(text)) for text in texts)
    return are_numbers and any(len(text) != 16 for text in texts)


def _fits(number: int) -> bool:
    return -(2**63) <= number < 2**64


def _rows_of_table(path: Path) -> Iterator[Hash]:
    file = pq.ParquetFile(path)
    names = file.schema_arrow.names
    columns = [(names[place], kind) for place, kind in _hash_columns(names)]
    number = 0
    for batch in file.iter_batches(columns=[name for name, _ in columns]):
        values = [batch[name].to_pylist() for name, _ in columns]
        for row in zip(*values, strict=True):
            number += 1
            for (_, kind), value in zip(columns, row, strict=True):
                if value is not None:
                    # Whole numbers are how `samples` keeps them; int64 wraps what uint64 holds.
                    is_number = kind == "phash" and isinstance(value, int)
                    text = f"{value % 2**64:016x}" if is_number else str(value)
                    yield _checked(f"row {number}", kind, text)


def _hash_columns(names: list[str]) -> list[tuple[int, str]]:
    """Places of the columns that hold hashes, and of which kind."""
    found = [(place, HASH_COLUMN.fullmatch(name.strip())) for place, name in enumerate(names)]
    columns = [(place, match[1].lower()) for place, match in found if match]
    if not columns:
        raise ValueError(f"none of its columns ({', '.join(names)[:200]}) is sha256 or phash")
    return columns
