"""Some images of a committed shard, encoded by one encoder and committed as a part.

Which images these are is known only after a join: DINO looks at those in a candidate pair alone,
and a re-check at those of borderline pairs. Batches hold the same images whenever a part is made.

Shape suffixes: N images, D width of a vector.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from miner import images, schema
from miner.batches import Batches
from miner.config import ImageLimits
from miner.encoders import Encoder
from miner.errors import FingerprintError, ImageError
from miner.fetch import ImageFetcher
from miner.records import Json, new_attempt
from miner.schema import Reason
from miner.stats import Stats
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
        batch_size: images to a batch.
        on_image: called for each decoded image, for progress.
        on_shard: called with a shard_id and what was done of it.
    """

    load: Callable[[str, str], Encoder]
    batch_size: int
    on_image: Callable[[], None] = field(default=lambda: None)
    on_shard: Callable[[str, Stats], None] = field(default=lambda _shard_id, _stats: None)


def embed_part(
    store: Store, shard_id: str, wanted: Collection[str], encoder: Encoder, kind: str, late: Late
) -> Stats:
    """Encode some images of a shard and commit their vectors as a part.

    Args:
        store: the run directory.
        shard_id: a shard whose samples are committed.
        wanted: image_ids of that shard, one at least.
        encoder: who looks at them.
        kind: of the part, `lazy` or `fp32`.
        late: batch size, and who is told.

    Returns:
        The count `encoded <encoder>` and the seconds of each stage.

    Raises:
        ShardError: the shard cannot be read.
        FingerprintError: an image is not what was committed.
    """
    stats = Stats()
    rows = [row for row in _samples(store, shard_id) if row["image_id"] in wanted]
    assert len(rows) == len(set(wanted)), shard_id
    batches = _encode(store, shard_id, rows, encoder, late, stats)
    with stats.time("write"):
        name = part_name(shard_id, kind, [row["image_id"] for row in rows])
        bad = batches.nonfinite(encoder)
        good = [place for place, row in enumerate(rows) if row["image_id"] not in bad]
        ids = [rows[place]["image_id"] for place in good]
        refused = [row for row in rows if row["image_id"] in bad]
        vectors_ND = batches.vectors(encoder)[good]
        _commit(store, name, encoder, ids, vectors_ND, refused, late.batch_size)
    stats.count(f"encoded {encoder.record.name}", len(ids))
    return stats


def embed_rest(store: Store, shard_id: str, encoder: Encoder, late: Late) -> Stats:
    """Encode the images of a shard that are in none of its parts, and commit the whole shard.

    Parts that were computed otherwise (backend or precision) are not reused.

    Args:
        store: the run directory.
        shard_id: a shard whose samples are committed, and which has parts.
        encoder: who looks at the rest.
        late: batch size, and who is told.

    Raises:
        ShardError: the shard cannot be read.
        FingerprintError: an image is not what was committed.
    """
    stats = Stats()
    vectors = EncoderVectors(store, encoder.encoder_id)
    how = (encoder.backend, encoder.precision)
    parts = vectors.records(shard_id)
    reused = all((part["backend"], part["precision"]) == how for part in parts)
    known_ids, known_ND = vectors.read(shard_id) if reused else ([], np.empty((0, encoder.dim)))
    known = dict(zip(known_ids, known_ND, strict=True))
    refused_ids = vectors.refused(shard_id) if reused else set()
    rows = _samples(store, shard_id)
    rest = [row for row in rows if row["image_id"] not in known.keys() | refused_ids]
    batches = _encode(store, shard_id, rest, encoder, late, stats)
    with stats.time("write"):
        bad = batches.nonfinite(encoder) | refused_ids
        known |= dict(zip(batches.image_ids, batches.vectors(encoder), strict=True))
        ids = [row["image_id"] for row in rows if row["image_id"] not in bad]
        refused = [row for row in rows if row["image_id"] in bad]
        vectors_ND = np.array([known[image_id] for image_id in ids], np.float32)
        vectors_ND = vectors_ND.reshape(len(ids), encoder.dim)
        _commit(store, shard_id, encoder, ids, vectors_ND, refused, late.batch_size)
    stats.count(f"encoded {encoder.record.name}", len(rest) - len(batches.nonfinite(encoder)))
    return stats


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
    for shard_id in sorted(wanted):
        there = {*vectors.ids(shard_id, kind), *vectors.refused(shard_id, kind)}
        if missing := wanted[shard_id] - there:
            encoder = late.load(encoder_id, kind)
            with store.writing():
                stats = embed_part(store, shard_id, missing, encoder, kind, late)
            late.on_shard(shard_id, stats)


def _samples(store: Store, shard_id: str) -> list[Json]:
    """The rows of a shard's images, in the order in which they were embedded."""
    rows: list[Json] = store.samples(shard_id).select(COLUMNS).to_pylist()
    return rows


def _encode(
    store: Store, shard_id: str, rows: Sequence[Json], encoder: Encoder, late: Late, stats: Stats
) -> Batches:
    """Read, decode and encode images in their order."""
    run = store.run()
    limits = {k: v for k, v in run["reading"].items() if k in ImageLimits.model_fields}
    batches = Batches(encoders=[encoder], batch_size=late.batch_size, stats=stats)
    for row, data in _read(_url(store, run, shard_id), rows, stats):
        with stats.time("decode"):
            try:
                decoded = images.decode(data, ImageLimits(**limits))
            except ImageError as error:
                raise FingerprintError(
                    f"{row['image_id']} was decodable when it was committed and is refused now "
                    f"({error}); use the versions that run.json names, or give another --out"
                ) from error
            crop = encoder.record.crop
            crops = {crop: images.cut(decoded.pixels_HWC, crop)}
        batches.add(row["image_id"], crops)
        late.on_image()
    batches.flush()
    return batches


def _url(store: Store, run: Json, shard_id: str) -> str:
    """Where a shard was seen last."""
    seen = run["shards"].get(shard_id) or store.record("samples", shard_id)["shard"]
    return str(seen["url"])


def _read(url: str, rows: Sequence[Json], stats: Stats) -> Iterator[tuple[Json, bytes]]:
    """The rows with their bytes, checked; from front to back where gaps are small."""
    with ImageFetcher(in_order=reads_through(rows)) as fetcher:
        for row in rows:
            with stats.time("read"):
                data = fetcher.read(url, row["member"], row["offset"], row["num_bytes"])
                sha256 = hashlib.sha256(data).hexdigest()
            if sha256 != row["sha256"]:
                raise FingerprintError(
                    f"shard {url}: {row['image_id']} has other bytes since it was committed; "
                    "restore the shard, or give another --out"
                )
            yield row, data


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
    batch_size: int,
) -> None:
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
        batch_size=batch_size,
        num_quarantined=len(refused),
        samples_sha256=samples["files"][0]["sha256"],
    )
    store.commit(f"vectors/{encoder.encoder_id}", name, files, record)
