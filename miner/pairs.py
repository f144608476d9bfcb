"""The tables of a join: pair ids, `raw`, the histogram, and the name they go by."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from kernels.reference import Pairs
from miner import schema
from miner.config import JoinSettings
from miner.records import digest
from miner.rows import Rows
from miner.store import Store

RANDOM_PAIRS = 1_000_000
RANDOM_SEED = 20240111


def join_name(clip: str, dino: str, settings: JoinSettings) -> str:
    """The readable default name of a join: encoders, thresholds, and what is not the default."""
    parts = [clip, dino, decimals(settings.clip_above), decimals(settings.dino_below)]
    if settings.collapse != "exact":
        parts.append(f"collapse-{settings.collapse}")
    if settings.keep_clip is not None:
        parts.append(f"keep-clip-{decimals(settings.keep_clip)}")
    if settings.keep_dino is not None:
        parts.append(f"keep-dino-{decimals(settings.keep_dino)}")
    parts += against_part(settings)
    if settings.recheck:
        parts.append("recheck")
    if settings.join == "knn":
        parts.append("knn")
    return "~".join(parts)


def against_part(settings: JoinSettings) -> list[str]:
    """The word of a name that says which other run was joined against, if any was."""
    if settings.against is None:
        return []
    # The first command tells runs of one name apart, and stays with a run that is moved.
    other = Store(settings.against)
    first = other.run()["commands"][0]
    return [f"against-{other.name}-{digest(first)[:8]}"]


def decimals(value: float) -> str:
    """A threshold as it stands in a name."""
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

    def counts(self) -> list[list[str | int]]:
        """The counts as [source, clip_bin, dino_bin, count], in order."""
        return [[*place, count] for place, count in sorted(self.bins.items())]

    def merge(self, counts: list[list[str | int]]) -> None:
        """Add what `counts` of another histogram gave."""
        for source, clip_bin, dino_bin, count in counts:
            self.bins[str(source), int(clip_bin), int(dino_bin)] += int(count)

    def table(self) -> pa.Table:
        """The counts as the table `histogram`."""
        rows = [
            {"source": source, "clip_bin": clip_bin, "dino_bin": dino_bin, "count": count}
            for (source, clip_bin, dino_bin), count in sorted(self.bins.items())
        ]
        return pa.Table.from_pylist(rows, schema=schema.HISTOGRAM)


def random_pairs(num_rows: int, num_others: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """All pairs where they are few, else a seeded sample of them with replacement.

    Args:
        num_rows: rows of the first set.
        num_others: rows of the second set; None for pairs within the first.
    """
    generator = np.random.default_rng(RANDOM_SEED)
    if num_others is not None:
        if num_rows * num_others <= RANDOM_PAIRS:
            i, j = torch.cartesian_prod(torch.arange(num_rows), torch.arange(num_others)).T
            return i, j
        i = generator.integers(0, num_rows, RANDOM_PAIRS)
        return torch.from_numpy(i), torch.from_numpy(
            generator.integers(0, num_others, RANDOM_PAIRS)
        )
    if num_rows * (num_rows - 1) // 2 <= RANDOM_PAIRS:
        i, j = torch.triu_indices(num_rows, num_rows, offset=1)
        return i, j
    i = generator.integers(0, num_rows, RANDOM_PAIRS)
    j = generator.integers(0, num_rows - 1, RANDOM_PAIRS)
    # Shifted past i, so that no image is paired with itself.
    return torch.from_numpy(i), torch.from_numpy(j + (j >= i))


def pair_id(sha256_1: str, sha256_2: str) -> str:
    """16 hex digits of the sha256 over both images' hex sha256, the smaller first."""
    smaller, larger = sorted((sha256_1, sha256_2))
    return hashlib.sha256((smaller + larger).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True, kw_only=True)
class RawPairs:
    """The rows of `raw`, in their order, as columns.

    Attributes:
        pair_id: [P] bytes of 16 hex digits.
        pairs: places of both images among the rows of their sets, and both cosines.
        borderline: [P] bool.
        blind: [P] bool.
    """

    pair_id: np.ndarray
    pairs: Pairs
    borderline: np.ndarray
    blind: np.ndarray

    def __len__(self) -> int:
        return len(self.pairs)


def raw_pairs(
    sets: tuple[Rows, Rows], pairs: Pairs, settings: JoinSettings, bands: tuple[float, float]
) -> RawPairs:
    """The kept pairs by clip_cos descending, then pair_id, then images.

    Args:
        sets: the rows, by image_id, that `pairs.i` and `pairs.j` point into.
        pairs: [P], in any order.
        settings: thresholds.
        bands: half-widths of the borderline bands of CLIP and DINO.
    """
    first, second = sets
    i, j = pairs.i.numpy(), pairs.j.numpy()
    ids = np.fromiter(
        (pair_id(first.sha256[a], second.sha256[b]) for a, b in zip(i, j, strict=True)),
        dtype="S16",
        count=len(i),
    )
    order = np.lexsort((j, i, ids, -pairs.clip_cos.numpy().astype(np.float32)))
    pairs = pairs.where(torch.from_numpy(order))
    clip_cos, dino_cos = pairs.clip_cos.numpy(), pairs.dino_cos.numpy()
    near_clip = np.abs(clip_cos - settings.clip_above) <= bands[0]
    near_dino = np.abs(dino_cos - settings.dino_below) <= bands[1]
    return RawPairs(
        pair_id=ids[order],
        pairs=pairs,
        borderline=near_clip | near_dino,
        blind=(clip_cos > settings.clip_above) & (dino_cos < settings.dino_below),
    )


def raw_table(sets: tuple[Rows, Rows], raw: RawPairs, part: slice, *, with_blind: bool) -> pa.Table:
    """Some rows of `raw` as a table; `with_blind` where they reach beyond the thresholds."""
    first, second = sets
    i, j = raw.pairs.i.numpy()[part], raw.pairs.j.numpy()[part]
    clip_cos, dino_cos = raw.pairs.clip_cos.numpy()[part], raw.pairs.dino_cos.numpy()[part]
    columns = {
        "pair_id": [name.decode() for name in raw.pair_id[part]],
        "image_1": [first.image_ids[place] for place in i],
        "image_2": [second.image_ids[place] for place in j],
        "clip_cos": clip_cos.astype(np.float32),
        "dino_cos": dino_cos.astype(np.float32),
        "gap": (clip_cos - dino_cos).astype(np.float32),
        "borderline": raw.borderline[part],
        "duplicates_1": first.duplicates[i],
        "duplicates_2": second.duplicates[j],
        "blind": raw.blind[part],
    }
    target = schema.raw(with_blind=with_blind)
    return pa.Table.from_pydict({name: columns[name] for name in target.names}, schema=target)
