"""The rows of a join in one place: packed memory-mapped vectors, in segments of whole shards.

A segment is a group of shards that keeps its name
from one join to the next, so that what was found between two old segments is not sought again.

Shape suffixes: N rows, D clip width, E dino width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from miner.copies import near_copies_in_buckets, stand_for
from miner.packed_vectors import PackedVectors
from miner.records import Json, digest
from miner.rows import Rows
from miner.store import Store

SEGMENT_ROWS = 131_072
MOST_SEGMENTS = 64
"""Rows to a segment, more where there would be too many segments; a shard is never parted."""

MOST_SMALL = 8
"""Segments with fewer rows than that which are left as they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Consecutive rows of a pack.

    Attributes:
        name: a hash of the rows and of the files their vectors come from.
        shards: the shards whose images they are.
        start: first row in the pack.
        stop: the row after the last.
    """

    name: str
    shards: tuple[str, ...]
    start: int
    stop: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Pack:
    """The rows of a join.

    Attributes:
        rows: by image_id.
        places: [N] int64, for each row of the pack its place among `rows`. A pack lies by segment,
            then by image_id.
        clip_ND: [N, D] float16 of unit length, memory-mapped.
        dino_NE: [N, E] float16 of unit length, memory-mapped; [N, 1] where DINO has no say.
        segments: in the order of their rows.
        files: where the vectors lie.
    """

    rows: Rows
    places: np.ndarray
    clip_ND: torch.Tensor
    dino_NE: torch.Tensor
    segments: list[Segment]
    files: PackedVectors

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def by_id(self) -> np.ndarray:
        """[N] int64, where the rows lie in the pack, by ascending image_id."""
        return np.argsort(self.places, kind="stable")


def group_shards(rows: Rows, known: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Shards in groups of enough rows.

    Args:
        rows: all rows.
        known: groups of an earlier join, which stay together where all of their shards are left.

    Returns:
        Every shard once; earlier groups first.
    """
    num_rows = np.bincount(rows.shard, minlength=len(rows.shard_ids))
    wanted = max(SEGMENT_ROWS, -(-len(rows) // MOST_SEGMENTS))
    left = dict(zip(rows.shard_ids, num_rows.tolist(), strict=True))
    groups = []
    size_of = left.copy()
    small = [group for group in known if sum(size_of.get(name, 0) for name in group) < wanted]
    # Many small groups, from shards that came a few at a time, are gathered anew.
    scattered = set(small) if len(small) > MOST_SMALL else set()
    for group in known:
        if group and group not in scattered and all(shard_id in left for shard_id in group):
            groups.append(group)
            for shard_id in group:
                del left[shard_id]
    gathered: list[str] = []
    size = 0
    for shard_id, number in left.items():
        gathered.append(shard_id)
        size += number
        if size >= wanted:
            groups.append(tuple(gathered))
            gathered, size = [], 0
    return [*groups, tuple(gathered)] if gathered else groups


def build_pack(
    store: Store,
    folder: Path,
    encoders: tuple[str, str | None],
    rows: Rows,
    groups: list[tuple[str, ...]],
    hashes: dict[str, str],
    *,
    may_lack: bool = False,
) -> Pack:
    """Copy the vectors of some rows into memory-mapped files, unless they lie there already.

    Args:
        store: the run directory.
        folder: where to; replaced where it holds other rows.
        encoders: encoder_ids of CLIP and DINO; None where DINO has no say, and every cosine is 1.
        rows: which images.
        groups: of shards, from `group_shards`.
        hashes: of the files that each shard's rows come from.
        may_lack: whether rows may have no DINO vector; they get any, so nobody may look at it.
    """
    group_of = {shard_id: place for place, group in enumerate(groups) for shard_id in group}
    of_shard = np.array([group_of[shard_id] for shard_id in rows.shard_ids], np.int64)
    order = np.argsort(of_shard[rows.shard], kind="stable")
    packed = rows.take(order, rows.duplicates[order])
    segments = _segments(packed, of_shard[packed.shard], groups, hashes)
    files = PackedVectors(
        folder=folder,
        segments=tuple(segment.name for segment in segments),
        encoders=encoders,
        num_rows=len(packed),
    )
    if not files.lie_there():
        files.write(store, packed, may_lack=may_lack)
    clip_ND, dino_NE = files.open()
    return Pack(
        rows=rows,
        places=order,
        clip_ND=clip_ND,
        dino_NE=dino_NE,
        segments=segments,
        files=files,
    )


def as_one_segment(pack: Pack) -> Pack:
    """The same pack, its rows all in one segment."""
    if not pack.segments:
        return pack
    segment = Segment(
        name=digest([segment.name for segment in pack.segments])[:16],
        shards=tuple(shard_id for segment in pack.segments for shard_id in segment.shards),
        start=0,
        stop=len(pack),
    )
    return replace(pack, segments=[segment])


def without_near_copies(pack: Pack, *, near_clip: float, near_dino: float) -> Rows:
    """The rows, by image_id, that are left when near-copies are collapsed."""
    leaders = near_copies_in_buckets(
        pack.clip_ND, pack.dino_NE, near_clip=near_clip, near_dino=near_dino, order=pack.by_id
    )
    return pack.rows.take(*stand_for(leaders, pack.rows.duplicates))


def _segments(
    rows: Rows, group: np.ndarray, groups: list[tuple[str, ...]], hashes: dict[str, str]
) -> list[Segment]:
    borders = np.searchsorted(group, np.arange(len(groups) + 1))
    segments = []
    for place, shards in enumerate(groups):
        start, stop = int(borders[place]), int(borders[place + 1])
        if start < stop:
            content: Json = {
                "images": digest(rows.image_ids[start:stop]),
                "files": [hashes[shard_id] for shard_id in shards],
            }
            name = digest(content)[:16]
            segments.append(Segment(name=name, shards=shards, start=start, stop=stop))
    return segments
