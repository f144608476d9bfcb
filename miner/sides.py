"""The images of a join: those of a run, or of a run and of another that it is joined against."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from miner.config import JoinSettings, SelectSettings
from miner.copies import equal_bytes, stand_for
from miner.errors import StoreError
from miner.packs import Pack, build_pack, group_shards, without_near_copies
from miner.records import Json
from miner.rows import Rows, deviations, inputs, joined_shards, load_rows
from miner.store import Store

BORDERLINE = 1e-3
"""Half-width of the band around a threshold in which a pair is called borderline."""


def runs_to_join(store: Store, against: Path | None) -> list[Store]:
    """The run, and the one that it is joined against.

    Raises:
        StoreError: the other is not there, or is the run itself.
    """
    if against is None:
        return [store]
    if against.resolve() == store.root.resolve():
        raise StoreError(
            f"--against {against} is the run itself; leave it out to join a run with itself"
        )
    other = Store(against)
    other.run()
    return [store, other]


def load_sides(stores: list[Store], clip: str, dino: str) -> list[Rows]:
    """The images of each run that have vectors of both encoders.

    Raises:
        StoreError: a run has none, or one image_id stands for two images.
    """
    sides = [load_rows(store, clip, dino) for store in stores]
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


def pack_side(
    store: Store,
    folder: Path,
    record: Json,
    rows: Rows,
    settings: JoinSettings,
    near: SelectSettings,
    known: list[tuple[str, ...]],
) -> Pack:
    """The rows that are joined, with copies collapsed as the settings say."""
    encoders = (record["clip"], record["dino"])
    hashes = inputs(store, *encoders)
    if settings.collapse != "none":
        rows = rows.take(*stand_for(equal_bytes(rows.sha256), rows.duplicates))
    groups = group_shards(rows, known)
    if settings.collapse == "near":
        whole = build_pack(store, folder / "whole", encoders, rows, groups, hashes)
        rows = without_near_copies(whole, near_clip=near.near_clip, near_dino=near.near_dino)
    return build_pack(store, folder / "rows", encoders, rows, groups, hashes)


def bands(stores: list[Store], clip: str, dino: str) -> tuple[float, float]:
    """Half-widths of the borderline bands of both encoders."""
    clip_band, dino_band = (
        max(
            BORDERLINE,
            *(deviations(each, encoder_id, joined_shards(each, clip, dino)) for each in stores),
        )
        for encoder_id in (clip, dino)
    )
    return clip_band, dino_band


def sizes(stores: list[Store], record: Json, everything: list[Rows], packs: list[Pack]) -> Json:
    """How much there is to join."""
    shards = [joined_shards(store, record["clip"], record["dino"]) for store in stores]
    sizes = [len(pack) for pack in packs]
    within = sizes[0] * (sizes[0] - 1) // 2
    return {
        "shards": sum(map(len, shards)),
        "images": sum(map(len, everything)),
        "distinct": sum(sizes),
        "pairs": within if len(sizes) == 1 else sizes[0] * sizes[1],
    }
