"""Selected pairs in groups of like pictures, so that one sees what kinds of pairs there are.

Shape suffixes: P pairs, F features, K clusters.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from miner.errors import StoreError
from miner.records import Json
from miner.rows import runs_of, vectors_of
from miner.store import Store

MIN_PAIRS = 20
"""Fewer pairs make no groups."""

MAX_PAIRS = 20_000
"""Pairs that are grouped, the best ranks first: their features fill a quarter of a gigabyte."""

MAX_CLUSTERS = 12
"""Groups that a person still reads."""

SEED = 20240111
ROUNDS = 100
"""Rounds of Lloyd's algorithm at most; it ends where no pair changes its group."""

MAX_WORDS = 4
CAPTION_CHARS = 2000
COMMON = frozenset(
    ("and", "are", "for", "from", "has", "her", "his", "its", "that", "the", "this", "was", "with")
)
"""Words that tell nothing of a picture."""

WORD = re.compile(r"[^\W\d_]{3,30}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """A group of pairs.

    Attributes:
        num_pairs: how many.
        rank: of its medoid, the pair nearest to the group's centre.
        pair_id: of its medoid.
        words: what its captions say more often than those of the other groups, most telling first.
    """

    num_pairs: int
    rank: int
    pair_id: str
    words: tuple[str, ...]


def num_clusters(num_pairs: int) -> int:
    """In how many groups so many pairs are put: the root of a tenth, from 2 to MAX_CLUSTERS."""
    return min(MAX_CLUSTERS, max(2, round(math.sqrt(num_pairs / 10))))


def cluster_pairs(store: Store, record: Json, selected: pa.Table) -> list[Cluster] | str:
    """Group selected pairs by what both encoders see in them.

    A pair's features are the direction of the sum of its CLIP vectors and that of its DINO
    vectors, so neither the order of its images nor the difference between them counts.

    Args:
        store: the run directory, for the vectors.
        record: the content of join.json.
        selected: rows of `selected`, by rank.

    Returns:
        The groups, largest first; or the reason why there are none.
    """
    shown = selected.slice(0, MAX_PAIRS)
    if len(shown) < MIN_PAIRS:
        return f"fewer than {MIN_PAIRS} selected pairs make no groups"
    try:
        features_PF = _features(store, record, shown)
    except StoreError as error:
        return f"the vectors of the selected pairs cannot be had: {error}"
    labels, distances = k_means(features_PF, num_clusters(len(shown)))
    return _described(shown, labels, distances)


def _features(store: Store, record: Json, shown: pa.Table) -> np.ndarray:
    first, second = shown["image_1"].to_pylist(), shown["image_2"].to_pylist()
    images, runs, parts = {*first, *second}, runs_of(store, record), []
    for name in ("clip", "dino"):
        vectors = vectors_of(runs, record[name], images)
        if missing := images - vectors.keys():
            raise StoreError(
                f"{len(missing)} images have no vector of {record[name]} ({min(missing)}, ...); "
                f"run `blindpairs verify {store.root}`"
            )
        sums = np.stack([vectors[a] for a in first]).astype(np.float32)
        sums += np.stack([vectors[b] for b in second])
        # Two opposite vectors have no direction: such a pair stays at the origin.
        parts.append(sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-6))
    return np.concatenate(parts, axis=1)


def k_means(points_PF: np.ndarray, num: int, *, seed: int = SEED) -> tuple[np.ndarray, np.ndarray]:
    """Group points by Lloyd's algorithm from k-means++ centres.

    Args:
        points_PF: [P, F] float32, P >= 1.
        num: groups; fewer where fewer points differ.
        seed: of the first centres.

    Returns:
        [P] int64, the group of each point, the largest group being 0; and [P] float32, the squared
        distance of each to its group's centre. No group is empty.
    """
    centres = _first_centres(points_PF, num, np.random.default_rng(seed))
    labels, distances = _nearest(points_PF, centres)
    for _ in range(ROUNDS):
        centres = np.stack([points_PF[labels == k].mean(axis=0) for k in np.unique(labels)])
        before = np.unique(labels, return_inverse=True)[1]
        labels, distances = _nearest(points_PF, centres)
        if np.array_equal(labels, before):
            break
    _, first, inverse, sizes = np.unique(
        labels, return_index=True, return_inverse=True, return_counts=True
    )
    by_size = np.lexsort((first, -sizes))
    return np.argsort(by_size)[inverse], distances


def _first_centres(points_PF: np.ndarray, num: int, random: np.random.Generator) -> np.ndarray:
    """Points drawn with a chance that grows with the squared distance to those drawn before."""
    chosen = [int(random.integers(len(points_PF)))]
    nearest = _distances(points_PF, points_PF[chosen])[:, 0]
    while len(chosen) < num:
        # What rounding leaves between equal points is no distance.
        weights = np.where(nearest > 1e-6, nearest, 0).astype(np.float64)
        if not weights.sum():
            break
        chosen.append(int(random.choice(len(points_PF), p=weights / weights.sum())))
        nearest = np.minimum(nearest, _distances(points_PF, points_PF[chosen[-1:]])[:, 0])
    return points_PF[chosen]


def _nearest(points_PF: np.ndarray, centres_KF: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    found = _distances(points_PF, centres_KF)
    labels = found.argmin(axis=1)
    return labels, found[np.arange(len(labels)), labels]


def _distances(points_PF: np.ndarray, centres_KF: np.ndarray) -> np.ndarray:
    """Squared distances [P, K]."""
    lengths = np.einsum("pf,pf->p", points_PF, points_PF)[:, None]
    others = np.einsum("kf,kf->k", centres_KF, centres_KF)[None]
    found: np.ndarray = np.maximum(lengths + others - 2 * points_PF @ centres_KF.T, 0)
    return found


def _described(shown: pa.Table, labels: np.ndarray, distances: np.ndarray) -> list[Cluster]:
    captions = zip(*(shown[f"caption_{side}"].to_pylist() for side in (1, 2)), strict=True)
    words = [
        {word for text in both if text for word in WORD.findall(text[:CAPTION_CHARS].lower())}
        for both in captions
    ]
    ranks, ids = shown["rank"].to_pylist(), shown["pair_id"].to_pylist()
    found = []
    for label in range(int(labels.max()) + 1):
        members = np.flatnonzero(labels == label)
        others = np.flatnonzero(labels != label)
        medoid = int(members[distances[members].argmin()])
        found.append(
            Cluster(
                num_pairs=len(members),
                rank=ranks[medoid],
                pair_id=ids[medoid],
                words=_telling([words[p] for p in members], [words[p] for p in others]),
            )
        )
    return found


def _telling(inside: Sequence[set[str]], outside: Sequence[set[str]]) -> tuple[str, ...]:
    """Words by how much larger a share of the inner sets than of the outer ones has them."""
    here, there = (Counter(word for words in part for word in words) for part in (inside, outside))
    lead = {
        word: number / len(inside) - there[word] / max(1, len(outside))
        for word, number in here.items()
    }
    telling = (word for word in lead.keys() - COMMON if lead[word] > 0)
    best = sorted(telling, key=lambda word: (-lead[word], word))
    return tuple(best[:MAX_WORDS])
