"""What was read and encoded of one shard becomes part of the run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa

from miner import exclude, schema
from miner.batch import Seen
from miner.batches import Vectors, nonfinite
from miner.config import ReadSettings
from miner.decode import Refused
from miner.encoders import Encoder
from miner.errors import FingerprintError
from miner.law import Refusal
from miner.records import Json, new_attempt
from miner.samples import ShardReport
from miner.schema import Reason
from miner.shards import Shard, checksum, image_id_of
from miner.store import Store
from miner.tables import table_of, vector_table
from miner.vectors import vectors_record
from miner.versions import versions


@dataclass(frozen=True, slots=True, kw_only=True)
class Accounts:
    """One outcome for every sample of a shard.

    Attributes:
        decodable: by key, in the order of the shard.
        refused: rows of `quarantine`: what the shard's law refused, then what could not be decoded.
    """

    decodable: dict[str, Seen]
    refused: list[Json]

    @property
    def excluded(self) -> Counter[str]:
        """How many samples the user's filters left out, by cause."""
        return Counter(
            row["detail"].partition(":")[0]
            for row in self.refused
            if row["reason"] == Reason.EXCLUDED
        )

    @property
    def unrated(self) -> Counter[str]:
        """How many decodable samples lack a rating that a filter asks for, by its name."""
        return Counter(name for seen in self.decodable.values() for name in seen.sample.unrated)

    @property
    def num_samples(self) -> int:
        """Decodable and refused ones together."""
        return len(self.decodable) + len(self.refused)


def account(shard: Shard, entries: Iterable[Seen | Refusal]) -> Accounts:
    """Settle what became of each sample; a refusal may take an earlier sample back."""
    seen: dict[str, Seen] = {}
    refused: list[Json] = []
    for entry in entries:
        if isinstance(entry, Refusal):
            if entry.retracts:
                # One outcome for a sample: whether it was decodable or not is taken back.
                seen.pop(entry.key, None)
            refused.append(
                _quarantine_row(shard, entry.key, entry.member, entry.reason, entry.detail)
            )
        else:
            seen[entry.sample.key] = entry
    for key, sample in seen.items():
        if isinstance(sample.outcome, Refused):
            reason, detail = sample.outcome
            refused.append(_quarantine_row(shard, key, sample.sample.member, reason, detail))
    decodable = {key: sample for key, sample in seen.items() if sample.found}
    return Accounts(decodable=decodable, refused=refused)


def commit_samples(
    shard: Shard,
    accounts: Accounts,
    report: ShardReport,
    store: Store,
    settings: ReadSettings,
    quota: int | None,
) -> None:
    """Commit a shard's samples and refusals."""
    name = f"{shard.shard_id}.{new_attempt()}.parquet"
    files = [
        store.write_table(_samples_table(shard, accounts), "samples", name),
        store.write_table(table_of(accounts.refused, schema.QUARANTINE), "quarantine", name),
    ]
    assert not report.complete or report.num_samples == accounts.num_samples
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
        "num_samples": accounts.num_samples,
        "num_decodable": len(accounts.decodable),
        "num_quarantined": len(accounts.refused),
        "reasons": dict(sorted(Counter(row["reason"] for row in accounts.refused).items())),
        "excluded": dict(sorted(accounts.excluded.items())),
        "unrated": dict(sorted(accounts.unrated.items())),
        "bytes": report.bytes if report.complete else None,
        "damaged": report.damaged,
        "notes": list(report.notes),
        "versions": versions(),
    }
    store.commit("samples", shard.shard_id, files, record)


