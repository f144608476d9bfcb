"""Some images of a committed shard, encoded by one encoder and committed as a part.

Which images these are is known only after a join: DINO looks at those in a candidate pair alone,
and a re-check at those of borderline pairs. Batches hold the same images whenever a part is made.

Shape suffixes: N images, D width of a vector.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from miner import schema
from miner.batches import nonfinite
from miner.commits import nonfinite_row
from miner.config import FeedSettings
from miner.encoders import Encoder
from miner.errors import ShardError
from miner.records import Json, new_attempt
from miner.reread import committed_shard, encode_again, samples_of
from miner.stats import Stats
from miner.store import Store
from miner.tables import table_of, vector_table
from miner.vectors import EncoderVectors, part_name, shard_of, vectors_record


@dataclass(kw_only=True)
class Late:
    """Encoders for a join that finds out which images they have to see.

    Attributes:
        load: the encoder of an encoder_id: for `lazy` the engine of the run, for `fp32` the truth.
        feeding: batch size and decode workers.
        on_image: called for each decoded image, for progress.
        on_shard: called with a run, a shard_id of it and what was done of that.
    """

    load: Callable[[str, str], Encoder]
    feeding: FeedSettings
    on_image: Callable[[], None] = field(default=lambda: None)
    on_shard: Callable[[Store, str, Stats], None] = field(
        default=lambda _store, _shard_id, _stats: None
    )


def embed_parts(
    store: Store, wanted: Mapping[str, Collection[str]], encoder: Encoder, kind: str, late: Late
) -> Iterator[tuple[str, Stats]]:
    """Encode some images of shards and commit their vectors, of each shard as a part.

    Args:
        store: the run directory.
        wanted: image_ids by shard_id, one at least of each; their samples are committed.
        encoder: who looks at them.
        kind: of the parts, `lazy` or `fp32`.
        late: how they are fed, and who is told.

    Yields:
        shard_id, with the count `encoded <encoder>` and the seconds of each stage.

    Raises:
        ShardError: a shard cannot be read.
        FingerprintError: an image is not what was committed.
    """

    def rows_of(shard_id: str) -> list[Json]:
        rows = [row for row in samples_of(store, shard_id) if row["image_id"] in wanted[shard_id]]
        assert len(rows) == len(set(wanted[shard_id])), shard_id
        return rows

    for each in encode_again(store, wanted, rows_of, encoder, late.feeding, late.on_image):
        if each.error is not None:
            raise each.error
        shard_id, rows, vectors_ND = each.shard_id, each.rows, each.vectors_ND
        name = part_name(shard_id, kind, [row["image_id"] for row in rows])
        bad = set(nonfinite(vectors_ND).tolist())
        good = [place for place in range(len(rows)) if place not in bad]
        ids = [rows[place]["image_id"] for place in good]
        refused = [rows[place] for place in sorted(bad)]
        with store.writing():
            _commit(store, name, encoder, ids, vectors_ND[good], refused, late)
        each.stats.count(f"encoded {encoder.record.name}", len(ids))
        yield shard_id, each.stats


def embed_rests(
    store: Store, shard_ids: Sequence[str], encoder: Encoder, late: Late
) -> Iterator[tuple[str, Stats, ShardError | None]]:
    """Encode the images of shards that are in none of their parts, and commit the whole shards.

    Parts that were computed otherwise (backend, precision or device) are not reused.

    Args:
        store: the run directory.
        shard_ids: shards whose samples are committed, and which have parts.
        encoder: who looks at the rest.
        late: how they are fed, and who is told.

    Yields:
        As `embed_parts` does; and why a shard could not be read, which then is not committed.

    Raises:
        FingerprintError: an image is not what was committed.
    """
    known: dict[str, _Reused] = {}

    def rows_of(shard_id: str) -> list[Json]:
        known[shard_id] = _reusable(store, shard_id, encoder)
        there = known[shard_id].vectors.keys() | known[shard_id].refused
        return [row for row in samples_of(store, shard_id) if row["image_id"] not in there]

    for each in encode_again(store, shard_ids, rows_of, encoder, late.feeding, late.on_image):
        shard_id, rest, rest_ND, reused = (
            each.shard_id,
            each.rows,
            each.vectors_ND,
            known.pop(each.shard_id),
        )
        if each.error is not None:
            yield shard_id, each.stats, each.error
            continue
        bad = {rest[place]["image_id"] for place in nonfinite(rest_ND)}
        vectors = dict(reused.vectors)
        vectors |= {row["image_id"]: vector for row, vector in zip(rest, rest_ND, strict=True)}
        rows = samples_of(store, shard_id)
        lost = bad | reused.refused
        ids = [row["image_id"] for row in rows if row["image_id"] not in lost]
        refused = [row for row in rows if row["image_id"] in lost]
        vectors_ND = np.array([vectors[image_id] for image_id in ids], np.float32)
        vectors_ND = vectors_ND.reshape(len(ids), encoder.dim)
        deviation = max(encoder.deviation, reused.deviation)
        with store.writing():
            _commit(store, shard_id, encoder, ids, vectors_ND, refused, late, deviation)
        each.stats.count(f"encoded {encoder.record.name}", len(rest) - len(bad))
        yield shard_id, each.stats, None


def embed_images(
    store: Store, wanted: dict[str, set[str]], encoder_id: str, kind: str, late: Late
) -> None:
    """Encode those of some images that have no vector yet, shard by shard.

    Args:
        store: the run directory.
        wanted: image_ids by shard_id.
        encoder_id: who looks at them.
        kind: of the parts, `lazy` or `fp32`.
        late: who encodes.

    Raises:
        ShardError: a shard cannot be read.
        FingerprintError: an image is not what was committed.
    """
    vectors = EncoderVectors(store, encoder_id)
    missing = {
        shard_id: wanted[shard_id]
        - {*vectors.ids(shard_id, kind), *vectors.refused(shard_id, kind)}
        for shard_id in sorted(wanted)
    }
    missing = {shard_id: image_ids for shard_id, image_ids in missing.items() if image_ids}
    if missing:
        encoder = late.load(encoder_id, kind)
        for shard_id, stats in embed_parts(store, missing, encoder, kind, late):
            late.on_shard(store, shard_id, stats)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reused:
    """What a shard's parts hold that an encoder would give too.

    Attributes:
        vectors: by image_id.
        refused: images without one.
        deviation: the largest that a part states.
    """

    vectors: dict[str, np.ndarray]
    refused: set[str]
    deviation: float


def _reusable(store: Store, shard_id: str, encoder: Encoder) -> _Reused:
    vectors = EncoderVectors(store, encoder.encoder_id)
    parts = vectors.records(shard_id)
    how = (encoder.backend, encoder.precision, str(encoder.device))
    if any((part["backend"], part["precision"], part["device"]) != how for part in parts):
        return _Reused(vectors={}, refused=set(), deviation=0.0)
    return _Reused(
        vectors=dict(zip(*vectors.read(shard_id), strict=True)),
        refused=vectors.refused(shard_id),
        deviation=max((float(part["deviation"]) for part in parts), default=0.0),
    )


def _commit(
    store: Store,
    name: str,
    encoder: Encoder,
    image_ids: list[str],
    vectors_ND: np.ndarray,
    refused: Sequence[Json],
    late: Late,
    deviation: float | None = None,
) -> None:
    """Commit vectors; their deviation is the encoder's, where no other is given."""
    shard_id = shard_of(name)
    samples = store.record("samples", shard_id)
    file = f"{name}.{new_attempt()}.parquet"
    table = vector_table(image_ids, vectors_ND)
    files = [store.write_table(table, f"vectors/{encoder.encoder_id}", file)]
    if refused:
        shard = committed_shard(store, shard_id)
        rows = [nonfinite_row(shard, row["key"], row["member"], encoder) for row in refused]
        files.append(store.write_table(table_of(rows, schema.QUARANTINE), "quarantine", file))
    record = vectors_record(
        encoder,
        deviation=encoder.deviation if deviation is None else deviation,
        batch_size=late.feeding.batch_size,
        num_quarantined=len(refused),
        samples_sha256=samples["files"][0]["sha256"],
    )
    store.commit(f"vectors/{encoder.encoder_id}", name, files, record)
