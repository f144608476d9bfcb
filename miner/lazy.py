"""Joins in which DINO sees only the images that have a CLIP candidate (`--dino-mode lazy`).

CLIP's cosines alone say which images are in a candidate pair. DINO looks at these, and the final
join is over these: it finds the pairs that a join of all images would find, since a pair of the
others is none. Near-copies before the join are near-copies by CLIP too, so they are covered.

Shape suffixes: N rows.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from kernels import cpu
from miner import schema
from miner.block_work import BlockTask, BlockWork, search_blocks
from miner.blocks import Block, BlockSearch, blocks_of, known_groups, withdraw_others
from miner.packs import Pack, build_pack, group_shards, without_near_copies
from miner.pairs import against_part, decimals
from miner.partial import Late, embed_images
from miner.records import Json, digest, new_attempt
from miner.rows import Rows, by_shard, inputs
from miner.sides import Joined, JoinTask, distinct_rows, load_sides
from miner.store import Store
from miner.vectors import LAZY, EncoderVectors

NO_RANDOM = (
    "no random pairs: DINO saw only images with a CLIP candidate, which are no random sample"
)


def lazy_sides(task: JoinTask, late: Late) -> Joined:
    """What is joined where DINO sees only images with a candidate; it sees them here.

    Args:
        task: the join.
        late: DINO.

    Raises:
        ValueError: the join may miss pairs, so that nobody knows which images it needs.
        ShardError: a shard cannot be read again.
        FingerprintError: an image is not what was committed.
    """
    if task.impl == "knn":
        raise ValueError(
            "--join knn may miss candidates, and --dino-mode lazy would leave their images out "
            "with no word on recall; give another --join, or --dino-mode eager"
        )
    sides = load_sides(task.stores, task.clip)
    distinct = [distinct_rows(rows, task.settings) for rows in sides]
    above = task.settings.keep_clip_above
    if task.settings.collapse == "near":
        above = min(above, task.near.near_clip)
    # Joins that differ in DINO's threshold share the screening.
    with task.stores[0].lock(screening_name(task, above)):
        masks = screen(task, distinct, above)
    for store, rows, mask in zip(task.stores, distinct, masks, strict=True):
        covered = [rows.image_ids[place] for place in np.flatnonzero(mask)]
        embed_images(store, by_shard(store, covered), task.dino, LAZY, late)
    refused = [_refused(store, task, rows) for store, rows in zip(task.stores, sides, strict=True)]
    packs, num_distinct = [], []
    for number, (rows, mask) in enumerate(zip(distinct, masks, strict=True)):
        pack, size = _final_pack(task, number, rows, mask, refused[number])
        packs.append(pack)
        num_distinct.append(size)
    joined = Joined(
        packs=packs,
        num_images=sum(
            sum(sha256 not in refused[number] for sha256 in rows.sha256)
            for number, rows in enumerate(sides)
        ),
        num_distinct=num_distinct,
        lazy={"covered": int(sum(mask.sum() for mask in masks)), "screened_above": above},
    )
    assert joined.lazy is not None
    joined.lazy["random_pairs"] = None if joined.covers_all else NO_RANDOM
    return joined


def screen(task: JoinTask, sides: list[Rows], above: float) -> list[np.ndarray]:
    """Which images have a candidate, found block by block; what is committed is not sought again.

    Args:
        task: the join.
        sides: rows of each run.
        above: a candidate's CLIP cosine is strictly above this.

    Returns:
        [N] bool for each side.
    """
    store, stage = task.stores[0], f"blocks/{screening_name(task, above)}"
    packs = []
    for number, (each, rows) in enumerate(zip(task.stores, sides, strict=True)):
        groups = group_shards(rows, known_groups(store, stage, number))
        hashes = inputs(each, (task.clip,), rows.shard_ids)
        folder = task.packed / str(number) / "screened"
        packs.append(build_pack(each, folder, (task.clip, None), rows, groups, hashes))
    first, second = packs[0], packs[1] if len(packs) > 1 else None
    blocks = blocks_of(first, second)
    names = [f"{b.first.name}~{b.second.name}~{digest(above)[:8]}" for b in blocks]
    work = BlockWork(
        root=store.root,
        stage=stage,
        packs=tuple(pack.files for pack in packs),
        impl=task.impl,
        clip_above=above,
        commit=_commit,
        join=task.shared,
        scratch=task.settings.scratch,
    )
    tasks = [BlockTask(name=name, block=block) for name, block in zip(names, blocks, strict=True)]
    search_blocks(store, work, tasks, task.hand_out, task.progress)
    masks = [np.zeros(len(rows), dtype=bool) for rows in sides]
    for block, name in zip(blocks, names, strict=True):
        _mark(store, stage, name, block, packs, masks)
    withdraw_others(store, stage, names)
    return masks


def screening_name(task: JoinTask, above: float) -> str:
    """What the screening's blocks go by: all joins that need the same share them."""
    every_copy = ["collapse-none"] if task.settings.collapse == "none" else []
    parts = [task.clip, decimals(above), "candidates", *every_copy, *against_part(task.settings)]
    return "~".join(parts)


