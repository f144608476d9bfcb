"""What a join reads from a store: one row for each image, and where its vectors are.

Shape suffixes: N images.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from miner import schema
from miner.errors import StoreError
from miner.records import Json, digest
from miner.store import Store
from miner.vectors import LAZY, EncoderVectors


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Images of a join, ordered by image_id.

    Attributes:
        image_ids: [N], ascending.
        sha256: [N], hex, of the images' bytes.
        shard: [N] int64, place of the image's shard among `shard_ids`.
        duplicates: [N] int64, how many further copies an image stands for.
        shard_ids: the shards that were read, sorted.
    """

    image_ids: list[str]
    sha256: list[str]
    shard: np.ndarray
    duplicates: np.ndarray
    shard_ids: list[str]

    def __len__(self) -> int:
        return len(self.image_ids)

    def take(self, places: np.ndarray, duplicates: np.ndarray) -> Rows:
        """Some of the rows, standing for these numbers of copies."""
        return Rows(
            image_ids=[self.image_ids[place] for place in places],
            sha256=[self.sha256[place] for place in places],
            shard=self.shard[places],
            duplicates=duplicates,
            shard_ids=self.shard_ids,
        )


def joined_shards(store: Store, *encoder_ids: str) -> list[str]:
    """Shards whose samples, and all vectors of these encoders, are committed, sorted."""
    whole = [EncoderVectors(store, encoder_id).whole for encoder_id in encoder_ids]
    return sorted(set.intersection(set(store.committed("samples")), *whole))


def encoders_of_all(record: Json) -> tuple[str, ...]:
    """The encoders that have seen every image of a join, by its join.json."""
    return (record["clip"],) if record["lazy"] else (record["clip"], record["dino"])


def inputs(store: Store, encoder_ids: Sequence[str], shard_ids: Sequence[str]) -> dict[str, str]:
    """A hash over the files that a join of encoders reads, for each of some shards."""
    vectors = [EncoderVectors(store, encoder_id) for encoder_id in encoder_ids]
    return {
        shard_id: digest(
            [
                record["files"][0]["sha256"]
                for record in [
                    store.record("samples", shard_id),
                    *(record for each in vectors for record in each.records(shard_id)),
                ]
            ]
        )
        for shard_id in shard_ids
    }


def deviations(store: Store, encoder_id: str, shard_ids: Sequence[str]) -> float:
    """Largest deviation of a pair's cosine that the commits of some shards' vectors state."""
    vectors = EncoderVectors(store, encoder_id)
    records = (record for shard_id in shard_ids for record in vectors.records(shard_id))
    return max((float(record["deviation"]) for record in records), default=0.0)


def load_rows(store: Store, *encoder_ids: str) -> Rows:
    """All images of a store that have vectors of some encoders; copies are not collapsed yet.

    Args:
        store: the run directory.
        encoder_ids: of one encoder or two; shards count that have all their vectors.

    Raises:
        StoreError: no shard has them, or vectors name images that the samples do not.
    """
    shard_ids = joined_shards(store, *encoder_ids)
    if not shard_ids:
        raise StoreError(
            f"{store.root} has no shard with vectors of {' and '.join(encoder_ids)} (it has "
            f"vectors of {', '.join(store.encoder_ids()) or 'no encoder'}); run `blindpairs embed` "
            "first"
        )
    image_ids: list[str] = []
    sha256: list[str] = []
    shard: list[np.ndarray] = []
    for place, shard_id in enumerate(shard_ids):
        samples = store.samples(shard_id).select(["image_id", "sha256"]).to_pydict()
        sha256_of = dict(zip(samples["image_id"], samples["sha256"], strict=True))
        seen = [_ids_of_vectors(store, encoder, shard_id, sha256_of) for encoder in encoder_ids]
        everywhere = [image_id for image_id in sha256_of if all(image_id in ids for ids in seen)]
        image_ids += everywhere
        sha256 += [sha256_of[image_id] for image_id in everywhere]
        shard.append(np.full(len(everywhere), place, dtype=np.int64))
    order = np.array(sorted(range(len(image_ids)), key=image_ids.__getitem__), dtype=np.int64)
    return Rows(
        image_ids=[image_ids[place] for place in order],
        sha256=[sha256[place] for place in order],
        shard=np.concatenate(shard)[order],
        duplicates=np.zeros(len(order), dtype=np.int64),
        shard_ids=shard_ids,
    )


