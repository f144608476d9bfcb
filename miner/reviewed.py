"""The labelled set that a run's reviewers made: accepted pairs with two statements each."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc

from miner.config import ImageLimits
from miner.errors import LabelError, ShardError
from miner.fetch import read_image_bytes
from miner.labelled import NO_PATTERN, ImageSource, Item, LabelledSet, by_statements
from miner.records import Json
from miner.review import PATTERNS, Decision, consensus, decisions_of
from miner.rows import runs_of
from miner.store import Store


def read_reviews(store: Store) -> LabelledSet:
    """The pairs of a run that its reviewers accepted and wrote two statements about.

    Raises:
        LabelError: there is none, or an image is no sample of the run any more.
    """
    accepted = [
        said for said in consensus(decisions_of(store)).values() if said.decision == "accept"
    ]
    told = [said for said in accepted if all(said.statements)]
    rows = _rows_of(store, {sha for said in told for sha in (said.sha256_1, said.sha256_2)})
    notes = []
    if len(told) < len(accepted):
        notes.append(
            f"{len(accepted) - len(told)} of {len(accepted)} accepted pairs have no two statements "
            "or options and are left out"
        )
    if not accepted:
        notes.append("no reviewer has accepted a pair: `blindpairs review merge` brings decisions")
    reading = {k: v for k, v in store.run()["reading"].items() if k in ImageLimits.model_fields}
    return LabelledSet(
        layout="review",
        place=str(store.root),
        items=tuple(_reviewed(store, said, rows) for said in told),
        limits=ImageLimits(**reading),
        notes=tuple(notes),
    )


def _reviewed(store: Store, said: Decision, rows: dict[str, Json]) -> Item:
    for sha256 in (said.sha256_1, said.sha256_2):
        if sha256 not in rows:
            raise LabelError(
                f"{store.root}: pair {said.pair_id} was accepted, but no sample has the sha256 "
                f"{sha256[:12]}; evaluate the run on which it was reviewed"
            )
    options = (said.option_1, said.option_2) if said.option_1 and said.option_2 else said.statements
    return Item(
        name=said.pair_id,
        subset=PATTERNS[said.pattern].name if said.pattern else NO_PATTERN,
        images=(_sample_image(rows[said.sha256_1]), _sample_image(rows[said.sha256_2])),
        statements=said.statements,
        questions=by_statements(said.pair_id, options),
    )


def _rows_of(store: Store, wanted: Iterable[str]) -> dict[str, Json]:
    """Rows of `samples` by sha256, with where their shards were seen last."""
    last = store.last_join()
    record = store.join_record(last) if last else None
    found: dict[str, Json] = {}
    names = sorted(wanted)
    for run in runs_of(store, record) if record else [store]:
        seen = run.run()["shards"]
        for shard_id in run.committed("samples"):
            table = run.samples(shard_id)
            rows = table.filter(pc.is_in(table["sha256"], pa.array(names, pa.string())))
            place = {"shard": seen[shard_id]["url"]} if shard_id in seen else {}
            for row in rows.to_pylist():
                found.setdefault(row["sha256"], row | place)
    return found


def _sample_image(row: Json) -> ImageSource:
    def read() -> bytes:
        data = read_image_bytes(row["shard"], row["member"], row["offset"], row["num_bytes"])
        found = hashlib.sha256(data).hexdigest()
        if found != row["sha256"]:
            raise ShardError(
                f"{row['shard']}: the bytes of {row['image_id']} have the sha256 {found[:12]}, "
                f"recorded is {row['sha256'][:12]}; the shard was changed"
            )
        return data

    return ImageSource(name=row["image_id"], read=read)
