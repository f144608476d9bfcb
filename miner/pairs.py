"""The tables of a join: pair ids, `raw`, the histogram, and the name they go by."""

from __future__ import annotations

import hashlib
from collections import Counter

import numpy as np
import pyarrow as pa
import torch

from kernels.reference import Pairs
from miner import schema
from miner.config import JoinSettings
from miner.rows import Rows

RANDOM_PAIRS = 1_000_000
RANDOM_SEED = 20240111


def join_name(clip: str, dino: str, settings: JoinSettings) -> str:
    """The readable default name of a join: encoders, thresholds, and what is not the default."""
    parts = [clip, dino, _decimals(settings.clip_above), _decimals(settings.dino_below)]
    if settings.collapse != "exact":
        parts.append(f"collapse-{settings.collapse}")
    if settings.keep_clip is not None:
        parts.append(f"keep-clip-{_decimals(settings.keep_clip)}")
    if settings.keep_dino is not None:
        parts.append(f"keep-dino-{_decimals(settings.keep_dino)}")
    return "~".join(parts)


def _decimals(value: float) -> str:
    # Two decimals where they are exact, else as many as tell the value from any other.
    return f"{value:.2f}" if float(f"{value:.2f}") == value else repr(value)


class Histogram:
    """Counts of pairs over both cosines, in bins of `schema.HISTOGRAM_BIN_WIDTH`."""

    def __init__(self) -> None:
        self.bins: Counter[tuple[str, int, int]] = Counter()

    def add(self, source: str, clip_cos: torch.Tensor, dino_cos: torch.Tensor) -> None:
        """Count pairs ([P] float64 each) for a source, `candidates` or `random`."""
        both = np.stack([clip_cos.numpy(), dino_cos.numpy()])
        binned = np.floor(both / schema.HISTOGRAM_BIN_WIDTH).astype(np.int64)
        places, counts = np.unique(binned, axis=1, return_counts=True)
        for clip_bin, dino_bin, count in zip(*places.tolist(), counts.tolist(), strict=True):
            self.bins[source, clip_bin, dino_bin] += count

    def table(self) -> pa.Table:
        """The counts as the table `histogram`."""
        rows = [
            {"source": source, "clip_bin": clip_bin, "dino_bin": dino_bin, "count": count}
            for (source, clip_bin, dino_bin), count in sorted(self.bins.items())
        ]
        return pa.Table.from_pylist(rows, schema=schema.HISTOGRAM)


def random_pairs(num_rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """All pairs where they are few, else a seeded sample of them with replacement."""
    if num_rows * (num_rows - 1) // 2 <= RANDOM_PAIRS:
        i, j = torch.triu_indices(num_rows, num_rows, offset=1)
        return i, j
    generator = np.random.default_rng(RANDOM_SEED)
    i = generator.integers(0, num_rows, RANDOM_PAIRS)
    j = generator.integers(0, num_rows - 1, RANDOM_PAIRS)
    # Shifted past i, so that no image is paired with itself.
    return torch.from_numpy(i), torch.from_numpy(j + (j >= i))


def pair_id(sha256_1: str, sha256_2: str) -> str:
    """16 hex digits of the sha256 over both images' hex sha256, the smaller first."""
    smaller, larger = sorted((sha256_1, sha256_2))
    return hashlib.sha256((smaller + larger).encode()).hexdigest()[:16]


def raw_table(
    rows: Rows, pairs: Pairs, settings: JoinSettings, bands: tuple[float, float]
) -> pa.Table:
    """The kept pairs by clip_cos descending, then pair_id, then images."""
    i, j = pairs.i.numpy(), pairs.j.numpy()
    clip_cos, dino_cos = pairs.clip_cos.numpy(), pairs.dino_cos.numpy()
    ids = [pair_id(rows.sha256[a], rows.sha256[b]) for a, b in zip(i, j, strict=True)]
    clip_cos32 = clip_cos.astype(np.float32)
    order = np.lexsort((j, i, np.array(ids, dtype="S16"), -clip_cos32))
    i, j, clip_cos, dino_cos = i[order], j[order], clip_cos[order], dino_cos[order]
    near_clip = np.abs(clip_cos - settings.clip_above) <= bands[0]
    near_dino = np.abs(dino_cos - settings.dino_below) <= bands[1]
    with_blind = settings.keep_clip is not None or settings.keep_dino is not None
    columns = {
        "pair_id": [ids[place] for place in order],
        "image_1": [rows.image_ids[place] for place in i],
        "image_2": [rows.image_ids[place] for place in j],
        "clip_cos": clip_cos32[order],
        "dino_cos": dino_cos.astype(np.float32),
        "gap": (clip_cos - dino_cos).astype(np.float32),
        "borderline": near_clip | near_dino,
        "duplicates_1": rows.duplicates[i],
        "duplicates_2": rows.duplicates[j],
        "blind": (clip_cos > settings.clip_above) & (dino_cos < settings.dino_below),
    }
    target = schema.raw(with_blind=with_blind)
    return pa.Table.from_pydict({name: columns[name] for name in target.names}, schema=target)


def raw_counts(raw: pa.Table) -> dict[str, int]:
    """Rows of `raw`, and how many of them are blind, and borderline among those."""
    borderline = np.asarray(raw["borderline"].to_pylist(), dtype=bool)
    if "blind" in raw.column_names:
        blind = np.asarray(raw["blind"].to_pylist(), dtype=bool)
    else:
        blind = np.ones(len(raw), dtype=bool)
    return {
        "kept": len(raw),
        "blind": int(blind.sum()),
        "borderline": int((blind & borderline).sum()),
    }