def _ids_of_vectors(
    store: Store, encoder_id: str, shard_id: str, known: dict[str, str]
) -> set[str]:
    ids = set(store.vector_ids(encoder_id, shard_id))
    if unknown := ids - known.keys():
        raise StoreError(
            f"vectors of {encoder_id} for shard {shard_id} name {len(unknown)} images that its "
            f"samples do not ({min(unknown)}, ...); run `blindpairs verify {store.root}`"
        )
    return ids


def runs_of(store: Store, record: Json) -> list[Store]:
    """The runs whose images a join is over: one, or that of `--against` too.

    Args:
        store: the run directory that holds the join.
        record: the content of join.json.

    Raises:
        StoreError: the other run is no more where it was.
    """
    if record["against"] is None:
        return [store]
    other = Store(record["against"])
    if not other.exists():
        raise StoreError(
            f"{record['name']} was joined against {other.root}, which holds no run any more; "
            "give its new place: blindpairs join --against"
        )
    return [store, other]


def vectors_of(
    runs: Sequence[Store], encoder_id: str, wanted: Collection[str], kind: str = LAZY
) -> dict[str, np.ndarray]:
    """The stored vectors of some images, by image_id; images without one are left out.

    Args:
        runs: where to look.
        encoder_id: whose vectors.
        wanted: image_ids.
        kind: which parts count where a shard is in parts (`miner.vectors`).
    """
    found: dict[str, np.ndarray] = {}
    for store in runs:
        vectors = EncoderVectors(store, encoder_id)
        for shard_id, named in by_shard(store, wanted).items():
            ids, vectors_ND = vectors.read(shard_id, kind)
            found |= {name: vectors_ND[row] for row, name in enumerate(ids) if name in named}
    return found


def samples_of(runs: Sequence[Store], wanted: Collection[str]) -> dict[str, Json]:
    """The rows of `samples` of some images, by image_id; unknown images are left out.

    Their `shard` is where the shard was seen last, so that a corpus may move.
    """
    found: dict[str, Json] = {}
    for store in runs:
        seen = store.run()["shards"]
        for shard_id, named in by_shard(store, wanted).items():
            place = {"shard": seen[shard_id]["url"]} if shard_id in seen else {}
            samples = store.samples(shard_id)
            # A shard may have thousands of rows of which few are wanted.
            few = pc.is_in(samples["image_id"], value_set=pa.array(sorted(named), pa.string()))
            rows = samples.filter(few).to_pylist()
            found |= {row["image_id"]: row | place for row in rows}
    return found


def sample_table(runs: Sequence[Store], image_ids: pa.Array, columns: Iterable[str]) -> pa.Table:
    """Columns of `samples` of some images, in the order in which they are named.

    Their `shard` is where the shard was seen last. Of an image that two runs have, the second run's
    sample counts, as in `samples_of`.

    Args:
        runs: where to look.
        image_ids: text without nulls.
        columns: of `samples`.

    Raises:
        StoreError: an image is no sample of the runs.
    """
    names = sorted({"image_id", *columns})
    parts = []
    for store in reversed(runs):
        seen = store.run()["shards"]
        for shard_id in by_shard(store, image_ids.to_pylist()):
            part = store.table(store.record("samples", shard_id), "samples", names)
            part = part.filter(pc.is_in(part["image_id"], value_set=image_ids))
            if "shard" in names and shard_id in seen:
                place = pa.array([seen[shard_id]["url"]] * len(part), pa.string())
                part = part.set_column(part.column_names.index("shard"), "shard", place)
            parts.append(part)
    fields = [schema.SAMPLES.field(name) for name in names]
    empty = pa.schema(fields).empty_table()
    found = pa.concat_tables([empty, *parts], promote_options="permissive").combine_chunks()
    places = pc.index_in(image_ids, value_set=found["image_id"].combine_chunks())
    if places.null_count:
        raise lacking(runs, "samples", image_ids, np.asarray(pc.is_null(places)))
    return found.take(places)


def lacking(
    runs: Sequence[Store], what: str, image_ids: pa.Array, are_missing: np.ndarray
) -> StoreError:
    """The error where pairs name images of which a run has nothing."""
    first = image_ids[int(np.argmax(are_missing))].as_py()
    return StoreError(
        f"pairs name {are_missing.sum()} images without {what} in {runs[0].root} ({first}, ...); "
        f"run `blindpairs verify {runs[0].root}`"
    )


def by_shard(store: Store, wanted: Collection[str]) -> dict[str, set[str]]:
    """Image ids by the shard, of those with committed samples, that their first parts name."""
    committed = set(store.committed("samples"))
    found: dict[str, set[str]] = defaultdict(set)
    for image_id in wanted:
        shard_id = ".".join(image_id.split("/", 2)[:2])
        if shard_id in committed:
            found[shard_id].add(image_id)
    return found
