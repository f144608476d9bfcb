"""Decisions of made-up reviewers on the pairs of a run."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from miner.pairs import pair_id
from miner.records import Json
from miner.review import Decision, encode_decisions

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
ONE, TWO, THREE = ("1" * 64, "2" * 64, "3" * 64)


def selected_rows(folder: Path) -> list[Json]:
    """The rows of a join's `selected`."""
    rows: list[Json] = pq.ParquetFile(folder / "selected.parquet").read().to_pylist()
    return rows


def said_of(row: Json, reviewer: str, *, minutes: float = 0, **fields: Any) -> Decision:
    """A decision on a pair of `selected`."""
    about = {name: row[name] for name in ("sha256_1", "sha256_2", "image_1", "image_2")}
    when = NOON + timedelta(minutes=minutes)
    return Decision(
        **about,
        pair_id=pair_id(row["sha256_1"], row["sha256_2"]),
        reviewer=reviewer,
        decided_at=when,
        **fields,
    )


def said_of_number(number: int, reviewer: str, **fields: Any) -> Decision:
    """A decision on a pair of images that no run has."""
    row = {"sha256_1": f"{number:064x}", "sha256_2": "f" * 64, "image_1": "", "image_2": ""}
    return said_of(row, reviewer, **fields)


def write_review(path: Path, *decisions: Decision) -> Path:
    """A file of decisions."""
    path.write_bytes(encode_decisions(decisions))
    return path


def said(reviewer: str = "ann", *, minutes: float = 0, **fields: Any) -> Decision:
    """A decision on the images ONE and TWO, or on those that the fields name."""
    row = {"sha256_1": ONE, "sha256_2": TWO, "image_1": "", "image_2": ""}
    row |= {name: fields.pop(name) for name in tuple(row) if name in fields}
    return said_of(row, reviewer, minutes=minutes, **fields)
