"""One shard: read, decode once, encode, one table for the samples and one for each encoder.

Batches never cross shards, so a shard's rows do not depend on what was read before it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import torch

from miner import images, schema
from miner.config import ReadSettings
from miner.encoders import TorchEncoder
from miner.errors import FingerprintError, ImageError
from miner.images import CropSpec
from miner.records import new_attempt
from miner.schema import Reason
from miner.shards import ImageFetcher, Refusal, Sample, Shard, ShardReader, checksum
from miner.stats import Stats
from miner.store import Store, table_of, vector_table
from miner.versions import versions

BF16_DEVIATION = 5e-3
"""What bfloat16 may move a pair's cosine by where no parity check has measured it."""

Row = dict[str, Any]


@dataclass(kw_only=True)
class _Encoded:
    """Vectors of the images of one shard, batch by batch, for each encoder."""

    encoders: Sequence[TorchEncoder]
    batch_size: int
    stats: Stats
    image_ids: list[str] = field(default_factory=list)
    pending: list[dict[CropSpec, torch.Tensor]] = field(default_factory=list)
    batches: dict[str, list[np.ndarray]] = field(default_factory=dict)

    def add(self, image_id: str, crops: dict[CropSpec, torch.Tensor]) -> None:
        self.image_ids.append(image_id)
        self.pending.append(crops)
        if len(self.pending) == self.batch_size:
            self.flush()

    def flush(self) -> None:
        if not self.pending:
            return
        for encoder in self.encoders:
            pixels_BCHW = torch.stack([crops[encoder.record.crop] for crops in self.pending])
            with self.stats.time(f"encode {encoder.record.name}"):
                vectors_BD = encoder(pixels_BCHW).cpu().numpy()
            self.batches.setdefault(encoder.encoder_id, []).append(vectors_BD)
        self.pending.clear()

    def vectors(self, encoder: TorchEncoder) -> np.ndarray:
        """[N, D] float32 in the order of `image_ids`."""
        batches = self.batches.get(encoder.encoder_id)
        return np.concatenate(batches) if batches else np.empty((0, encoder.dim), np.float32)

    def nonfinite(self) -> set[str]:
        """Images for which some encoder gave no finite vector."""
        bad: set[str] = set()
        for encoder in self.encoders:
            rows = np.flatnonzero(~np.isfinite(self.vectors(encoder)).all(axis=1))
            bad.update(self.image_ids[row] for row in rows)
        return bad


def image_id_of(shard: Shard, key: str) -> str:
    """`<dataset>/<shard stem>/<key>`."""
    return f"{shard.dataset}/{shard.stem}/{key}"


def embed_shard(
    shard: Shard,
    encoders: Sequence[TorchEncoder],
    *,
    store: Store,
    settings: ReadSettings,
    batch_size: int,
    quota: int | None = None,
) -> Stats:
    """Do whatever is missing of one shard, and commit it.

    Args:
        shard: what to read.
        encoders: those whose vectors are wanted; the ones already committed are skipped.
        store: the run directory.
        settings: limits for images, and the reading settings that are recorded.
        batch_size: images to a batch.
        quota: stop after this many samples (`--limit`).

    Returns:
        Counts (`samples`, `decodable`, `quarantined`, `shards`) and seconds of each stage. A
        shard of which nothing was missing counts nothing.

    Raises:
        ShardError: the shard cannot be read.
        FingerprintError: the shard's bytes are not those that were committed.
    """
    missing = [
        encoder
        for encoder in encoders
        if not store.commit_path(f"vectors/{encoder.encoder_id}", shard.shard_id).exists()
    ]
    if not store.commit_path("samples", shard.shard_id).exists():
        return _embed_new(shard, encoders, store, settings, batch_size, quota)
    if missing:
        return _embed_again(shard, missing, store, settings, batch_size)
    return Stats()


def _embed_new(
    shard: Shard,
    encoders: Sequence[TorchEncoder],
    store: Store,
    settings: ReadSettings,
    batch_size: int,
    quota: int | None,
) -> Stats:
    stats = Stats()
    encoded = _Encoded(encoders=encoders, batch_size=batch_size, stats=stats)
    reader = ShardReader(shard, settings)
    rows: dict[str, Row] = {}
    refused: list[Row] = []
    for item in _timed(islice(reader, quota), stats):
        if isinstance(item, Refusal):
            if item.retracts:
                rows.pop(image_id_of(shard, item.key))
            refused.append(_quarantine_row(shard, item.key, item.member, item.reason, item.detail))
            continue
        try:
            with stats.time("decode"):
                row, crops = _decode(shard, item, encoders, settings)
        except ImageError as error:
            refused.append(
                _quarantine_row(shard, item.key, item.member, error.reason, error.detail)
            )
            continue
        rows[row["image_id"]] = row
        encoded.add(row["image_id"], crops)
    encoded.flush()
    for image_id in encoded.nonfinite() & rows.keys():
        row = rows.pop(image_id)
        detail = "an encoder gave NaN or infinity for these pixels"
        refused.append(_quarantine_row(shard, row["key"], row["member"], Reason.NONFINITE, detail))
    with stats.time("write"):
        _commit_samples(shard, reader, list(rows.values()), refused, store, settings, quota)
        for encoder in encoders:
            _commit_vectors(shard, encoder, encoded, rows.keys(), [], store)
    stats.count("shards")
    stats.count("samples", len(rows) + len(refused))
    stats.count("decodable", len(rows))
    stats.count("quarantined", len(refused))
    for encoder in encoders:
        stats.count(f"encoded {encoder.record.name}", len(rows))
    return stats


