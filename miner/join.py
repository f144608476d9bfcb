"""The join over a run directory: which pairs of its images are blind, found block by block.

Shape suffixes: P pairs.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from kernels.bounds import float32_slack
from kernels.reference import Pairs, cosines
from miner.blind import BlindPairs, blind_pairs
from miner.blocks import (
    Block,
    BlockSearch,
    blocks_of,
    commit_block,
    is_committed,
    read_block,
)
from miner.config import JoinSettings, SelectSettings
from miner.copies import equal_bytes, stand_for
from miner.errors import StoreError
from miner.implementations import IMPLEMENTATIONS, implementation, why_chosen
from miner.packs import Pack, as_one_segment, build_pack, group_shards, without_near_copies
from miner.pairs import Histogram, join_name, random_pairs, raw_pairs, raw_table
from miner.partners import Partners
from miner.publish import PART_ROWS, publish
from miner.records import Json, digest, replace_record
from miner.rows import Rows, deviations, inputs, joined_shards, load_rows
from miner.store import Store
from miner.versions import versions

__all__ = ["IMPLEMENTATIONS", "BlindPairs", "blind_pairs", "implementation", "join"]

BORDERLINE = 1e-3
"""Half-width of the band around a threshold in which a pair is called borderline."""

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
    stores = [store] if settings.against is None else [store, other_run(store, settings.against)]
    bands = _bands(stores, clip, dino)
    fingerprint = digest(
        {
            "settings": settings.model_dump(exclude={"join", "against"}),
            "near": [near.near_clip, near.near_dino] if settings.collapse == "near" else None,
            "inputs": [inputs(each, clip, dino) for each in stores],
            "bands": bands,
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
        record |= {"against": where, "borderline_clip": bands[0], "borderline_dino": bands[1]}
        return _join(stores, folder, record, settings, near, progress)


def other_run(store: Store, against: Path) -> Store:
    """The run that a join looks for partners in.

    Raises:
        StoreError: there is none, or it is the run itself.
    """
    if against.resolve() == store.root.resolve():
        raise StoreError(
            f"--against {against} is the run itself; leave it out to join a run with itself"
        )
    other = Store(against)
    other.run()
    return other


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
    stage = f"blocks/{folder.name}"
    everything = [load_rows(each, clip, dino) for each in stores]
    if len(everything) > 1:
        _refuse_namesakes(*everything)
        # Images that are in both runs are this run's own; each pair is found once.
        own = set(everything[0].sha256)
        foreign = [place for place, name in enumerate(everything[1].sha256) if name not in own]
        places = np.array(foreign, np.int64)
        everything[1] = everything[1].take(places, everything[1].duplicates[places])
    packed = store.root / "packed" / folder.name
    packs = [
        _pack(each, packed / str(place), record, rows, settings, near, _known(store, stage, place))
        for place, (each, rows) in enumerate(zip(stores, everything, strict=True))
    ]
    first, second = packs[0], packs[1] if len(packs) > 1 else None
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
    pairs, histogram, counts, searched = _gathered(store, stage, blocks, names, packs, settings)
    _count_random(histogram, packs)
    sets = (first.rows, first.rows if second is None else second.rows)
    bands = record["borderline_clip"], record["borderline_dino"]
    raw = raw_pairs(sets, pairs, settings, bands)
    record |= {
        **settings.model_dump(exclude={"join", "against"}),
        "near_clip": near.near_clip if settings.collapse == "near" else None,
        "near_dino": near.near_dino if settings.collapse == "near" else None,
        "impl": impl,
        "impl_because": why_chosen(settings.join, impl),
        "bound": {"clip_slack": float32_slack(first.clip_ND.shape[1])} if impl == "cpu" else None,
        "counts": {
            **_counted(stores, record, everything, packs),
            **counts,
            "kept": len(raw),
            "blind": int(raw.blind.sum()),
            "borderline": int((raw.blind & raw.borderline).sum()),
        },
        "search": searched,
        "shards": [joined_shards(each, clip, dino) for each in stores],
        "versions": versions(),
    }
    parts = (
        raw_table(sets, raw, slice(start, start + PART_ROWS), with_blind=settings.keeps_more)
        for start in range(0, max(1, len(raw)), PART_ROWS)
    )
    record = publish(store, folder, parts, histogram.table(), record)
    shutil.rmtree(packed, ignore_errors=True)
    for name in set(store.committed(stage)) - set(names):
        store.withdraw(stage, name)
    return record


def _bands(stores: list[Store], clip: str, dino: str) -> tuple[float, float]:
    """Half-widths of the borderline bands of both encoders."""
    clip_band, dino_band = (
        max(
            BORDERLINE,
            *(deviations(each, encoder_id, joined_shards(each, clip, dino)) for each in stores),
        )
        for encoder_id in (clip, dino)
    )
    return clip_band, dino_band


def _counted(stores: list[Store], record: Json, everything: list[Rows], packs: list[Pack]) -> Json:
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


def _refuse_namesakes(*sets: Rows) -> None:
    first, second = (dict(zip(rows.image_ids, rows.sha256, strict=True)) for rows in sets)
    other = sorted(name for name in first.keys() & second.keys() if first[name] != second[name])
    if other:
        raise StoreError(
            f"{len(other)} image_ids stand for other images in the run given as --against "
            f"({other[0]}, ...); embed one of the two again with another --dataset"
        )


def _known(store: Store, stage: str, side: int) -> list[tuple[str, ...]]:
    """Groups of shards that blocks of an earlier join, or of a killed one, were made of."""
    groups: dict[tuple[str, ...], None] = {}
    for name in store.committed(stage):
        groups[tuple(store.record(stage, name)["shards"][side])] = None
    return list(groups)


def _pack(
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


def _gathered(
    store: Store,
    stage: str,
    blocks: list[Block],
    names: list[str],
    packs: list[Pack],
    settings: JoinSettings,
) -> tuple[Pairs, Histogram, Json, Json]:
    """The pairs of all blocks, as places among the rows by image_id, and what was counted.

    Returns:
        The pairs that are kept, the histogram of candidates, the counts, and how it was searched.
    """
    first, second = packs[0], packs[-1]
    num_others = None if len(packs) == 1 else len(second)
    partners = Partners(settings, len(first), num_others)
    histogram = Histogram()
    num_candidates = num_found = 0
    search: Json = {"num_blocks": len(blocks)}
    searched = Counter[str]()
    screens: set[str] = set()
    for block, name in zip(blocks, names, strict=True):
        held, record = read_block(store, stage, name)
        num_candidates += record["num_candidates"]
        num_found += record["num_found"]
        histogram.merge(record["histogram"])
        search |= {} if record["knn"] is None else {"knn": record["knn"]}
        done = record["statistics"]
        if done["screen"]:
            screens.add(f"{done['screen']}-{done['width']}")
            searched.update({name: done[name] for name in done if name.startswith("num_")})
        i_of, j_of = (
            first.places[block.first.start : block.first.stop],
            second.places[block.second.start : block.second.stop],
        )
        i, j = i_of[held.i.numpy()], j_of[held.j.numpy()]
        if num_others is None:
            i, j = np.minimum(i, j), np.maximum(i, j)
        partners.add(
            Pairs(
                i=torch.from_numpy(i),
                j=torch.from_numpy(j),
                clip_cos=held.clip_cos,
                dino_cos=held.dino_cos,
            )
        )
        # Rows of the block's two sides, the second numbered on from the first.
        ends = i_of if block.within else np.concatenate([i_of, j_of + partners.offset])
        rows = ends[record["dropped"]["rows"]]
        np.add.at(partners.degree, rows, np.array(record["dropped"]["partners"], np.int64))
    kept = partners.kept()
    counts = {
        "candidates": num_candidates,
        "cut_pairs": num_found - len(kept),
        "cut_images": int((partners.degree > settings.max_partners).sum()),
    }
    if settings.join == "knn":
        search.setdefault("knn", None)
    elif screens:
        search |= {"screens": sorted(screens), **dict(sorted(searched.items()))}
    return kept, histogram, counts, search


def _count_random(histogram: Histogram, packs: list[Pack]) -> None:
    first, second = packs[0], packs[-1]
    i, j = random_pairs(len(first), None if len(packs) == 1 else len(second))
    # Drawn among the rows by image_id, wherever they lie.
    i, j = torch.from_numpy(first.by_id)[i], torch.from_numpy(second.by_id)[j]
    histogram.add(
        "random",
        cosines(first.clip_ND, second.clip_ND, i, j),
        cosines(first.dino_NE, second.dino_NE, i, j),
    )
