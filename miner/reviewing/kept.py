"""The decisions that a run keeps: below `review/`, a file for each reviewer, outside its joins.

A pair's id is the same in every join and wherever the corpus lies, so decisions outlive both.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime

from miner.errors import StoreError
from miner.review import Decision, no_decision, parse_decisions
from miner.store import Store

MAX_FILE_BYTES = 2**28
"""Largest file of decisions that is read, in bytes."""


def decisions_of(store: Store) -> list[Decision]:
    """All decisions that a run keeps, by reviewer and pair.

    A file may be named as it likes: of what a reviewer says of a pair the latest stands.

    Raises:
        StoreError: a file of them cannot be read.
    """
    latest: dict[tuple[str, str], Decision] = {}
    for name in sorted(store.files.names("review")):
        if name.endswith(".jsonl"):
            path = f"review/{name}"
            for said in parse_decisions(read_limited(store, path), store.place(path)):
                key = (said.reviewer, said.pair_id)
                if key not in latest or _order(said) >= _order(latest[key]):
                    latest[key] = said
    return [latest[key] for key in sorted(latest)]


def read_limited(store: Store, path: str) -> bytes:
    """The bytes of a file of decisions in a run.

    Raises:
        StoreError: it is larger than such a file can be.
    """
    with store.files.open(path) as file:
        num_bytes = file.size()
    if num_bytes > MAX_FILE_BYTES:
        raise StoreError(
            f"{store.place(path)} has {num_bytes} bytes, limit {MAX_FILE_BYTES}; is it a file of "
            "decisions? mend or remove it"
        )
    return store.files.read(path)


def _order(said: Decision) -> tuple[datetime, str]:
    """Which of two on one pair by one reviewer is the later; by content where time says nothing."""
    return said.decided_at, said.line()


def keep_decisions(store: Store, decisions: Iterable[Decision]) -> None:
    """Add decisions to a run; of two on one pair by one reviewer the later one stands."""
    by_reviewer: dict[str, list[Decision]] = defaultdict(list)
    for said in decisions:
        by_reviewer[said.reviewer].append(said)
    for reviewer, new in sorted(by_reviewer.items()):
        path = f"review/{reviewer}.jsonl"

        def change(data: bytes | None, path: str = path, new: list[Decision] = new) -> bytes:
            return _with_new(data or b"", new, store.place(path))

        store.files.update(path, change)


def _with_new(data: bytes, new: Iterable[Decision], place: str) -> bytes:
    """The lines of a file and new ones, by pair.

    A line whose place nobody takes stays as it is, and is not parsed as a decision: a file is
    written whole for each request to save.
    """
    lines: dict[tuple[str, str], bytes] = {}
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line.decode())
            key = (str(fields["pair_id"]), str(fields["reviewer"]))
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise no_decision(place, number, error) from error
        lines[key] = _later(lines[key], line, place) if key in lines else line
    for said in new:
        key, line = (said.pair_id, said.reviewer), said.line().encode()
        lines[key] = _later(lines[key], line, place) if key in lines else line
    return b"".join(lines[key] + b"\n" for key in sorted(lines))


def _later(before: bytes, after: bytes, place: str) -> bytes:
    """Of two lines on one pair by one reviewer the one that stands."""
    (one,), (two,) = parse_decisions(before, place), parse_decisions(after, place)
    return after if _order(two) >= _order(one) else before
