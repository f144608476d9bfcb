"""The join over a run directory: which pairs of its images are blind, found block by block.

Shape suffixes: P pairs.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from kernels.bounds import float32_slack
from miner.blind import BlindPairs, blind_pairs
from miner.blocks import BlockSearch, blocks_of, commit_block, is_committed
from miner.config import JoinSettings, SelectSettings
from miner.gather import gather
from miner.implementations import IMPLEMENTATIONS, implementation, why_chosen
from miner.packs import as_one_segment
from miner.pairs import join_name, raw_pairs, raw_table
from miner.publish import PART_ROWS, publish
from miner.records import Json, digest, replace_record
from miner.rows import inputs, joined_shards
from miner.sides import bands, load_sides, pack_side, runs_to_join, sizes
from miner.store import Store
from miner.versions import versions

__all__ = ["IMPLEMENTATIONS", "BlindPairs", "blind_pairs", "implementation", "join"]

Progress = Callable[[int, int], None]
"""Called with the number of blocks that are done, and of all."""


def join(
    store: Store,
    clip: str,
    dino: str,
    settings: JoinSettings,
    near: SelectSettings,
    progress: Progress = lambda done, number: None,
) -> Json:
    """Find the blind pairs of a run and commit them, unless that was done already.

    Blocks that an earlier join with the same settings has committed are not sought again, so a
    join that was killed goes on, and new shards cost what is new.

    Args:
        store: the run directory.
        clip: encoder_id.
        dino: encoder_id.
        settings: thresholds and implementation.
        near: what a near-copy is, for `collapse="near"`.
        progress: called after every block.

    Returns:
        The content of join.json.

    Raises:
        StoreError: no shard has vectors of both encoders.
    """
    folder = store.root / "pairs" / join_name(clip, dino, settings)
    stores = runs_to_join(store, settings.against)
    clip_band, dino_band = bands(stores, clip, dino)
    fingerprint = digest(
        {
            "settings": settings.model_dump(exclude={"join", "against"}),
            "near": [near.near_clip, near.near_dino] if settings.collapse == "near" else None,
            "inputs": [inputs(each, clip, dino) for each in stores],
            "bands": [clip_band, dino_band],
        }
    )
    with store.lock(folder.name):
        done = store.join_record(folder)
        where = None if settings.against is None else str(stores[1].root.resolve())
        if done is not None and done["fingerprint"] == fingerprint:
            if done["against"] != where:
                # The other run was moved since.
                done["against"] = where
                replace_record(folder / "join.json", done)
            return done
        record: Json = {"name": folder.name, "fingerprint": fingerprint, "clip": clip, "dino": dino}
        record |= {"against": where, "borderline_clip": clip_band, "borderline_dino": dino_band}
        return _join(stores, folder, record, settings, near, progress)


def _join(
    stores: list[Store],
    folder: Path,
    record: Json,
    settings: JoinSettings,
    near: SelectSettings,
    progress: Progress,
) -> Json:
    """Search, and publish what was found under the record."""
    store, clip, dino = stores[0], record["clip"], record["dino"]
    stage, packed = f"blocks/{folder.name}", store.root / "packed" / folder.name
    sides = load_sides(stores, clip, dino)
    packs = [
        pack_side(each, packed / str(n), record, rows, settings, near, _known(store, stage, n))
        for n, (each, rows) in enumerate(zip(stores, sides, strict=True))
    ]
    impl = implementation(settings.join)
    if impl == "knn":
        # Neighbours are sought among all rows, not among those of a segment.
        packs = [as_one_segment(pack) for pack in packs]
    first, second = packs[0], packs[1] if len(packs) > 1 else None
    blocks = blocks_of(first, second)
    search = BlockSearch(first, second, impl, settings)
    names = [block.name(settings, impl) for block in blocks]
    for place, (block, name) in enumerate(zip(blocks, names, strict=True)):
        if not is_committed(store, stage, name):
            commit_block(store, stage, block, search, settings)
        progress(place + 1, len(blocks))
    found = gather(store, stage, blocks, names, packs, settings)
    sets = (packs[0].rows, packs[-1].rows)
    raw = raw_pairs(
        sets, found.pairs, settings, (record["borderline_clip"], record["borderline_dino"])
    )
    record |= {
        **settings.model_dump(exclude={"join", "against"}),
        "near_clip": near.near_clip if settings.collapse == "near" else None,
        "near_dino": near.near_dino if settings.collapse == "near" else None,
        "impl": impl,
        "impl_because": why_chosen(settings.join, impl),
        "bound": {"clip_slack": float32_slack(first.clip_ND.shape[1])} if impl == "cpu" else None,
        "counts": {
            **sizes(stores, record, sides, packs),
            **found.counts,
            "kept": len(raw),
            "blind": int(raw.blind.sum()),
            "borderline": int((raw.blind & raw.borderline).sum()),
        },
        "search": found.search,
        "shards": [joined_shards(each, clip, dino) for each in stores],
        "versions": versions(),
    }
    parts = (
        raw_table(sets, raw, slice(start, start + PART_ROWS), with_blind=settings.keeps_more)
        for start in range(0, max(1, len(raw)), PART_ROWS)
    )
    record = publish(store, folder, parts, found.histogram.table(), record)
    shutil.rmtree(packed, ignore_errors=True)
    for name in set(store.committed(stage)) - set(names):
        store.withdraw(stage, name)
    return record


def _known(store: Store, stage: str, side: int) -> list[tuple[str, ...]]:
    """Groups of shards that blocks of an earlier join, or of a killed one, were made of."""
    groups: dict[tuple[str, ...], None] = {}
    for name in store.committed(stage):
        groups[tuple(store.record(stage, name)["shards"][side])] = None
    return list(groups)
