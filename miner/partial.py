"""Some images of a committed shard, encoded by one encoder and committed as a part.

Which images these are is known only after a join: DINO looks at those in a candidate pair alone,
and a re-check at those of borderline pairs. Batches hold the same images whenever a part is made.

Shape suffixes: N images, D width of a vector.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace

import numpy as np

from miner import schema
from miner.batch import Seen
from miner.batches import nonfinite
from miner.commits import crash_of_committed
from miner.config import FeedSettings, ImageLimits
from miner.decode import Refused
from miner.encode import Work, encode_all
from miner.encoders import Encoder
from miner.errors import FingerprintError, ShardError
from miner.fetch import ImageFetcher, is_tree
from miner.law import Refusal
from miner.records import Json, new_attempt
from miner.samples import Sample
from miner.schema import Reason
from miner.shards import Shard
from miner.stats import Laps, Stats
from miner.store import Store, table_of, vector_table
from miner.vectors import EncoderVectors, part_name, shard_of, vectors_record

READ_THROUGH_BYTES = 4 * 2**20
"""Unread bytes between two wanted images, on average, up to which a shard is read from front to
back: a request by offset takes a remote store about 50 ms, in which 100 MB/s bring 5 MB."""

COLUMNS = ["image_id", "key", "member", "offset", "num_bytes", "sha256"]


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


@dataclass(frozen=True, kw_only=True)
class _PartWork(Work):
    """Some images of a shard.

    Attributes:
        rows: those of `samples`, in the order of the shard.
    """

    rows: list[Json]


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
        rows = [row for row in _samples(store, shard_id) if row["image_id"] in wanted[shard_id]]
        assert len(rows) == len(set(wanted[shard_id])), shard_id
        return rows

    for each in _encode(store, wanted, rows_of, encoder, late):
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
        return [row for row in _samples(store, shard_id) if row["image_id"] not in there]

    for each in _encode(store, shard_ids, rows_of, encoder, late):
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
        rows = _samples(store, shard_id)
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


def _samples(store: Store, shard_id: str) -> list[Json]:
    """The rows of a shard's images, in the order in which they were embedded."""
    rows: list[Json] = store.samples(shard_id).select(COLUMNS).to_pylist()
    return rows


@dataclass(frozen=True, slots=True, kw_only=True)
class _Encoded:
    """Some images of a shard, encoded; or why it cannot be read.

    Attributes:
        rows: of `samples`.
        vectors_ND: [N, D] float32, of each.
        stats: the time that it took.
    """

    shard_id: str
    rows: list[Json]
    vectors_ND: np.ndarray
    stats: Stats
    error: ShardError | None = None


def _encode(
    store: Store,
    shard_ids: Iterable[str],
    rows_of: Callable[[str], list[Json]],
    encoder: Encoder,
    late: Late,
) -> Iterator[_Encoded]:
    """Read, decode and encode some images of shards."""
    run = store.run()
    limits = {k: v for k, v in run["reading"].items() if k in ImageLimits.model_fields}
    role = encoder.record.name
    works = (_work(store, run, shard_id, rows_of(shard_id), role) for shard_id in shard_ids)
    laps = Laps()
    encoded = encode_all(
        works,
        {role: encoder},
        limits=ImageLimits(**limits),
        settings=late.feeding,
        laps=laps,
        on_image=late.on_image,
    )
    with closing(encoded):
        for each in encoded:
            work = each.work
            if each.error is None:
                _check_unchanged(work.shard, work.rows, each.entries)
            yield _Encoded(
                shard_id=work.shard.shard_id,
                rows=work.rows,
                vectors_ND=each.vectors[role].vectors_ND,
                stats=Stats(seconds=laps.take(), core_seconds=each.core_seconds),
                error=each.error,
            )


def committed_shards(store: Store) -> Iterator[Shard]:
    """The shards of a run, where they were seen last; of folder trees the images alone."""
    run = store.run()
    for shard_id in store.committed("samples"):
        shard = _shard(store, run, shard_id)
        if is_tree(shard.url):
            members = store.samples(shard_id)["member"].to_pylist()
            shard = replace(shard, files=tuple(members))
        yield shard


def _shard(store: Store, run: Json, shard_id: str) -> Shard:
    said = store.record("samples", shard_id)["shard"]
    seen = run["shards"].get(shard_id) or said
    return Shard(
        dataset=said["dataset"],
        stem=said["stem"],
        url=seen["url"],
        num_bytes=said["num_bytes"],
        modified=said["modified"],
    )


def _work(store: Store, run: Json, shard_id: str, rows: list[Json], role: str) -> _PartWork:
    shard = _shard(store, run, shard_id)
    items = _fetched(shard.url, rows)
    return _PartWork(shard=shard, items=items, roles=(role,), with_phash=False, rows=rows)


def _fetched(url: str, rows: Sequence[Json]) -> Iterator[Sample]:
    """The rows' images; from front to back where gaps are small."""
    with ImageFetcher(in_order=reads_through(rows)) as fetcher:
        for row in rows:
            yield Sample(
                key=row["key"],
                member=row["member"],
                offset=row["offset"],
                data=fetcher.read(url, row["member"], row["offset"], row["num_bytes"]),
                caption=None,
                url=None,
                label=None,
                meta="{}",
            )


def _check_unchanged(shard: Shard, rows: list[Json], entries: Iterable[Seen | Refusal]) -> None:
    """Hold what was read against what was committed."""
    for row, seen in zip(rows, entries, strict=True):
        assert isinstance(seen, Seen)
        if isinstance(seen.outcome, Refused):
            if seen.outcome.reason is Reason.CRASHED_DECODER:
                raise crash_of_committed(row["image_id"], seen.outcome.detail)
            raise FingerprintError(
                f"{row['image_id']} was decodable when it was committed and is refused now "
                f"({seen.outcome.reason.value}: {seen.outcome.detail}); use the versions that "
                "run.json names, restore the shard, or give another --out"
            )
        assert seen.found is not None
        if seen.found.sha256 != row["sha256"]:
            raise FingerprintError(
                f"shard {shard.url}: {row['image_id']} has other bytes since it was committed; "
                "restore the shard, or give another --out"
            )


def reads_through(rows: Sequence[Json]) -> bool:
    """Whether reading a shard from front to back beats a request for each of its wanted images."""
    if len(rows) < 2:
        return False
    ends = [row["offset"] + row["num_bytes"] for row in rows]
    span = max(ends) - min(row["offset"] for row in rows)
    unread = span - sum(row["num_bytes"] for row in rows)
    return bool(unread <= READ_THROUGH_BYTES * (len(rows) - 1))


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
        detail = f"{encoder.encoder_id} gave NaN or infinity in {encoder.precision}"
        rows = [
            {
                "dataset": samples["shard"]["dataset"],
                "shard": samples["shard"]["url"],
                "key": row["key"],
                "member": row["member"],
                "reason": Reason.NONFINITE.value,
                "detail": detail,
            }
            for row in refused
        ]
        files.append(store.write_table(table_of(rows, schema.QUARANTINE), "quarantine", file))
    record = vectors_record(
        encoder,
        deviation=encoder.deviation if deviation is None else deviation,
        batch_size=late.feeding.batch_size,
        num_quarantined=len(refused),
        samples_sha256=samples["files"][0]["sha256"],
    )
    store.commit(f"vectors/{encoder.encoder_id}", name, files, record)
