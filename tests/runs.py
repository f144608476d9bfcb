"""Run directories with made-up images, for tests of what comes after encoding."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from miner import schema
from miner.records import new_attempt
from miner.store import Store
from miner.tables import table_of, vector_table

CLIP, DINO = "clip-test-00000000", "dino-test-00000000"


def unit(rows: torch.Tensor) -> np.ndarray:
    """Rows of unit length as the store keeps them: [N, D] float16."""
    return torch.nn.functional.normalize(rows.double(), dim=1).numpy().astype(np.float16)


def sample_row(image_id: str, content: bytes, shard: str) -> dict[str, object]:
    """A row of `samples` for an image of which only the bytes are made up."""
    dataset, _, key = image_id.split("/", 2)
    return {
        "image_id": image_id,
        "dataset": dataset,
        "shard": shard,
        "key": key,
        "member": f"{key}.jpg",
        "offset": 512,
        "num_bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "phash": 2**63 + 5,
        "width": 640,
        "height": 480,
        "format": "JPEG",
        "exif_orientation": None,
        "caption": f"a caption of {key}",
        "url": None,
        "label": None,
        "meta": "{}",
    }


def commit_shard(
    store: Store,
    stem: str,
    clip_ND: np.ndarray,
    dino_NE: np.ndarray,
    *,
    contents: Sequence[bytes] | None = None,
    labels: Sequence[str | None] | None = None,
    fields: Sequence[Mapping[str, object]] | None = None,
    refused: int = 0,
    deviation: float = 0.0,
) -> list[str]:
    """Commit one shard of dataset `set` with these vectors; returns its image_ids."""
    shard_id = f"set.{stem}"
    image_ids = [f"set/{stem}/{row:06d}" for row in range(len(clip_ND))]
    contents = contents or [f"{image_id} bytes".encode() for image_id in image_ids]
    url = f"/corpus/{stem}.tar"
    rows = [sample_row(i, content, url) for i, content in zip(image_ids, contents, strict=True)]
    for row, label in zip(rows, labels or [], strict=labels is not None):
        row["label"] = label
    for row, others in zip(rows, fields or [], strict=fields is not None):
        row |= others
    quarantine = [
        {
            "dataset": "set",
            "shard": url,
            "key": f"bad{number}",
            "member": f"bad{number}.jpg",
            "reason": schema.Reason.EMPTY.value,
            "detail": "0 bytes",
        }
        for number in range(refused)
    ]
    name = f"{shard_id}.{new_attempt()}.parquet"
    files = [
        store.write_table(table_of(rows, schema.SAMPLES), "samples", name),
        store.write_table(table_of(quarantine, schema.QUARANTINE), "quarantine", name),
    ]
    shard = {"dataset": "set", "stem": stem, "url": url, "num_bytes": 10240, "modified": "1"}
    record = {
        "shard": {**shard, "sha256": hashlib.sha256(stem.encode()).hexdigest()},
        "num_samples": len(rows) + refused,
        "num_decodable": len(rows),
        "num_quarantined": refused,
        "cut_after": None,
        "damaged": False,
        "bytes": {"headers": 512, "data": 9216, "end": 512},
    }
    assert store.commit("samples", shard_id, files, record)
    for encoder_id, vectors in ((CLIP, clip_ND), (DINO, dino_NE)):
        entry = store.write_table(vector_table(image_ids, vectors), f"vectors/{encoder_id}", name)
        vectors_record = {
            "encoder_id": encoder_id,
            "deviation": deviation,
            "num_quarantined": 0,
            "samples_sha256": files[0].sha256,
        }
        assert store.commit(f"vectors/{encoder_id}", shard_id, [entry], vectors_record)
    return image_ids


def make_store(root: Path, *, num_shards: int = 2, rows: int = 60, seed: int = 0) -> Store:
    """A run with many blind pairs: clip rows in tight groups, dino rows at random."""
    store = Store(root)
    store.update_run({"stem_depth": 1}, {}, {"command": "test", "encoders": [CLIP, DINO]})
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(8, 32, generator=generator)
    for number in range(num_shards):
        groups = torch.randint(0, 8, (rows,), generator=generator)
        clip = centres[groups] + 0.15 * torch.randn(rows, 32, generator=generator)
        dino = torch.randn(rows, 24, generator=generator)
        commit_shard(store, f"{number:05d}", unit(clip), unit(dino))
    return store
