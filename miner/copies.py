"""Images that are the same picture: equal bytes, or near-copies by both encoders.

Near-copies make groups, and everyone in a group is a near-copy of its leader, the group's first
row. Rows are taken in order: one that is no near-copy of an earlier leader leads a group of its
own. Groups are no chains, whose ends may look nothing alike.

Shape suffixes: N rows, D clip width, E dino width, K code width, S rows of a sample,
R few rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from kernels import cpu
from kernels.axes import find_axes, project
from kernels.bounds import float32_slack, unit_rows
from kernels.layout import find_centres, nearest_centres
from kernels.reference import cosines

LEAF_ROWS = 512
"""Rows whose pairs are all looked at; of more, the first half leads the second where it can."""

BUCKET_WIDTH = 64
BUCKET_SAMPLE = 16_384
BUCKET_PASSES = 2
"""Passes over buckets with other borders: two near-copies may lie on both sides of one."""

CROWD_ROWS = 8
"""Near-copies in a sample that make a crowd, whose leader is a bucket's centre."""

CHUNK_ROWS = 4096


def equal_bytes(sha256: Sequence[str]) -> np.ndarray:
    """[N] int64: for each row the first one with equal bytes."""
    first: dict[str, int] = {}
    return np.array([first.setdefault(name, row) for row, name in enumerate(sha256)], np.int64)


