"""Runs with reviewed pairs, and whole folders as bytes, for tests of hand-offs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from miner.handoff.deliver import Delivery, hand_off
from miner.handoff.settings import HandoffSettings
from miner.records import Json
from miner.review import Decision
from miner.reviewing.kept import keep_decisions
from miner.store import Store
from tests.report_runs import Shot, encoded, make_run, turned

HOSTILE = (
    '=HYPERLINK("https://example.org";"x")',
    'quotes " and "" and \' and `',
    "lines\r\nand\nand\rand\ttabs, commas; semicolons",
    "</script><img src=x onerror=alert(1)> &amp; ]]> $image_1 {{ 7*7 }}",
    "\u2028 \u202e \u00e9\u0308 \U0001f600 NA null",
    "../../etc/passwd",
    "",
    " a blank at both ends ",
)
"""Captions that a careless writer would break on, or act upon."""

SHOTS = (
    *(Shot(data=encoded(number), caption=text) for number, text in enumerate(HOSTILE)),
    Shot(data=encoded(20, "PNG"), extension="png", format="PNG", label="7", caption=None),
    Shot(data=encoded(21, "WEBP"), extension="webp", format="WEBP", url="https://a.example/b?w=9"),
    Shot(data=turned(22), exif_orientation=6, url="https://me:pass@a.example/c?token=secret"),
    Shot(data=encoded(23, size=(900, 700)), url="https://a.example/d.jpg"),
)
"""One image of every kind; all pairs of them are blind."""


def many_shots(number: int) -> list[Shot]:
    """Shots that differ, and are small."""
    return [Shot(data=encoded(100 + seed, size=(40, 32))) for seed in range(number)]


def run_of(root: Path, shots: Sequence[Shot] = SHOTS) -> Store:
    """A run whose selected pairs are all pairs of these images."""
    return make_run(root, shots)[0]


def selected_of(store: Store) -> list[Json]:
    """The selected pairs of its one join, by rank."""
    rows: list[Json] = store.read_table(f"pairs/{store.joins()[0]}/selected.parquet").to_pylist()
    return rows


def review(store: Store, rows: Sequence[Json], **said: Any) -> None:
    """Accept pairs; `said` are further fields, in which {n} stands for the pair's rank."""
    keep_decisions(store, [decision_on(row, **said) for row in rows])


def decision_on(row: Json, **said: Any) -> Decision:
    """A reviewer's word on a pair: accepted, unless `said` says otherwise."""
    texts = {k: v.format(n=row["rank"]) if isinstance(v, str) else v for k, v in said.items()}
    fields: Json = {
        "pair_id": row["pair_id"],
        "sha256_1": row["sha256_1"],
        "sha256_2": row["sha256_2"],
        "reviewer": "ann",
        "decision": "accept",
        "decided_at": datetime(2026, 1, 31, 12, tzinfo=UTC),
    }
    return Decision(**{**fields, **texts})


QUESTION = {
    "pattern": 4,
    "question": "How many, {n}?",
    "option_1": "one of {n}",
    "option_2": "two of {n}",
}
"""What a pair needs to become a question, and a pair of statements."""


def deliver(store: Store, format_name: str, out: Path, **settings: Any) -> Delivery:
    """Hand off the pairs of a run's one join."""
    flags = {name: settings.pop(name, False) for name in ("overwrite", "skip_missing")}
    wanted = HandoffSettings(**settings)
    name = store.joins()[0]
    return hand_off(store, name, format_name, wanted, out, **flags)


def tree(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, by its path."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def originals_of(store: Store) -> dict[str, bytes]:
    """Every image's bytes as they lie in their shard, by sha256."""
    found = {}
    for shard_id in store.committed("samples"):
        for row in store.samples(shard_id).to_pylist():
            with Path(row["shard"]).open("rb") as file:
                file.seek(row["offset"])
                found[row["sha256"]] = file.read(row["num_bytes"])
    return found


@pytest.fixture(scope="session")
def reviewed(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A run of which all pairs but the last two were accepted; to be read only."""
    store = run_of(tmp_path_factory.mktemp("reviewed"))
    rows = selected_of(store)
    review(store, rows[:-2], **QUESTION)
    review(store, rows[-2:], decision="reject")
    return store
