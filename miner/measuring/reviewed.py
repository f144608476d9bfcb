"""What a run's reviewers said of its pairs, as a labelled set.

Accepted pairs with two statements each are measured as any benchmark is; of the others one can
still ask whether an encoder calls their images the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc

from miner.config import ImageLimits
from miner.errors import LabelError, ShardError, StoreError
from miner.fetch import read_image_bytes
from miner.measuring.labelled import NO_PATTERN, ImageSource, Item, LabelledSet, by_statements
from miner.records import Json
from miner.review import PATTERNS, Decision, consensus
from miner.reviewing.kept import decisions_of
from miner.rows import runs_of, samples_of
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
    return LabelledSet(
        layout="review",
        place=str(store.root),
        items=tuple(_reviewed(store, said, rows) for said in told),
        limits=_limits(store),
        notes=tuple(notes),
    )


def read_selected(store: Store, name: str, limit: int | None = None) -> LabelledSet:
    """The selected pairs of a join, best ranks first, with the patterns that reviewers gave them.

    Nobody has to have written statements; pairs that were rejected are left out.

    Args:
        store: the run directory.
        name: the join's.
        limit: pairs, at most; None for all.

    Raises:
        StoreError: the join has no whole selection.
        LabelError: no pair is left, or an image is no sample of the run any more.
    """
    record = store.join_record(name)
    if record is None or "selection" not in record:
        raise StoreError(
            f"{store.place(f'pairs/{name}')} holds no whole selection; "
            f"run `blindpairs select {store.root}`"
        )
    table = store.read_table(record["selection"]["file"]["path"])
    said = consensus(decisions_of(store))
    pairs = [
        pair
        for pair in table.select(["pair_id", "image_1", "image_2"]).to_pylist()
        if pair["pair_id"] not in said or said[pair["pair_id"]].decision != "reject"
    ]
    rejected = len(table) - len(pairs)
    notes = [f"{rejected} pairs that reviewers rejected are left out"] if rejected else []
    if limit is not None and len(pairs) > limit:
        notes.append(f"the first {limit} of {len(pairs)} pairs by rank")
        pairs = pairs[:limit]
    wanted = {pair[place] for pair in pairs for place in ("image_1", "image_2")}
    rows = samples_of(runs_of(store, record), wanted)
    if missing := sorted(wanted - rows.keys()):
        raise LabelError(
            f"selected pairs name {len(missing)} images that are no samples of {store.root} "
            f"({missing[0]}, ...); run `blindpairs verify {store.root}`"
        )
    return LabelledSet(
        layout="selected",
        place=str(store.root),
        items=tuple(_selected(pair, rows, said.get(pair["pair_id"])) for pair in pairs),
        limits=_limits(store),
        notes=tuple(notes),
    )


def _selected(pair: Json, rows: dict[str, Json], said: Decision | None) -> Item:
    return Item(
        name=pair["pair_id"],
        subset=_subset(said),
        images=(_sample_image(rows[pair["image_1"]]), _sample_image(rows[pair["image_2"]])),
        statements=(),
        questions=by_statements(pair["pair_id"], ()),
    )


def _subset(said: Decision | None) -> str:
    return PATTERNS[said.pattern].name if said is not None and said.pattern else NO_PATTERN


def _limits(store: Store) -> ImageLimits:
    """What images might be when the run was embedded."""
    reading = {k: v for k, v in store.run()["reading"].items() if k in ImageLimits.model_fields}
    return ImageLimits(**reading)


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
        subset=_subset(said),
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
