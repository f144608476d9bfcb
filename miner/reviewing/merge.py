"""Decisions of several reviewers, brought together in a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from miner.errors import StoreError
from miner.review import Decision, consensus, parse_decisions
from miner.reviewing.agreement import (
    DISPUTES,
    Agreement,
    Dispute,
    agreements,
    disputes,
    disputes_csv,
)
from miner.reviewing.kept import MAX_FILE_BYTES, decisions_of, keep_decisions
from miner.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """What a run's reviewers say, after files were merged into it.

    Attributes:
        reviewers: what each said how often, by name: accept, reject, undecided, pattern.
        outcome: the same of all together.
        agreements: of every two reviewers.
        disputes: what they see differently.
        unknown: pair_ids that no join of the run has; their decisions are kept all the same.
    """

    reviewers: dict[str, Counter[str]]
    outcome: Counter[str]
    agreements: list[Agreement]
    disputes: list[Dispute]
    unknown: list[str]


def merge_reviews(store: Store, files: Sequence[Path]) -> Merged:
    """Keep the decisions of some files in a run, and compare all that it keeps.

    Nothing is kept where a line of any file is no decision.

    Args:
        store: the run directory.
        files: of decisions, one a line; several may be of one reviewer.

    Raises:
        StoreError: there is no such run; or a file is too large, or has a line that is no decision.
    """
    store.run()
    found = [said for file in files for said in parse_decisions(_read(file), str(file))]
    with store.writing():
        keep_decisions(store, found)
        kept = decisions_of(store)
        in_dispute = disputes(kept)
        store.files.write(DISPUTES, disputes_csv(in_dispute))
    by_reviewer: dict[str, Counter[str]] = {}
    for said in kept:
        by_reviewer.setdefault(said.reviewer, Counter()).update(_words(said))
    together = consensus(kept)
    return Merged(
        reviewers=by_reviewer,
        outcome=Counter(word for said in together.values() for word in _words(said)),
        agreements=agreements(kept),
        disputes=in_dispute,
        unknown=_unknown(store, sorted(together)),
    )


def _read(file: Path) -> bytes:
    num_bytes = file.stat().st_size
    if num_bytes > MAX_FILE_BYTES:
        raise StoreError(
            f"{file} has {num_bytes} bytes, limit {MAX_FILE_BYTES}; is it a file of decisions? "
            "If so, split it by lines"
        )
    return file.read_bytes()


def _words(said: Decision) -> list[str]:
    return [said.decision or "undecided", *(["pattern"] if said.pattern is not None else [])]


def _unknown(store: Store, pair_ids: list[str]) -> list[str]:
    """Those that are no pair of any join of the run."""
    left = pa.array(pair_ids, pa.string())
    for name in store.joins():
        files = store.read_record(f"pairs/{name}/join.json")["files"]
        for part in (file["path"] for file in files if "/raw/" in file["path"]):
            there = store.read_table(part, ["pair_id"])["pair_id"]
            left = left.filter(pc.invert(pc.is_in(left, value_set=there.combine_chunks())))
    unknown: list[str] = left.to_pylist()
    return unknown
