"""clip-retrieval's folder: CLIP embeddings as npy files, and Parquet rows that go with them.

Shape suffixes: N images, D width of a vector.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from miner.errors import StoreError
from miner.handoff.source import public_shard, public_url
from miner.handoff.work import Files, Format, Work
from miner.records import Json
from miner.rows import by_shard
from miner.store import Store
from miner.vectors import EncoderVectors

PART_ROWS = 250_000
"""Rows of one npy file, at most."""

METADATA = pa.schema(
    [
        pa.field("image_path", pa.string()),
        pa.field("caption", pa.string()),
        pa.field("url", pa.string()),
        pa.field("key", pa.string()),
        pa.field("image_id", pa.string()),
        pa.field("sha256", pa.string()),
        pa.field("shard", pa.string()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("label", pa.string()),
    ]
)

USAGE = """\
`img_emb/img_emb_0.npy` (float16, unit length, CLIP's) and `metadata/metadata_0.parquet`, row by
row the same images: what `clip-retrieval index` and autofaiss read. The files of a folder are in
order by their names.
"""


def write(work: Work) -> Files:
    """Write embeddings and metadata."""
    for name in ("img_emb", "metadata"):
        (work.folder / name).mkdir()
    parts = _parts(_rows(work))
    digits = len(str(max(0, _num_rows(work) - 1) // PART_ROWS))
    for number, (rows, vectors_ND) in enumerate(parts):
        name = f"{number:0{digits}d}"
        np.save(work.folder / "img_emb" / f"img_emb_{name}.npy", vectors_ND, allow_pickle=False)
        table = pa.Table.from_pylist(rows, schema=METADATA)
        pq.write_table(table, work.folder / "metadata" / f"metadata_{name}.parquet")
    return {}


def inputs(work: Work) -> object:
    """Hashes of the vectors that are read."""
    return {
        f"{place}/{shard_id}": [
            record["files"][0]["sha256"] for record in vectors.records(shard_id)
        ]
        for place, store, vectors in _runs(work)
        for shard_id in store.committed("samples")
    }


def _runs(work: Work) -> Iterator[tuple[int, Store, EncoderVectors]]:
    for place, store in enumerate(work.runs):
        yield place, store, EncoderVectors(store, work.handoff.facts.clip.encoder_id)


def _wanted(work: Work, store: Store, vectors: EncoderVectors) -> dict[str, set[str] | None]:
    """The shards to read of a run, with the images that are meant; None for all of them."""
    if work.settings.all_images:
        named = (name for name in store.committed("samples") if vectors.names(name))
        return dict.fromkeys(named)
    return dict(sorted(by_shard(store, work.handoff.images).items()))


def _num_rows(work: Work) -> int:
    counts = (
        len(vectors.ids(shard_id)) if ids is None else len(ids)
        for _, store, vectors in _runs(work)
        for shard_id, ids in _wanted(work, store, vectors).items()
    )
    return sum(counts)


def _rows(work: Work) -> Iterator[tuple[Json, np.ndarray]]:
    """Each image's row of METADATA with its vector [D] float16, shard by shard."""
    for _, store, vectors in _runs(work):
        for shard_id, wanted in _wanted(work, store, vectors).items():
            samples = {row["image_id"]: row for row in store.samples(shard_id).to_pylist()}
            ids, vectors_ND = vectors.read(shard_id)
            if lacking := (wanted or set()) - set(ids):
                raise StoreError(
                    f"{len(lacking)} images of shard {shard_id} have no CLIP vector "
                    f"({min(lacking)}, ...); run `blindpairs verify {store.root}`"
                )
            for image_id, vector_D in zip(ids, vectors_ND, strict=True):
                if wanted is None or image_id in wanted:
                    yield _metadata(samples[image_id]), vector_D


def _metadata(sample: Json) -> Json:
    said = {name: sample.get(name) for name in METADATA.names}
    said |= {"shard": public_shard(sample["shard"]), "url": public_url(sample["url"])}
    return said | {"image_path": sample["member"]}


def _parts(rows: Iterable[tuple[Json, np.ndarray]]) -> Iterator[tuple[list[Json], np.ndarray]]:
    said: list[Json] = []
    vectors: list[np.ndarray] = []
    for row, vector_D in rows:
        said.append(row)
        vectors.append(vector_D)
        if len(said) == PART_ROWS:
            yield said, np.stack(vectors)
            said, vectors = [], []
    if said:
        yield said, np.stack(vectors)


FORMAT = Format(
    name="clip-retrieval",
    summary="CLIP embeddings and metadata",
    usage=USAGE,
    write=write,
    options=frozenset({"all_images"}),
    inputs=inputs,
)
