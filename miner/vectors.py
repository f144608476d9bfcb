"""One encoder's committed vectors: of whole shards, and of parts of others.

Where an encoder looks at few images of a shard only, these are a part, and a shard may have
several. A part is committed as `<shard_id>~<kind>-<8 hex of its images' hash>`; no shard_id holds
a `~`. Kinds:

    lazy    images that a join needed (`--dino-mode lazy`); the commit of the whole shard stands in
            the place of all of these
    fp32    images of borderline pairs, encoded anew (`--recheck`); read by nobody else

Shape suffixes: N images, D width of a vector.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence

import numpy as np

from miner.encoders import Encoder
from miner.records import Json, digest
from miner.store import Store
from miner.versions import versions

LAZY, FP32 = "lazy", "fp32"


def part_name(shard_id: str, kind: str, image_ids: Collection[str]) -> str:
    """What a part with these images is committed as."""
    return f"{shard_id}~{kind}-{digest(sorted(image_ids))[:8]}"


def shard_of(name: str) -> str:
    """The shard_id of a commit of vectors, be it whole or a part."""
    return name.partition("~")[0]


class EncoderVectors:
    """What was committed of an encoder when this was made.

    Attributes:
        store: the run directory.
        encoder_id: whose vectors.
        stage: of their commits.
        whole: shards that have all their vectors.
    """

    def __init__(self, store: Store, encoder_id: str) -> None:
        self.store, self.encoder_id = store, encoder_id
        self.stage = f"vectors/{encoder_id}"
        self.whole: set[str] = set()
        self._parts: dict[tuple[str, str], list[str]] = defaultdict(list)
        for name in store.committed(self.stage):
            shard_id, is_part, part = name.partition("~")
            if is_part:
                self._parts[shard_id, part.partition("-")[0]].append(name)
            else:
                self.whole.add(shard_id)

    def names(self, shard_id: str, kind: str = LAZY) -> list[str]:
        """The commits to read of a shard: the whole one, or its parts of a kind, sorted."""
        if kind == LAZY and shard_id in self.whole:
            return [shard_id]
        return self._parts.get((shard_id, kind), [])

    def records(self, shard_id: str, kind: str = LAZY) -> list[Json]:
        """Their records."""
        return [self.store.record(self.stage, name) for name in self.names(shard_id, kind)]

    def superseded(self) -> list[str]:
        """Parts that nobody reads any more, because their shard has all its vectors."""
        stale = []
        for (shard_id, kind), names in self._parts.items():
            if shard_id not in self.whole:
                continue
            is_exact = self.store.record(self.stage, shard_id)["deviation"] == 0
            stale += names if kind == LAZY or is_exact else []
        return sorted(stale)

    def ids(self, shard_id: str, kind: str = LAZY) -> list[str]:
        """The images of a shard that have a vector, each once."""
        names = self.names(shard_id, kind)
        found = (i for name in names for i in self.store.vector_ids(self.encoder_id, name))
        return list(dict.fromkeys(found))

    def refused(self, shard_id: str, kind: str = LAZY) -> set[str]:
        """The images of a shard for which the encoder gave no finite vector."""
        found: set[str] = set()
        for record in self.records(shard_id, kind):
            if any(file["path"].startswith("quarantine/") for file in record["files"]):
                shard = self.store.record("samples", shard_id)["shard"]
                keys = self.store.table(record, "quarantine", ["key"])["key"].to_pylist()
                found |= {f"{shard['dataset']}/{shard['stem']}/{key}" for key in keys}
        return found

    def read(self, shard_id: str, kind: str = LAZY) -> tuple[list[str], np.ndarray]:
        """The images of a shard that have a vector, [N] and float16 [N, D].

        Of an image in several parts, which only happens where two joins raced, the first counts.
        """
        parts = [self.store.vectors(self.encoder_id, name) for name in self.names(shard_id, kind)]
        if len(parts) == 1:
            return parts[0]
        if not parts:
            return [], np.empty((0, self.dim), np.float16)
        image_ids = [image_id for ids, _ in parts for image_id in ids]
        first: dict[str, int] = {}
        for row, image_id in enumerate(image_ids):
            first.setdefault(image_id, row)
        return list(first), np.concatenate([vectors for _, vectors in parts])[list(first.values())]

    @property
    def dim(self) -> int:
        """D; 1 where nothing was committed yet."""
        for name in [
            *sorted(self.whole)[:1],
            *(n for names in self._parts.values() for n in names),
        ]:
            return int(self.store.vectors(self.encoder_id, name)[1].shape[1])
        return 1


def files_read(vectors: Sequence[EncoderVectors], shard_ids: Sequence[str], kind: str) -> Json:
    """The commits that stand for some shards, by encoder and name: their files' hashes."""
    return {
        f"{each.encoder_id}/{name}": each.store.record(each.stage, name)["files"][0]["sha256"]
        for each in vectors
        for shard_id in shard_ids
        for name in each.names(shard_id, kind)
    }


def still_read(files: Json, vectors: Sequence[EncoderVectors], kind: str) -> bool:
    """Whether what `files_read` said still stands; further parts may have come."""
    shard_ids = sorted({shard_of(name.partition("/")[2]) for name in files})
    return files.items() <= files_read(vectors, shard_ids, kind).items()


def vectors_record(
    encoder: Encoder,
    *,
    deviation: float,
    batch_size: int,
    num_quarantined: int,
    samples_sha256: str,
) -> Json:
    """What a commit of vectors says besides its files."""
    return {
        "stage": "vectors",
        "encoder_id": encoder.encoder_id,
        "encoder": encoder.record.model_dump(mode="json"),
        "backend": encoder.backend,
        "precision": encoder.precision,
        "device": str(encoder.device),
        "deviation": deviation,
        "batch_size": batch_size,
        "num_quarantined": num_quarantined,
        "samples_sha256": samples_sha256,
        "versions": versions(),
    }
