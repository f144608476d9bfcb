"""Existing embeddings become a run: samples from the first encoder's, vectors from each.

The encoder that is imported first into a dataset brings its images; of any other, vectors are taken
for images that are known, by their ids. Each shard is committed once and whole, so that the same
command goes on where it was.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np

from miner.audit import collect_garbage
from miner.commits import reading_fingerprint
from miner.config import ReadSettings
from miner.errors import StoreError
from miner.importing.encoder import ImportedEncoder
from miner.importing.index import SourceIndex, hashes_of
from miner.importing.samples import commit_samples, slices_of
from miner.importing.source_files import SourceFiles
from miner.importing.sources import Part
from miner.importing.vectors import KnownShard, commit_vectors, load_shard
from miner.names import shown
from miner.records import Json
from miner.schema import Reason
from miner.store import Store

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Imported:
    """What an import did and found.

    Attributes:
        encoder_id: whose vectors.
        dataset: whose images.
        num_rows: of the source.
        max_bad_fraction: share of refused rows above which an import counts as partial.
        new_samples: rows that became samples, or were quarantined, now.
        new_vectors: vectors that were committed now.
        shards: shards of the dataset, and by what became of them: `new`, `known`, `untouched`
            where the source has no image of theirs.
        brings_images: whether this encoder's import made the samples.
        num_images: samples of the dataset.
        refused: of all shards, samples without a vector by reason, and rows without a sample, too,
            where the import made the samples.
        num_unknown: ids of the source that no image of the dataset has.
        num_repeated: rows whose id an earlier row of their part has.
    """

    encoder_id: str
    dataset: str
    num_rows: int
    brings_images: bool
    max_bad_fraction: float
    num_images: int = 0
    new_samples: int = 0
    new_vectors: int = 0
    shards: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    num_unknown: int = 0
    num_repeated: int = 0

    @property
    def num_bad(self) -> int:
        """Rows that are no vector or no id; images that nobody encoded are not among them."""
        return self.refused.total() - self.num_missing

    @property
    def num_missing(self) -> int:
        """Images without a vector in the source."""
        return self.refused[Reason.NO_VECTOR.value]

    @property
    def is_partial(self) -> bool:
        """Whether ids have no counterpart, or too many rows were refused."""
        too_many = self.num_bad > self.max_bad_fraction * max(self.num_rows, self.num_images)
        return bool(self.num_missing or self.num_unknown or self.num_repeated or too_many)


def dataset_of(store: Store, given: str | None, default: str) -> str:
    """The dataset to import into: the given one, the run's only one, or a default for a new run.

    Raises:
        StoreError: the run has several.
    """
    if given is not None:
        return given
    names = {store.record("samples", name)["shard"]["dataset"] for name in _committed(store)}
    if len(names) > 1:
        raise StoreError(
            f"{store.root} holds the datasets {', '.join(sorted(names))}; give one (--dataset)"
        )
    return next(iter(names), default)


def import_embeddings(
    store: Store,
    parts: Sequence[Part],
    encoder: ImportedEncoder,
    *,
    dataset: str,
    origin: Json,
    command: Json,
    by_position: bool = False,
    max_bad_fraction: float = 0.01,
    progress: Callable[[int], None] = lambda num_steps: None,
) -> Imported:
    """Import an encoder's vectors, and the images too where it is the dataset's first.

    Args:
        store: the run directory; made where it is not there.
        parts: of the source.
        encoder: whose vectors.
        dataset: whose images.
        origin: what commits say of the source.
        command: what is logged in run.json.
        by_position: ids are row numbers.
        max_bad_fraction: see `Imported`.
        progress: called after each step, with the number of all: samples of a shard, or vectors.

    Raises:
        StoreError: no id of the source is known, or the source contradicts itself.
        FingerprintError: a part that was imported has changed.
    """
    done = Imported(
        encoder_id=encoder.encoder_id,
        dataset=dataset,
        num_rows=sum(part.num_rows for part in parts),
        brings_images=_brings_images(store, dataset, encoder.encoder_id),
        max_bad_fraction=max_bad_fraction,
    )
    files = SourceFiles()
    origin = {**origin, "encoder_id": encoder.encoder_id}
    slices = slices_of(parts, dataset) if done.brings_images else []
    places = {each.shard_id: each.place for each in slices}
    reading = reading_fingerprint(ReadSettings())
    if store.exists():
        reading = store.run()["reading"]
    if done.brings_images:
        _check_not_imported(store, parts, dataset, files)
    with store.writing():
        store.update_run(reading, places, command)
        for _, own in groupby(slices, key=lambda each: each.part.name):
            for num_rows in commit_samples(store, [*own], origin, files):
                done.new_samples += num_rows
                progress(2 * len(slices))
        _import_vectors(
            store,
            parts,
            encoder,
            done,
            origin,
            files,
            by_position=by_position,
            progress=lambda num_shards: progress(len(slices) + num_shards),
        )
    collect_garbage(store, spare=("packed",))
    return done


def _committed(store: Store) -> list[str]:
    return store.committed("samples") if store.exists() else []


def _brings_images(store: Store, dataset: str, encoder_id: str) -> bool:
    """Whether an encoder is the one whose import made, or makes, a dataset's samples."""
    for shard_id in _committed(store):
        record = store.record("samples", shard_id)
        if record["shard"]["dataset"] == dataset:
            return bool(record.get("imported", {}).get("encoder_id") == encoder_id)
    return True