def stand_for(leaders: np.ndarray, duplicates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which rows lead, and how many further copies each stands for.

    Args:
        leaders: [N] int64, each row's leader.
        duplicates: [N] int64, how many further copies each row stands for already.

    Returns:
        The leading rows, ascending, and their numbers of copies.
    """
    members = np.zeros(len(leaders), np.int64)
    np.add.at(members, leaders, duplicates + 1)
    kept = np.flatnonzero(members)
    return kept, members[kept] - 1


def near_copies(
    clip_ND: torch.Tensor, dino_NE: torch.Tensor, *, near_clip: float, near_dino: float
) -> np.ndarray:
    """Groups of near-copies; every pair of rows is accounted for.

    Args:
        clip_ND: [N, D], any float dtype.
        dino_NE: [N, E], any float dtype.
        near_clip: near-copies have a CLIP cosine strictly above this ...
        near_dino: ... and a DINO cosine strictly above this.

    Returns:
        [N] int64: for each row its group's leader, which is the group's smallest row.
    """
    leaders = np.arange(len(clip_ND))
    order_N = torch.arange(len(clip_ND))
    vectors = _Vectors(clip_ND, dino_NE, near_clip, near_dino, order_N)
    _lead(vectors, leaders.copy(), leaders)
    return leaders


def near_copies_in_buckets(
    clip_ND: torch.Tensor,
    dino_NE: torch.Tensor,
    *,
    near_clip: float,
    near_dino: float,
    order: np.ndarray | None = None,
) -> np.ndarray:
    """Groups of near-copies among rows that fall into one bucket: near-linear in N.

    A bucket holds the rows nearest to one of N / 256 centres, 8,192 at most. Everyone in a group is
    a verified near-copy of its leader; near-copies whom a border parts in every pass stay apart.

    Args:
        clip_ND: [N, D], any float dtype; may be memory-mapped.
        dino_NE: [N, E], likewise.
        near_clip: as for `near_copies`.
        near_dino: likewise.
        order: [N] int64, where the rows lie, in the order in which they are to be taken.

    Returns:
        [N] int64, as `near_copies` does; numbered in that order.
    """
    leaders = np.arange(len(clip_ND))
    order = leaders.copy() if order is None else order
    vectors = _Vectors(clip_ND, dino_NE, near_clip, near_dino, torch.from_numpy(order))
    for seed in range(BUCKET_PASSES):
        alive = np.flatnonzero(leaders == np.arange(len(leaders)))
        bucket = _buckets(vectors, alive, seed)
        order = np.argsort(bucket, kind="stable")
        borders = np.flatnonzero(np.diff(bucket[order])) + 1
        for group in np.split(alive[order], borders):
            if len(group) > 1:
                _lead(vectors, group, leaders)
        _follow(vectors, leaders)
    return leaders


@dataclass(frozen=True, slots=True)
class _Vectors:
    clip_ND: torch.Tensor
    dino_NE: torch.Tensor
    near_clip: float
    near_dino: float
    order_N: torch.Tensor

    def places(self, rows: np.ndarray) -> torch.Tensor:
        """Where rows lie."""
        return self.order_N[torch.from_numpy(rows)]

    def all_near(self, rows: np.ndarray) -> np.ndarray:
        """[R, R] bool: near-copies among few rows, of the upper triangle."""
        places = self.places(rows)
        near_RR = torch.ones(len(rows), len(rows), dtype=torch.bool).triu_(1)
        near_RR = _above(self.clip_ND, places, near_RR, self.near_clip)
        # Most rows have no near-copy by CLIP, and DINO need not look at them.
        some = (near_RR.any(dim=0) | near_RR.any(dim=1)).nonzero()[:, 0]
        if len(some):
            both = some[:, None], some
            near_RR[both] = _above(self.dino_NE, places[some], near_RR[both], self.near_dino)
        found: np.ndarray = near_RR.numpy()
        return found

    def near_across(self, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Near-copies across two sets of rows, as places within the sets."""
        first, second = self.places(a), self.places(b)
        clip = (self.clip_ND[first], self.clip_ND[second])
        dino = (self.dino_NE[first], self.dino_NE[second])
        found: list[tuple[np.ndarray, np.ndarray]] = [(np.empty(0, np.int64),) * 2]
        for pairs in cpu.candidates(clip, dino, clip_above=self.near_clip):
            near = pairs.where(pairs.dino_cos > self.near_dino)
            found.append((near.i.numpy(), near.j.numpy()))
        return np.concatenate([i for i, _ in found]), np.concatenate([j for _, j in found])

    def are_near(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """[P] bool: whether a[p] and b[p] are near-copies."""
        i, j = self.places(a), self.places(b)
        clip_cos = cosines(self.clip_ND, self.clip_ND, i, j)
        dino_cos = cosines(self.dino_NE, self.dino_NE, i, j)
        near: np.ndarray = ((clip_cos > self.near_clip) & (dino_cos > self.near_dino)).numpy()
        return near


def _above(
    vectors: torch.Tensor, places: torch.Tensor, asked_RR: torch.Tensor, above: float
) -> torch.Tensor:
    """[R, R] bool: the pairs, of those asked for, whose cosine is strictly above a threshold."""
    unit = unit_rows(vectors[places])
    products_RR = unit @ unit.T
    # Few are so close to the threshold that float32 cannot tell.
    unsure_RR = asked_RR & ((products_RR - above).abs() <= float32_slack(unit.shape[1]))
    found_RR = asked_RR & (products_RR > above)
    i, j = unsure_RR.nonzero(as_tuple=True)
    found_RR[i, j] = cosines(vectors, vectors, places[i], places[j]) > above
    return found_RR


def _lead(vectors: _Vectors, rows: np.ndarray, leaders: np.ndarray) -> np.ndarray:
    """Group ascending rows that nobody leads yet, and return those that lead."""
    if len(rows) <= LEAF_ROWS:
        return _lead_leaf(vectors, rows, leaders)
    half = len(rows) // 2
    heads = _lead(vectors, rows[:half], leaders)
    rest = rows[half:]
    # A leader of the first half comes before all that the second half could have.
    i, j = vectors.near_across(heads, rest)
    smallest = np.full(len(rest), len(leaders))
    np.minimum.at(smallest, j, heads[i])
    led = smallest < len(leaders)
    leaders[rest[led]] = smallest[led]
    return np.concatenate([heads, _lead(vectors, rest[~led], leaders)])


def _lead_leaf(vectors: _Vectors, rows: np.ndarray, leaders: np.ndarray) -> np.ndarray:
    near_RR = vectors.all_near(rows)
    is_led = np.zeros(len(rows), dtype=bool)
    for leader in np.flatnonzero(near_RR.any(axis=1)):
        if not is_led[leader]:
            followers = np.flatnonzero(near_RR[leader] & ~is_led)
            leaders[rows[followers]] = rows[leader]
            is_led[followers] = True
    return rows[~is_led]


def _follow(vectors: _Vectors, leaders: np.ndarray) -> None:
    """Where a leader was led itself, its rows follow the new leader or lead themselves."""
    moved = np.flatnonzero(leaders[leaders] != leaders)
    heirs = leaders[leaders[moved]]
    near = vectors.are_near(moved, heirs)
    leaders[moved] = np.where(near, heirs, moved)


def _buckets(vectors: _Vectors, rows: np.ndarray, seed: int) -> np.ndarray:
    """[len(rows)] int64: the nearest of seeded centres, for each row."""
    generator = np.random.default_rng(seed)
    sample = rows[np.sort(generator.permutation(len(rows))[:BUCKET_SAMPLE])]
    crowds, others = _crowds(vectors, sample)
    unit_SD = unit_rows(vectors.clip_ND[vectors.places(np.concatenate([crowds, others]))])
    axes = find_axes(unit_SD, BUCKET_WIDTH, seed=seed)
    image_SK = project(unit_SD, axes).float()
    centre_CK = find_centres(
        image_SK[len(crowds) :], len(rows), most=max(len(sample) // 2, 1), seed=seed
    )
    centre_CK = torch.cat([image_SK[: len(crowds)], centre_CK])
    bucket = np.empty(len(rows), np.int64)
    for start in range(0, len(rows), CHUNK_ROWS):
        some = vectors.places(rows[start : start + CHUNK_ROWS])
        image_NK = project(unit_rows(vectors.clip_ND[some]), axes).float()
        bucket[start : start + CHUNK_ROWS] = nearest_centres(image_NK, centre_CK).numpy()
    return bucket


def _crowds(vectors: _Vectors, sample: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Leaders of a sample's crowds, and the other rows that lead.

    A crowd that gave as many centres as its share of the sample would be cut up by the borders
    between them. So it gives one, and no others.
    """
    leaders = np.arange(len(vectors.order_N))
    _lead(vectors, sample, leaders)
    heads, sizes = np.unique(leaders[sample], return_counts=True)
    return heads[sizes >= CROWD_ROWS], heads[sizes < CROWD_ROWS]
