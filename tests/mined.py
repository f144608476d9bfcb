"""What a run on disk holds, for tests of commands."""

import json
from pathlib import Path

import pyarrow.parquet as pq


def work_done(run: Path) -> list[dict[str, int]]:
    """Counts of every shard on which a command worked, in order."""
    (path,) = run.glob("metrics/embed.*.jsonl")
    return [json.loads(line)["counts"] for line in path.read_text().splitlines()]


def raw_bytes(run: Path) -> dict[str, bytes]:
    return {
        path.relative_to(run).as_posix(): path.read_bytes()
        for path in sorted(run.glob("pairs/*/raw/*.parquet"))
    }


def selected(run: Path) -> list[dict[str, str]]:
    (path,) = run.glob("pairs/*/selected.parquet")
    rows: list[dict[str, str]] = pq.read_table(path).to_pylist()
    return rows
