"""The rows of a join in one place: packed memory-mapped vectors, in segments of whole shards.

Parquet is what users read; a join reads each vector many times, so it reads a packed matrix that is
built once and removed when the join is done. A segment is a group of shards that keeps its name
from one join to the next, so that what was found between two old segments is not sought again.

Shape suffixes: N rows, D clip width, E dino width.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from miner.copies import near_copies_in_buckets, stand_for
from miner.errors import StoreError
from miner.records import Json, digest, read_json, replace_json
from miner.rows import Rows
from miner.store import Store
from miner.vectors import EncoderVectors

SEGMENT_ROWS = 131_072
MOST_SEGMENTS = 64
"""Rows to a segment, more where there would be too many segments; a shard is never parted."""

DINO_FILE = "dino.npy"
FILES = ("clip.npy", DINO_FILE)
"""Of a pack, in the order of its encoders."""

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
class PackedVectors:
    """Where the vectors of a pack lie.

    Attributes:
        folder: of the files.
        segments: the names of the pack's segments.
        encoders: encoder_ids of CLIP and DINO; None where DINO has no say, and every cosine is 1.
        num_rows: N.
    """

    folder: Path
    segments: tuple[str, ...]
    encoders: tuple[str, str | None]
    num_rows: int

    @property
    def files(self) -> list[str]:
        """The names of the files with the vectors."""
        return [name for name, has_say in zip(FILES, self.encoders, strict=True) if has_say]

    @property
    def content(self) -> Json:
        """What has to lie in the folder."""
        return {"segments": list(self.segments), "encoders": list(self.encoders)}

    def lie_there(self) -> bool:
        """Whether the folder holds these vectors, whole."""
        path = self.folder / "pack.json"
        return path.exists() and read_json(path) == self.content

    def open(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Map the vectors into memory: [N, D] and [N, E] float16 of unit length.

        Raises:
            StoreError: they are not in the folder.
        """
        if not self.lie_there():
            raise StoreError(
                f"{self.folder} does not hold the packed vectors of this join; every node has to "
                "see the folder in which the join packs them: give a run directory that all share"
            )
        # Mapped privately, since torch wants a writable array; nothing is written back. Nothing at
        # all cannot be mapped.
        mode: Literal["c"] | None = "c" if self.num_rows else None
        clip_ND, dino_NE = (
            torch.ones(self.num_rows, 1, dtype=torch.float16)
            if encoder_id is None
            else torch.from_numpy(np.load(self.folder / name, mmap_mode=mode))
            for name, encoder_id in zip(FILES, self.encoders, strict=True)
        )
        return clip_ND, dino_NE


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
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name, encoder_id in zip(FILES, encoders, strict=True):
            if encoder_id is not None:
                lack = may_lack and name == DINO_FILE
                _copy_vectors(store, folder / name, encoder_id, packed, may_lack=lack)
        replace_json(folder / "pack.json", files.content)
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


def _copy_vectors(store: Store, path: Path, encoder_id: str, rows: Rows, *, may_lack: bool) -> None:
    """Write the vectors of rows, shard by shard, in the rows' order."""
    vectors = EncoderVectors(store, encoder_id)
    if len(rows) == 0:
        np.save(path, np.empty((0, vectors.dim), np.float16))
        return
    target_ND: np.ndarray | None = None
    by_shard = np.argsort(rows.shard, kind="stable")
    borders = np.searchsorted(rows.shard[by_shard], np.arange(len(rows.shard_ids) + 1))
    for place, shard_id in enumerate(rows.shard_ids):
        places = by_shard[borders[place] : borders[place + 1]]
        if len(places) == 0:
            continue
        image_ids, vectors_ND = vectors.read(shard_id)
        if target_ND is None:
            shape = (len(rows), vectors_ND.shape[1])
            target_ND = np.lib.format.open_memmap(path, "w+", np.float16, shape)
        _refuse_bad(vectors_ND, image_ids, encoder_id, store)
        row_of = {image_id: row for row, image_id in enumerate(image_ids)}
        if may_lack:
            lacking = [p for p in places if rows.image_ids[p] not in row_of]
            # A length of 1, so that it is a vector; nobody looks at where it points.
            target_ND[lacking, 0] = 1
            places = np.array([p for p in places if rows.image_ids[p] in row_of], np.int64)
        target_ND[places] = vectors_ND[[row_of[rows.image_ids[p]] for p in places]]
    assert isinstance(target_ND, np.memmap)
    target_ND.flush()


def _refuse_bad(
    vectors_ND: np.ndarray, image_ids: list[str], encoder_id: str, store: Store
) -> None:
    lengths = np.linalg.norm(vectors_ND.astype(np.float32), axis=1)
    # Negated, so that NaN counts as bad. One bad row would spoil the codes of those around it.
    bad = np.flatnonzero(~((lengths > 0) & (lengths < np.inf)))
    if len(bad):
        raise StoreError(
            f"{encoder_id}: the vector of {image_ids[bad[0]]} is zero or not finite and has no "
            f"cosine ({len(bad)} such vectors in its shard); run `blindpairs verify {store.root}`, "
            "and embed the shard again"
        )
