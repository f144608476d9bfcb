"""One shard: read, decode once, encode, one table for the samples and one for each encoder.

Batches never cross shards and hold the same images whenever a shard is read, so that its vectors
depend neither on other shards nor on how often a run was interrupted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch

from miner import images, schema
from miner.batches import Batches
from miner.config import ReadSettings
from miner.encoders import Encoder
from miner.errors import FingerprintError, ImageError
from miner.images import CropSpec
from miner.law import Refusal
from miner.records import Json, new_attempt
from miner.samples import Sample, ShardReader
from miner.schema import Reason
from miner.shards import Shard, checksum
from miner.stats import Stats
from miner.store import Store, table_of, vector_table
from miner.vectors import vectors_record
from miner.versions import versions


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reading:
    """A shard, read and encoded, before anything of it is committed."""

    reader: ShardReader
    rows: dict[str, Json]
    refused: list[Json]
    batches: Batches


def embed_shard(
    shard: Shard,
    encoders: Sequence[Encoder],
    *,
    store: Store,
    settings: ReadSettings,
    batch_size: int,
    quota: int | None = None,
    on_image: Callable[[], None] = lambda: None,
) -> Stats:
    """Do whatever is missing of one shard, and commit it.

    Args:
        shard: what to read.
        encoders: those whose vectors are wanted; the ones already committed are skipped.
        store: the run directory.
        settings: limits for images, and the reading settings that are recorded.
        batch_size: images to a batch.
        quota: stop after this many samples (`--limit`).
        on_image: called for each decoded image, for progress.

    Returns:
        Counts of what was done (`shards`, `samples`, `decodable`, `quarantined`, and
        `encoded <encoder>`) and the seconds of each stage; empty where nothing was missing.

    Raises:
        ShardError: the shard cannot be read.
        FingerprintError: the shard's images are not those that were committed.
    """
    stats = Stats()
    missing = [
        encoder
        for encoder in encoders
        if not store.commit_path(f"vectors/{encoder.encoder_id}", shard.shard_id).exists()
    ]
    is_new = not store.commit_path("samples", shard.shard_id).exists()
    if not missing and not is_new:
        return stats
    reading = _read(shard, missing, settings, batch_size, quota, on_image, stats)
    with stats.time("write"):
        if is_new:
            _commit_samples(shard, reading, store, settings, quota)
            stats.count("shards")
            stats.count("samples", len(reading.rows) + len(reading.refused))
            stats.count("decodable", len(reading.rows))
            stats.count("quarantined", len(reading.refused))
        sample_sha256 = _committed_images(shard, reading, store)
        for encoder in missing:
            num_refused = _commit_vectors(shard, encoder, reading, sample_sha256, store)
            stats.count(f"encoded {encoder.record.name}", len(sample_sha256) - num_refused)
    return stats


def _read(
    shard: Shard,
    encoders: Sequence[Encoder],
    settings: ReadSettings,
    batch_size: int,
    quota: int | None,
    on_image: Callable[[], None],
    stats: Stats,
) -> _Reading:
    reader = ShardReader(shard, settings)
    rows: dict[str, Json] = {}
    refused: list[Json] = []
    undecodable: dict[str, Json] = {}
    batches = Batches(encoders=encoders, batch_size=batch_size, stats=stats)
    items = _timed(iter(reader), stats)
    for item in islice(items, quota):
        if isinstance(item, Refusal):
            if item.retracts:
                # One outcome for a sample: whether it was decodable or not is taken back.
                rows.pop(image_id_of(shard, item.key), None)
                undecodable.pop(item.key, None)
            refused.append(_quarantine_row(shard, item.key, item.member, item.reason, item.detail))
            continue
        try:
            with stats.time("decode"):
                row, crops = _decode(shard, item, encoders, settings)
        except ImageError as error:
            row = _quarantine_row(shard, item.key, item.member, error.reason, error.detail)
            undecodable[item.key] = row
            continue
        rows[row["image_id"]] = row
        batches.add(row["image_id"], crops)
        on_image()
    batches.flush()
    refused += undecodable.values()
    if quota is not None and len(rows) + len(refused) == quota:
        # One further look tells a shard that ended here from one that was cut.
        next(items, None)
    return _Reading(reader=reader, rows=rows, refused=refused, batches=batches)


def _nonfinite_row(shard: Shard, row: Json, encoder: Encoder) -> Json:
    detail = f"{encoder.encoder_id} gave NaN or infinity in {encoder.precision}"
    return _quarantine_row(shard, row["key"], row["member"], Reason.NONFINITE, detail)


def _committed_images(shard: Shard, reading: _Reading, store: Store) -> dict[str, str]:
    """sha256 of every committed image of a shard, after checking that the same was read now."""
    samples = store.samples(shard.shard_id).select(["image_id", "sha256"]).to_pydict()
    committed = dict(zip(samples["image_id"], samples["sha256"], strict=True))
    for image_id, sha256 in committed.items():
        row = reading.rows.get(image_id)
        if row is None or row["sha256"] != sha256:
            what = "is not there any more" if row is None else "has other bytes"
            raise FingerprintError(
                f"shard {shard.url}: {image_id} {what} since it was committed; "
                "restore the shard, or give another --out"
            )
    return committed


def _timed(items: Iterator[Sample | Refusal], stats: Stats) -> Iterator[Sample | Refusal]:
    """The items, with the time spent waiting for them counted as reading."""
    end = object()
    while True:
        with stats.time("read"):
            item = next(items, end)
        if item is end:
            return
        assert isinstance(item, (Sample, Refusal))
        yield item


def _decode(
    shard: Shard, sample: Sample, encoders: Sequence[Encoder], settings: ReadSettings
) -> tuple[Json, dict[CropSpec, torch.Tensor]]:
    decoded = images.decode(sample.data, settings)
    wanted = {images.PHASH_CROP, *(encoder.record.crop for encoder in encoders)}
    crops = {crop: images.cut(decoded.pixels_HWC, crop) for crop in wanted}
    row = {
        "image_id": image_id_of(shard, sample.key),
        "dataset": shard.dataset,
        "shard": shard.url,
        "key": sample.key,
        "member": sample.member,
        "offset": sample.offset,
        "num_bytes": len(sample.data),
        "sha256": hashlib.sha256(sample.data).hexdigest(),
        "phash": images.perceptual_hash(crops[images.PHASH_CROP]),
        "width": decoded.width,
        "height": decoded.height,
        "format": decoded.format,
        "exif_orientation": decoded.exif_orientation,
        "caption": sample.caption,
        "url": sample.url,
        "label": sample.label,
        "meta": sample.meta,
    }
    return row, crops


def _quarantine_row(shard: Shard, key: str, member: str, reason: Reason, detail: str) -> Json:
    return {
        "dataset": shard.dataset,
        "shard": shard.url,
        "key": key,
        "member": member,
        "reason": reason.value,
        "detail": detail,
    }


def _commit_samples(
    shard: Shard, reading: _Reading, store: Store, settings: ReadSettings, quota: int | None
) -> None:
    rows, refused, report = reading.rows, reading.refused, reading.reader.report
    name = f"{shard.shard_id}.{new_attempt()}.parquet"
    files = [
        store.write_table(table_of(list(rows.values()), schema.SAMPLES), "samples", name),
        store.write_table(table_of(refused, schema.QUARANTINE), "quarantine", name),
    ]
    assert not report.complete or report.num_samples == len(rows) + len(refused)
    record: Json = {
        "stage": "samples",
        "shard": {
            "dataset": shard.dataset,
            "stem": shard.stem,
            "url": shard.url,
            "num_bytes": shard.num_bytes,
            "modified": shard.modified,
            "sha256": report.sha256 if report.complete else checksum(shard),
            "sidecar_sha256": report.sidecar_sha256,
        },
        "reading": reading_fingerprint(settings),
        "cut_after": None if report.complete else quota,
        "num_samples": len(rows) + len(refused),
        "num_decodable": len(rows),
        "num_quarantined": len(refused),
        "bytes": report.bytes if report.complete else None,
        "damaged": report.damaged,
        "notes": list(report.notes),
        "versions": versions(),
    }
    store.commit("samples", shard.shard_id, files, record)


def _commit_vectors(
    shard: Shard,
    encoder: Encoder,
    reading: _Reading,
    committed: dict[str, str],
    store: Store,
) -> int:
    """Commit one encoder's vectors; the number of images for which it gave none."""
    batches, bad = reading.batches, reading.batches.nonfinite(encoder)
    places = [
        place
        for place, image_id in enumerate(batches.image_ids)
        if image_id in committed and image_id not in bad
    ]
    refused = [
        _nonfinite_row(shard, reading.rows[image_id], encoder)
        for image_id in sorted(bad & committed.keys())
    ]
    name = f"{shard.shard_id}.{new_attempt()}.parquet"
    image_ids = [batches.image_ids[place] for place in places]
    table = vector_table(image_ids, batches.vectors(encoder)[places])
    files = [store.write_table(table, f"vectors/{encoder.encoder_id}", name)]
    if refused:
        files.append(store.write_table(table_of(refused, schema.QUARANTINE), "quarantine", name))
    record = vectors_record(
        encoder,
        batch_size=batches.batch_size,
        num_quarantined=len(refused),
        samples_sha256=store.record("samples", shard.shard_id)["files"][0]["sha256"],
    )
    store.commit(f"vectors/{encoder.encoder_id}", shard.shard_id, files, record)
    return len(refused)


def reading_fingerprint(settings: ReadSettings) -> Json:
    """The settings on which a shard's samples depend."""
    return {
        "max_pixels": settings.max_pixels,
        "max_aspect_ratio": settings.max_aspect_ratio,
        "max_member_bytes": settings.max_member_bytes,
        "stem_depth": settings.stem_depth,
    }


def image_id_of(shard: Shard, key: str) -> str:
    """`<dataset>/<shard stem>/<key>`."""
    return f"{shard.dataset}/{shard.stem}/{key}"
