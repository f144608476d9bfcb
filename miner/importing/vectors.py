"""The vectors of one shard, taken from a source and committed.

Shape suffixes: K images of a shard, R rows that are asked for, D width of a vector.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from miner import schema
from miner.audit import UNIT_TOLERANCE
from miner.importing.embedding_files import CHUNK_ROWS, MAX_DIM
from miner.importing.encoder import ImportedEncoder
from miner.importing.index import AMBIGUOUS, MISSING, SourceIndex
from miner.importing.samples import quarantine_row
from miner.importing.source_files import SourceFiles
from miner.records import Json, new_attempt
from miner.schema import Reason
from miner.store import Store
from miner.tables import table_of, vector_table
from miner.versions import versions

REFUSALS = {
    MISSING: (Reason.NO_VECTOR, "the source has no vector of this id"),
    AMBIGUOUS: (Reason.NO_VECTOR, "the source has several vectors of this id, in other parts"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownShard:
    """A shard of the dataset, and its images."""

    shard_id: str
    record: Json
    keys: list[str]
    image_ids: list[str]

    @property
    def part_name(self) -> str:
        """The part of a source that it was made of, or would be."""
        return str(self.record.get("imported", {}).get("part", self.record["shard"]["stem"]))


def load_shard(store: Store, shard_id: str) -> KnownShard:
    """A committed shard."""
    record = store.record("samples", shard_id)
    table = store.table(record, "samples", ["key", "image_id"]).to_pydict()
    return KnownShard(
        shard_id=shard_id, record=record, keys=table["key"], image_ids=table["image_id"]
    )


def commit_vectors(
    store: Store,
    shard: KnownShard,
    index: SourceIndex,
    found: np.ndarray,
    encoder: ImportedEncoder,
    origin: Json,
    files: SourceFiles,
) -> int:
    """Commit the vectors of a shard; how many it has."""
    vectors_KD = np.zeros((len(found), encoder.dim), np.float16)
    reasons: dict[int, tuple[Reason, str]] = {
        int(place): REFUSALS[int(found[place])] for place in np.flatnonzero(found < 0)
    }
    used = np.unique(index.part[found[found >= 0]]).tolist()
    for part_at in used:
        part = index.parts[part_at]
        mine = np.flatnonzero((found >= 0) & (index.part[found] == part_at))
        mine = mine[np.argsort(index.row[found[mine]], kind="stable")]
        rows = index.row[found[mine]]
        for places, chunk in part.vectors.chunks(rows):
            unit, is_zero, is_bad = unit_rows(chunk)
            vectors_KD[mine[places]] = unit
            for bad in np.flatnonzero(is_zero | is_bad):
                where = f"{part.vectors.path.name}, row {rows[places[bad]]}"
                reasons[int(mine[places[bad]])] = (
                    (Reason.ZERO_VECTOR, f"{where}: all numbers are zero")
                    if is_zero[bad]
                    else (Reason.NONFINITE, f"{where}: no vector, or NaN or infinity in it")
                )
    kept = [place for place in range(len(found)) if place not in reasons]
    url, name = shard.record["shard"]["url"], f"{shard.shard_id}.{new_attempt()}.parquet"
    refused = [
        quarantine_row(shard.record["shard"]["dataset"], url, shard.keys[place], *reasons[place])
        for place in sorted(reasons)
    ]
    table = vector_table([shard.image_ids[place] for place in kept], vectors_KD[kept])
    stage = f"vectors/{encoder.encoder_id}"
    entries = [store.write_table(table, stage, name)]
    if refused:
        entries.append(store.write_table(table_of(refused, schema.QUARANTINE), "quarantine", name))
    sources = [index.parts[part_at] for part_at in used]
    record: Json = {
        "stage": "vectors",
        "encoder_id": encoder.encoder_id,
        "encoder": encoder.record,
        "backend": "imported",
        "precision": "fp16" if any(p.vectors.precision == "fp16" for p in sources) else "fp32",
        "device": "unknown",
        "deviation": 0.0,
        "batch_size": None,
        "num_quarantined": len(refused),
        "reasons": dict(sorted(Counter(row["reason"] for row in refused).items())),
        "samples_sha256": shard.record["files"][0]["sha256"],
        "versions": versions(),
        "imported": {
            **origin,
            "weights": "declared" if encoder.record["weights_sha256"] else "unknown",
            "files": [files.record(part.vectors.path) for part in sources],
        },
    }
    store.commit(stage, shard.shard_id, entries, record)
    return len(kept)


def unit_rows(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of unit length as the store keeps them.

    Rows that have it already, within what float16 may take from it, are kept as they are, so that
    what a run exported comes back bit by bit.

    Args:
        rows: [R, D] of any float.

    Returns:
        [R, D] float16, and which rows are zero, [R], and which hold NaN or infinity, [R]; both
        become zeros.
    """
    unit = np.zeros(rows.shape, np.float16)
    is_zero, is_bad = np.zeros(len(rows), bool), np.zeros(len(rows), bool)
    for start in range(0, len(rows), CHUNK_ROWS):
        wide = rows[start : start + CHUNK_ROWS].astype(np.float64)
        part = slice(start, start + len(wide))
        largest = np.abs(wide).max(axis=1)
        is_zero[part], is_bad[part] = largest == 0, ~np.isfinite(largest)
        good = ~(is_zero[part] | is_bad[part])
        wide[~good], largest[~good] = 0, 1
        # Divided first, since squares may overflow or vanish.
        scaled = wide / largest[:, None]
        scale = np.where(good, np.linalg.norm(scaled, axis=1), 1)
        # No number of a unit row is far above 1, and not all are tiny.
        usual = np.where((largest > 1 / MAX_DIM) & (largest < 2), largest, 0)
        is_unit = np.abs(scale * usual - 1) <= UNIT_TOLERANCE
        unit[part] = np.where(is_unit[:, None], np.clip(wide, -2, 2), scaled / scale[:, None])
    return unit, is_zero, is_bad