def _embed_again(
    shard: Shard,
    encoders: Sequence[TorchEncoder],
    store: Store,
    settings: ReadSettings,
    batch_size: int,
) -> Stats:
    """Vectors of further encoders, for the samples that were committed before."""
    stats = Stats()
    encoded = _Encoded(encoders=encoders, batch_size=batch_size, stats=stats)
    crops_wanted = {encoder.record.crop for encoder in encoders}
    samples = store.samples(shard.shard_id).to_pylist()
    with ImageFetcher() as fetcher:
        for row in samples:
            with stats.time("read"):
                data = fetcher.read(shard.url, row["member"], row["offset"], row["num_bytes"])
            if hashlib.sha256(data).hexdigest() != row["sha256"]:
                raise FingerprintError(
                    f"shard {shard.url}: the bytes of {row['image_id']} at offset {row['offset']} "
                    "are not those that were committed; restore the shard or use another --out"
                )
            with stats.time("decode"):
                pixels_HWC = images.decode(data, settings).pixels_HWC
                crops = {crop: images.cut(pixels_HWC, crop) for crop in crops_wanted}
            encoded.add(row["image_id"], crops)
    encoded.flush()
    bad = encoded.nonfinite()
    refused = [
        _quarantine_row(shard, row["key"], row["member"], Reason.NONFINITE, "for a later encoder")
        for row in samples
        if row["image_id"] in bad
    ]
    kept = {row["image_id"]: row for row in samples if row["image_id"] not in bad}
    with stats.time("write"):
        for encoder in encoders:
            _commit_vectors(shard, encoder, encoded, kept.keys(), refused, store)
            stats.count(f"encoded {encoder.record.name}", len(kept))
    stats.count("shards again")
    return stats


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
    shard: Shard, sample: Sample, encoders: Sequence[TorchEncoder], settings: ReadSettings
) -> tuple[Row, dict[CropSpec, torch.Tensor]]:
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


def _quarantine_row(shard: Shard, key: str, member: str, reason: Reason, detail: str) -> Row:
    return {
        "dataset": shard.dataset,
        "shard": shard.url,
        "key": key,
        "member": member,
        "reason": reason.value,
        "detail": detail,
    }


def _commit_samples(
    shard: Shard,
    reader: ShardReader,
    rows: list[Row],
    refused: list[Row],
    store: Store,
    settings: ReadSettings,
    quota: int | None,
) -> None:
    name = f"{shard.shard_id}.{new_attempt()}.parquet"
    files = [
        store.write_table(table_of(rows, schema.SAMPLES), "samples", name),
        store.write_table(table_of(refused, schema.QUARANTINE), "quarantine", name),
    ]
    report = reader.report
    record: Row = {
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
    assert not report.complete or report.num_samples == record["num_samples"]
    store.commit("samples", shard.shard_id, files, record)


def _commit_vectors(
    shard: Shard,
    encoder: TorchEncoder,
    encoded: _Encoded,
    kept: Any,
    refused: list[Row],
    store: Store,
) -> None:
    name = f"{shard.shard_id}.{new_attempt()}.parquet"
    places = [row for row, image_id in enumerate(encoded.image_ids) if image_id in kept]
    table = vector_table(
        [encoded.image_ids[row] for row in places], encoded.vectors(encoder)[places]
    )
    files = [store.write_table(table, f"vectors/{encoder.encoder_id}", name)]
    if refused:
        files.append(store.write_table(table_of(refused, schema.QUARANTINE), "quarantine", name))
    samples = store.record("samples", shard.shard_id)
    record: Row = {
        "stage": "vectors",
        "encoder_id": encoder.encoder_id,
        "encoder": encoder.record.model_dump(mode="json"),
        "precision": str(encoder.dtype).removeprefix("torch."),
        "device": str(encoder.device),
        "deviation": 0.0 if encoder.dtype == torch.float32 else BF16_DEVIATION,
        "samples_sha256": samples["files"][0]["sha256"],
        "versions": versions(),
    }
    store.commit(f"vectors/{encoder.encoder_id}", shard.shard_id, files, record)


def reading_fingerprint(settings: ReadSettings) -> Row:
    """The settings on which a shard's samples depend."""
    return {
        "max_pixels": settings.max_pixels,
        "max_aspect_ratio": settings.max_aspect_ratio,
        "max_member_bytes": settings.max_member_bytes,
        "stem_depth": settings.stem_depth,
    }
