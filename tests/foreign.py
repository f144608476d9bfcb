"""Embeddings as other tools write them, for tests of imports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from miner.store import Store

CLIP_SHA256, DINO_SHA256 = "a" * 64, "b" * 64


def write_clip_retrieval(
    folder: Path,
    parts: Sequence[tuple[np.ndarray, Mapping[str, Sequence[Any]]]],
    *,
    digits: int = 1,
) -> Path:
    """The output of clip-retrieval's inference: matrices, and tables with a row for each row."""
    for name in ("img_emb", "metadata"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number, (vectors_ND, columns) in enumerate(parts):
        padded = str(number).zfill(digits)
        np.save(folder / "img_emb" / f"img_emb_{padded}.npy", vectors_ND)
        table = pd.DataFrame(dict(columns))
        table.to_parquet(folder / "metadata" / f"metadata_{padded}.parquet")
    return folder


def clip_retrieval_of(store: Store, encoder_id: str, folder: Path, **more: Any) -> Path:
    """A run's own vectors, with the sha256 of its images, in that layout: a part for each shard."""
    parts = []
    for shard_id in store.committed("samples"):
        ids, vectors_ND = store.vectors(encoder_id, shard_id)
        samples = {row["image_id"]: row for row in store.samples(shard_id).to_pylist()}
        rows = [samples[image_id] for image_id in ids]
        columns = {
            "image_path": [row["key"] for row in rows],
            "caption": [row["caption"] for row in rows],
            "key": [row["key"] for row in rows],
            "sha256": [row["sha256"] for row in rows],
            "width": [row["width"] for row in rows],
            "height": [row["height"] for row in rows],
        }
        parts.append((vectors_ND, columns))
    return write_clip_retrieval(folder, parts, **more)


def some_vectors(num_rows: int, dim: int = 8, *, seed: int = 0) -> np.ndarray:
    """[N, D] float32, of any length but zero."""
    return np.random.default_rng(seed).normal(size=(num_rows, dim)).astype(np.float32)