def _check_not_imported(
    store: Store, parts: Sequence[Part], dataset: str, files: SourceFiles
) -> None:
    """Refuse a new part whose vectors another part of the dataset brought, under its name then."""
    known: dict[str, str] = {}
    for shard_id in _committed(store):
        record = store.record("samples", shard_id)
        if record["shard"]["dataset"] == dataset and "imported" in record:
            known[record["imported"]["part"]] = record["shard"]["sha256"]
    of = {sha256: name for name, sha256 in known.items()}
    for part in parts:
        path = part.vectors.path
        if part.name not in known and (was := of.get(files.record(path)["sha256"])) is not None:
            raise StoreError(
                f"{path} would be part {part.name}, and its bytes are those of part {was} of "
                f"dataset {dataset}, so its images would be there twice; name the file as it was, "
                "or give another --dataset"
            )


def _import_vectors(
    store: Store,
    parts: Sequence[Part],
    encoder: ImportedEncoder,
    done: Imported,
    origin: Json,
    files: SourceFiles,
    *,
    by_position: bool,
    progress: Callable[[int], None],
) -> None:
    """Commit the vectors of every shard of the dataset that has none and occurs in the source."""
    shard_ids = [
        name
        for name in store.committed("samples")
        if store.record("samples", name)["shard"]["dataset"] == done.dataset
    ]
    index = SourceIndex(parts)
    shared = _shared_keys(store, shard_ids)
    stage = f"vectors/{encoder.encoder_id}"
    for shard_id in shard_ids:
        shard = load_shard(store, shard_id)
        if by_position:
            _check_positions(shard, parts)
        found = index.find(
            shard.keys,
            shard.image_ids,
            shard.part_name,
            shared=shared,
            by_position=by_position,
        )
        if store.is_committed(stage, shard_id):
            was = store.record(stage, shard_id)
            for part in parts:
                files.check(part, was.get("imported", {"files": []})["files"], shard_id)
            outcome = "known"
        elif (found >= 0).any() or not shard.keys:
            done.new_vectors += commit_vectors(store, shard, index, found, encoder, origin, files)
            outcome = "new"
        else:
            outcome = "untouched"
        done.shards[outcome] += 1
        _account(store, stage, shard, done)
        progress(len(shard_ids))
    if not done.brings_images:
        done.num_unknown, done.num_repeated = index.num_unknown, index.num_repeated
    if done.shards["new"] + done.shards["known"] == 0:
        raise StoreError(
            f"no id of the source is one of the dataset {done.dataset} of {store.root}: "
            f"{_some(parts[0].ids())} there, {_some(shard.keys)} here; name the column of "
            "the same ids (--id-column), or give another --dataset"
        )


def _shared_keys(store: Store, shard_ids: Sequence[str]) -> np.ndarray:
    """Sorted hashes of the keys that several shards have."""
    found = [hashes_of(load_shard(store, shard_id).keys) for shard_id in shard_ids]
    hashes, counts = np.unique(np.concatenate(found), return_counts=True)
    shared: np.ndarray = hashes[counts > 1]
    return shared


def _check_positions(shard: KnownShard, parts: Sequence[Part]) -> None:
    """Refuse row numbers as ids where the part they are of was another one."""
    made = shard.record.get("imported", {})
    if made.get("ids") != "position":
        raise StoreError(
            f"{shard.shard_id} has images with ids, not row numbers; give the ids of the vectors "
            "(--ids, --id-column) instead of --by-position"
        )
    for part in parts:
        if part.name == shard.part_name and part.num_rows != made["part_rows"]:
            raise StoreError(
                f"part {part.name} has {part.num_rows} rows, and {made['part_rows']} when its "
                "images were imported; by position both have to be the same images: give ids"
            )


def _account(store: Store, stage: str, shard: KnownShard, done: Imported) -> None:
    """Add what a shard has, and lacks, to what was found."""
    done.num_images += len(shard.keys)
    if done.brings_images:
        done.refused.update(store.reasons(shard.shard_id))
    if store.is_committed(stage, shard.shard_id):
        done.refused.update(store.record(stage, shard.shard_id).get("reasons", {}))
    else:
        done.refused[Reason.NO_VECTOR.value] += len(shard.keys)


def _some(ids: Sequence[str | None]) -> str:
    """The first ids, for a message."""
    return ", ".join(repr(shown(name or ""))[:60] for name in ids[:2]) + ", ..."
