"""Runs in which every pair of images is blind, for tests of what the selection makes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch

from miner.config import JoinSettings, SelectSettings
from miner.join import join
from miner.records import Json
from miner.select import select
from miner.store import Store
from miner.why import explain
from tests.runs import CLIP, DINO, commit_shard, unit

SETTINGS = JoinSettings(clip_above=0.9, dino_below=0.3)

Fields = Sequence[Mapping[str, object]]


def blind_run(root: Path, fields: Fields, contents: Sequence[bytes] | None = None) -> Store:
    """A joined run; image n has these fields of `samples`, and is blind with all others."""
    store = Store(root)
    store.update_run({}, {}, {"command": "test"})
    number = len(fields)
    clip = torch.cat([torch.ones(number, 1), 0.1 * torch.eye(number)], dim=1)
    clip[:, 0] += torch.arange(number) / 100
    commit_shard(
        store, "00000", unit(clip), unit(torch.eye(number)), fields=fields, contents=contents
    )
    join(store, CLIP, DINO, SETTINGS, SelectSettings())
    return store


def name_of(store: Store) -> str:
    (name,) = store.joins()
    return name


def image(number: int) -> str:
    return f"set/00000/{number:06d}"


def selected(store: Store) -> list[Json]:
    path = Path(store.root) / "pairs" / name_of(store) / "selected.parquet"
    rows: list[Json] = pq.read_table(path).to_pylist()
    return rows


def selected_with(store: Store, **settings: Any) -> dict[str, int]:
    """Select without a cap; the counts."""
    which = SelectSettings(**({"max_per_image": None} | settings))
    counts: dict[str, int] = select(store, name_of(store), which)["selection"]["counts"]
    return counts


def told(store: Store, one: int, other: int) -> str:
    """What `why` says of a pair, without its pair_id."""
    return explain(store, name_of(store), image(one), image(other)).verdict.partition("; ")[2]


def all_told(store: Store, number: int) -> dict[tuple[int, int], str]:
    return {pair: told(store, *pair) for pair in combinations(range(number), 2)}