def committed_images(shard: Shard, accounts: Accounts, store: Store) -> dict[str, str]:
    """sha256 of every committed image of a shard, after checking that the same was read now.

    Raises:
        FingerprintError: an image is gone, has other bytes, or ended its decoder.
    """
    samples = store.samples(shard.shard_id).select(["image_id", "key", "sha256"]).to_pydict()
    crashed = {
        row["key"]: row["detail"]
        for row in accounts.refused
        if row["reason"] == Reason.CRASHED_DECODER
    }
    for image_id, key, sha256 in zip(*samples.values(), strict=True):
        seen = accounts.decodable.get(key)
        if key in crashed:
            raise crash_of_committed(image_id, crashed[key])
        if seen is None or seen.found is None or seen.found.sha256 != sha256:
            what = "is not there any more" if seen is None else "has other bytes"
            raise FingerprintError(
                f"shard {shard.url}: {image_id} {what} since it was committed; "
                "restore the shard, or give another --out"
            )
    return dict(zip(samples["image_id"], samples["sha256"], strict=True))


def crash_of_committed(image_id: str, detail: str) -> FingerprintError:
    """The error where an image that was decodable once ended its decoder later."""
    return FingerprintError(
        f"{image_id} was decodable when it was committed, and now its decoder failed ({detail}); "
        "run the command again, use the versions that run.json names, or give another --out"
    )


def commit_vectors(
    shard: Shard,
    vectors: Vectors,
    accounts: Accounts,
    committed: dict[str, str],
    store: Store,
    *,
    batch_size: int,
) -> int:
    """Commit one encoder's vectors; the number of images for which it gave none.

    Args:
        shard: whose.
        vectors: of its images, and maybe of others that are left out.
        accounts: of its samples.
        committed: the images that are to have vectors, by image_id.
        store: the run directory.
        batch_size: images to a batch, recorded.
    """
    encoder, vectors_ND = vectors.encoder, vectors.vectors_ND
    bad = {vectors.image_ids[row] for row in nonfinite(vectors_ND)} & committed.keys()
    places = [
        place
        for place, image_id in enumerate(vectors.image_ids)
        if image_id in committed and image_id not in bad
    ]
    refused = [
        nonfinite_row(shard, seen.sample.key, seen.sample.member, encoder)
        for key, seen in sorted(accounts.decodable.items())
        if image_id_of(shard, key) in bad
    ]
    name = f"{shard.shard_id}.{new_attempt()}.parquet"
    table = vector_table([vectors.image_ids[place] for place in places], vectors_ND[places])
    files = [store.write_table(table, f"vectors/{encoder.encoder_id}", name)]
    if refused:
        files.append(store.write_table(table_of(refused, schema.QUARANTINE), "quarantine", name))
    record = vectors_record(
        encoder,
        deviation=encoder.deviation,
        batch_size=batch_size,
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
        **exclude.fingerprint(settings),
    }


def _samples_table(shard: Shard, accounts: Accounts) -> pa.Table:
    seen = list(accounts.decodable.values())
    said = [entry.sample for entry in seen]
    found = [entry.found for entry in seen if entry.found]
    columns = {
        "image_id": [image_id_of(shard, sample.key) for sample in said],
        "dataset": [shard.dataset] * len(seen),
        "shard": [shard.url] * len(seen),
        "num_bytes": [entry.num_bytes for entry in seen],
    }
    for name in ("key", "member", "offset", "caption", "url", "label", "meta"):
        columns[name] = [getattr(sample, name) for sample in said]
    for name in ("sha256", "phash", "width", "height", "format", "exif_orientation"):
        columns[name] = [getattr(each, name) for each in found]
    arrays = [pa.array(columns[field.name], field.type) for field in schema.SAMPLES]
    return pa.Table.from_arrays(arrays, schema=schema.SAMPLES)


def nonfinite_row(shard: Shard, key: str, member: str, encoder: Encoder) -> Json:
    """A row of `quarantine`: an image for which an encoder gave no finite vector."""
    detail = f"{encoder.encoder_id} gave NaN or infinity in {encoder.precision}"
    return _quarantine_row(shard, key, member, Reason.NONFINITE, detail)


def _quarantine_row(shard: Shard, key: str, member: str, reason: Reason, detail: str) -> Json:
    return {
        "dataset": shard.dataset,
        "shard": shard.url,
        "key": key,
        "member": member,
        "reason": reason.value,
        "detail": detail,
    }
