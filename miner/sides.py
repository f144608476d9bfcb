"""The images of a join: those of a run, or of a run and of another that it is joined against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from miner.block_work import HandOut, Progress, in_turn
from miner.blocks import known_groups
from miner.config import JoinSettings, SelectSettings
from miner.copies import equal_bytes, stand_for
from miner.errors import StoreError
from miner.packs import Pack, build_pack, group_shards, without_near_copies
from miner.records import Json
from miner.rows import Rows, deviations, inputs, load_rows
from miner.store import Store

BORDERLINE = 1e-3
"""Half-width of the band around a threshold in which a pair is called borderline."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """The rows of a join, and what they were taken from.

    Attributes:
        packs: of each side, the rows that are searched.
        num_images: of all sides.
        num_distinct: of each side, when copies are collapsed.
        lazy: where DINO saw some images only, what join.json says of that.
    """

    packs: list[Pack]
    num_images: int
    num_distinct: list[int]
    lazy: Json | None = None

    @property
    def covers_all(self) -> bool:
        """Whether every distinct image is among the rows."""
        return sum(map(len, self.packs)) == sum(self.num_distinct)

    def sizes(self) -> Json:
        """How much there is to join."""
        first, last = self.num_distinct[0], self.num_distinct[-1]
        within = first * (first - 1) // 2
        return {
            "images": self.num_images,
            "distinct": sum(self.num_distinct),
            "pairs": within if len(self.num_distinct) == 1 else first * last,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinTask:
    """What a join is asked for.

    Attributes:
        stores: the run, and the one it is joined against.
        name: the join's.
        clip: encoder_id.
        dino: encoder_id.
        settings: what is sought.
        near: what a near-copy is.
        impl: the implementation that runs.
        hand_out: has blocks searched.
        progress: called after every block.
    """

    stores: Sequence[Store]
    name: str
    clip: str
    dino: str
    settings: JoinSettings
    near: SelectSettings
    impl: str
    hand_out: HandOut = in_turn
    progress: Progress = lambda done, number: None

    @property
    def stage(self) -> str:
        """Of the commits of its blocks."""
        return f"blocks/{self.name}"

    @property
    def packed(self) -> Path:
        """Where its vectors lie while it runs: always on a local disk."""
        store, scratch = self.stores[0], self.settings.scratch
        folder = store.scratch if scratch is None else scratch / store.identity
        return folder / self.name

    @property
    def shared(self) -> str | None:
        """The join's name where several workers search its blocks; None for one."""
        return None if self.hand_out is in_turn else self.name

    def pack_side(self, number: int, rows: Rows) -> Pack:
        """A side's rows with their vectors, copies collapsed as the settings say."""
        store, encoders = self.stores[number], (self.clip, self.dino)
        folder, known = self.packed / str(number), known_groups(self.stores[0], self.stage, number)
        hashes = inputs(store, encoders, rows.shard_ids)
        rows = distinct_rows(rows, self.settings)
        groups = group_shards(rows, known)
        if self.settings.collapse == "near":
            whole = build_pack(store, folder / "whole", encoders, rows, groups, hashes)
            rows = without_near_copies(
                whole, near_clip=self.near.near_clip, near_dino=self.near.near_dino
            )
        return build_pack(store, folder / "rows", encoders, rows, groups, hashes)


def runs_to_join(store: Store, against: str | None) -> list[Store]:
    """The run, and the one that it is joined against.

    Raises:
        StoreError: the other is not there, or is the run itself.
    """
    if against is None:
        return [store]
    other = Store(against)
    if other.files.address == store.files.address:
        raise StoreError(
            f"--against {against} is the run itself; leave it out to join a run with itself"
        )
    other.run()
    return [store, other]


def load_sides(stores: Sequence[Store], *encoder_ids: str) -> list[Rows]:
    """The images of each run that have vectors of some encoders.

    Raises:
        StoreError: a run has none, or one image_id stands for two images.
    """
    sides = [load_rows(store, *encoder_ids) for store in stores]
    if len(sides) > 1:
        _refuse_namesakes(*sides)
        # Images that are in both runs are the first one's; so each pair is found once.
        own = set(sides[0].sha256)
        foreign = [place for place, name in enumerate(sides[1].sha256) if name not in own]
        places = np.array(foreign, np.int64)
        sides[1] = sides[1].take(places, sides[1].duplicates[places])
    return sides


def _refuse_namesakes(*sets: Rows) -> None:
    first, second = (dict(zip(rows.image_ids, rows.sha256, strict=True)) for rows in sets)
    other = sorted(name for name in first.keys() & second.keys() if first[name] != second[name])
    if other:
        raise StoreError(
            f"{len(other)} image_ids stand for other images in the run given as --against "
            f"({other[0]}, ...); embed one of the two again with another --dataset"
        )


def distinct_rows(rows: Rows, settings: JoinSettings) -> Rows:
    """The rows, with copies of equal bytes collapsed unless the settings want all of them."""
    if settings.collapse == "none":
        return rows
    return rows.take(*stand_for(equal_bytes(rows.sha256), rows.duplicates))


def eager_sides(task: JoinTask) -> Joined:
    """What is joined where both encoders have seen every image."""
    sides = load_sides(task.stores, task.clip, task.dino)
    packs = [task.pack_side(number, rows) for number, rows in enumerate(sides)]
    return Joined(
        packs=packs, num_images=sum(map(len, sides)), num_distinct=[len(pack) for pack in packs]
    )


def band(stores: Sequence[Store], encoder_id: str, shards: Sequence[Sequence[str]]) -> float:
    """Half-width of an encoder's borderline band over some shards of each run."""
    found = [deviations(each, encoder_id, ids) for each, ids in zip(stores, shards, strict=True)]
    return max(BORDERLINE, *found)