def _commit(store: Store, stage: str, name: str, block: Block, search: BlockSearch) -> None:
    """Find which rows of a block have a candidate; memory is a bool for each."""
    found = [np.zeros(each.stop - each.start, bool) for each in (block.first, block.second)]
    num_candidates = 0
    for pairs in search.candidates(block, cpu.Statistics()):
        found[0][pairs.i.numpy()] = True
        found[0 if block.within else 1][pairs.j.numpy()] = True
        num_candidates += len(pairs)
    rows = [np.flatnonzero(side) for side in found]
    table = pa.Table.from_arrays(
        [
            pa.array(np.repeat(np.arange(2, dtype=np.int8), [len(rows[0]), len(rows[1])])),
            pa.array(np.concatenate(rows)),
        ],
        schema=schema.SCREENED,
    )
    entry = store.write_table(table, stage, f"{name}.{new_attempt()}.parquet")
    record: Json = {
        "shards": [list(block.first.shards), list(block.second.shards)],
        "num_candidates": num_candidates,
        "num_kept": table.num_rows,
    }
    store.commit(stage, name, [entry], record)


def _mark(
    store: Store, stage: str, name: str, block: Block, packs: list[Pack], masks: list[np.ndarray]
) -> None:
    table = store.table(store.record(stage, name), "blocks")
    side, row = table["side"].to_numpy(), table["row"].to_numpy()
    masks[0][packs[0].places[row[side == 0] + block.first.start]] = True
    masks[-1][packs[-1].places[row[side == 1] + block.second.start]] = True


def _refused(store: Store, task: JoinTask, rows: Rows) -> set[str]:
    """sha256 of the images of a run for which DINO gave no finite vector; copies go with them."""
    vectors = EncoderVectors(store, task.dino)
    bad = {image_id for shard_id in rows.shard_ids for image_id in vectors.refused(shard_id)}
    if not bad:
        return set()
    return {
        sha256
        for image_id, sha256 in zip(rows.image_ids, rows.sha256, strict=True)
        if image_id in bad
    }


def _final_pack(
    task: JoinTask, number: int, rows: Rows, mask: np.ndarray, refused: set[str]
) -> tuple[Pack, int]:
    """The rows of a side that have a candidate, and how many distinct ones there are in all."""
    store, encoders = task.stores[number], (task.clip, task.dino)
    folder, known = task.packed / str(number), known_groups(task.stores[0], task.stage, number)
    hashes = inputs(store, encoders, rows.shard_ids)
    if refused:
        good = np.array([sha256 not in refused for sha256 in rows.sha256], dtype=bool)
        places = np.flatnonzero(good)
        rows, mask = rows.take(places, rows.duplicates[places]), mask[places]
    covered = {rows.image_ids[place] for place in np.flatnonzero(mask)}
    if task.settings.collapse == "near":
        groups = group_shards(rows, known)
        whole = build_pack(store, folder / "whole", encoders, rows, groups, hashes, may_lack=True)
        near = task.near
        rows = without_near_copies(whole, near_clip=near.near_clip, near_dino=near.near_dino)
    num_distinct = len(rows)
    places = np.flatnonzero([image_id in covered for image_id in rows.image_ids])
    rows = rows.take(places, rows.duplicates[places])
    groups = group_shards(rows, known)
    return build_pack(store, folder / "rows", encoders, rows, groups, hashes), num_distinct
