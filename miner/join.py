"""The join over a run directory: which pairs of its images are blind, found block by block.

Shape suffixes: P pairs.
"""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from functools import partial

from kernels.bounds import float32_slack
from miner.blind import BlindPairs, blind_pairs
from miner.block_work import BlockTask, BlockWork, HandOut, Progress, in_turn, search_blocks
from miner.blocks import blocks_of, commit_block, withdraw_others
from miner.config import JoinSettings, SelectSettings
from miner.gather import Gathered, gather
from miner.implementations import IMPLEMENTATIONS, implementation, why_chosen
from miner.lazy import lazy_sides
from miner.pack_copies import delete_copies
from miner.packs import as_one_segment
from miner.pairs import join_name, raw_pairs, raw_table
from miner.partial import Late
from miner.publish import PART_ROWS, publish
from miner.recheck import Rechecked, grown, reach, recheck, refuse_idle, widened
from miner.records import Json, digest
from miner.rows import inputs, joined_shards
from miner.sides import BORDERLINE, Joined, JoinTask, band, eager_sides, runs_to_join
from miner.store import Store
from miner.vectors import FP32, LAZY, EncoderVectors, files_read, still_read
from miner.versions import versions

__all__ = ["IMPLEMENTATIONS", "BlindPairs", "blind_pairs", "implementation", "join"]

log = logging.getLogger(__name__)


def join(
    store: Store,
    clip: str,
    dino: str,
    settings: JoinSettings,
    near: SelectSettings,
    progress: Progress = lambda done, number: None,
    *,
    hand_out: HandOut = in_turn,
    lazy: bool = False,
    late: Late | None = None,
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
        hand_out: has the blocks searched; default: one after the other, by this process.
        lazy: DINO sees only images with a candidate, and sees them now.
        late: the encoders, for `lazy` and for a re-check.

    Returns:
        The content of join.json.

    Raises:
        StoreError: no shard has vectors of both encoders (of CLIP, where lazy).
        ValueError: a setting has no effect on these vectors, or encoders are wanted and not given.
        ShardError: images have to be encoded now, and a shard cannot be read.
        FingerprintError: likewise, and an image is not what was committed.
    """
    if (lazy or settings.recheck) and late is None:
        raise ValueError("a lazy join and a re-check encode images; give `late`, the encoders")
    stores = runs_to_join(store, settings.against)
    # Where DINO has seen everything already, there is nothing left to be lazy about.
    lazy = lazy and any(joined_shards(s, clip) != joined_shards(s, clip, dino) for s in stores)
    seen_all = (clip,) if lazy else (clip, dino)
    shards = [joined_shards(each, *seen_all) for each in stores]
    task = JoinTask(
        stores=stores,
        name=join_name(clip, dino, settings),
        clip=clip,
        dino=dino,
        settings=settings,
        near=near,
        impl=implementation(settings.join),
        hand_out=hand_out,
        progress=progress,
    )
    fingerprint = digest(
        {
            "settings": settings.model_dump(exclude={"join", "against", "scratch"}),
            "near": [near.near_clip, near.near_dino] if settings.collapse == "near" else None,
            "inputs": [
                inputs(each, seen_all, ids) for each, ids in zip(stores, shards, strict=True)
            ],
            "bands": [
                (reach if settings.recheck else band)(stores, each, shards) for each in seen_all
            ],
            "lazy": lazy,
        }
    )
    with store.lock(task.name):
        done = store.join_record(task.name)
        where = None if settings.against is None else stores[1].files.address
        if done is not None and done["fingerprint"] == fingerprint and _stands(task, done):
            if done["against"] != where:
                # The other run was moved since.
                done["against"] = where
                store.replace_record(f"pairs/{task.name}/join.json", done)
            return done
        record: Json = {"name": task.name, "fingerprint": fingerprint}
        record |= {"clip": clip, "dino": dino, "against": where, "shards": shards}
        return _join(task, record, lazy, late)


def _join(task: JoinTask, record: Json, lazy: bool, late: Late | None) -> Json:
    """Search, and publish what was found under the record."""
    store, settings, shards = task.stores[0], task.settings, record["shards"]
    if settings.recheck:
        assert late is not None
        joined, names, found, rechecked = _rechecked(task, shards, lazy, late)
        pairs = rechecked.pairs
        # What was decided by float32 deviates no more, and the rest lies outside the bands.
        bands = BORDERLINE, BORDERLINE
    else:
        joined, rechecked = _sides(task, shards, lazy, late), None
        bands = band(task.stores, task.clip, shards), band(task.stores, task.dino, shards)
        names, found = _search(task, joined, settings)
        pairs = found.pairs
    sets = (joined.packs[0].rows, joined.packs[-1].rows)
    raw = raw_pairs(sets, pairs, settings, bands)
    clip_width = joined.packs[0].clip_ND.shape[1]
    record |= {
        **settings.model_dump(exclude={"join", "against", "scratch"}),
        "near_clip": task.near.near_clip if settings.collapse == "near" else None,
        "near_dino": task.near.near_dino if settings.collapse == "near" else None,
        "borderline_clip": bands[0],
        "borderline_dino": bands[1],
        "impl": task.impl,
        "impl_because": why_chosen(settings.join, task.impl),
        "bound": {"clip_slack": float32_slack(clip_width)} if task.impl == "cpu" else None,
        "lazy": joined.lazy,
        "rechecked": rechecked and rechecked.counts,
        "read": {
            kind: _files_read(task, shards, kind)
            for kind, is_read in ((LAZY, lazy), (FP32, settings.recheck))
            if is_read
        },
        "counts": {
            "shards": sum(map(len, shards)),
            **joined.sizes(),
            **found.counts,
            **(_cut(found, rechecked) if rechecked else {}),
            "kept": len(raw),
            "blind": int(raw.blind.sum()),
            "borderline": int((raw.blind & raw.borderline).sum()),
        },
        "search": found.search,
        "versions": versions(),
    }
    parts = (
        raw_table(sets, raw, slice(start, start + PART_ROWS), with_blind=settings.keeps_more)
        for start in range(0, max(1, len(raw)), PART_ROWS)
    )
    record = publish(store, task.name, parts, found.histogram.table(), record)
    shutil.rmtree(task.packed, ignore_errors=True)
    delete_copies(store, task.name)
    withdraw_others(store, task.stage, names)
    return record


def _rechecked(
    task: JoinTask, shards: list[list[str]], lazy: bool, late: Late
) -> tuple[Joined, list[str], Gathered, Rechecked]:
    """What is joined, the blocks' names, what was found, and what float32 says of it.

    Where it moves a cosine by more than was allowed for, pairs may have been missed, and all is
    sought again with wider bands.
    """
    both, least = (task.clip, task.dino), [0.0, 0.0]
    while True:
        joined = _sides(task, shards, lazy, late, clip_band=least[0])
        reached = [reach(task.stores, each, shards) for each in both]
        bands = max(reached[0], least[0]), max(reached[1], least[1])
        names, found = _search(task, joined, widened(task.settings, bands))
        decided = recheck(task.stores, both, joined.packs, found.pairs, task.settings, bands, late)
        least = [grown(*each) for each in zip(both, decided.moved, bands, reached, strict=True)]
        if least == list(bands):
            return joined, names, found, decided
        log.warning(
            "float32 moves a cosine of CLIP by %.5f and of DINO by %.5f; seeking again with bands "
            "of %.5f and %.5f",
            *(*decided.moved, *least),
        )


def _sides(
    task: JoinTask,
    shards: list[list[str]],
    lazy: bool,
    late: Late | None,
    *,
    clip_band: float = 0.0,
) -> Joined:
    """The rows that are joined; where DINO is lazy, it sees them now.

    Of a re-check, `clip_band` is the least by which images are sought beyond CLIP's threshold.
    """
    settings = task.settings
    if not lazy:
        if settings.recheck:
            refuse_idle(task.stores, task.clip, task.dino, shards)
        return eager_sides(task)
    assert late is not None
    if settings.recheck:
        # Images of pairs that float32 may find have to be seen, too.
        clip_band = max(reach(task.stores, task.clip, shards), clip_band)
        wide = widened(settings, (clip_band, 0.0))
        joined = lazy_sides(replace(task, settings=wide), late)
        refuse_idle(task.stores, task.clip, task.dino, shards)
        return joined
    return lazy_sides(task, late)


def _search(task: JoinTask, joined: Joined, settings: JoinSettings) -> tuple[list[str], Gathered]:
    """Search block by block; the blocks' names, and what all of them found."""
    store, packs = task.stores[0], joined.packs
    if task.impl == "knn":
        # Neighbours are sought among all rows, not among those of a segment.
        packs = [as_one_segment(pack) for pack in packs]
    blocks = blocks_of(packs[0], packs[1] if len(packs) > 1 else None)
    names = [block.name(settings, task.impl) for block in blocks]
    work = BlockWork(
        root=store.root,
        stage=task.stage,
        packs=tuple(pack.files for pack in packs),
        impl=task.impl,
        clip_above=settings.keep_clip_above,
        commit=partial(commit_block, settings=settings),
        join=task.shared,
        scratch=task.settings.scratch,
    )
    tasks = [BlockTask(name=name, block=block) for name, block in zip(names, blocks, strict=True)]
    search_blocks(store, work, tasks, task.hand_out, task.progress)
    return names, gather(
        store, task.stage, blocks, names, packs, settings, with_random=joined.covers_all
    )


def _cut(found: Gathered, rechecked: Rechecked) -> Json:
    """What images with very many partners had too much: in the search, and when it was decided."""
    pairs, images = rechecked.cut
    return {"cut_pairs": found.counts["cut_pairs"] + pairs, "cut_images": images}


def _files_read(task: JoinTask, shards: list[list[str]], kind: str) -> list[Json]:
    """For each run the commits of parts, and of what stands for them, that a join read."""
    return [files_read(_vectors(task, number), ids, kind) for number, ids in enumerate(shards)]


def _stands(task: JoinTask, done: Json) -> bool:
    """Whether the parts that a join read are still those that it would read."""
    return all(
        still_read(files, _vectors(task, number), kind)
        for kind, of_runs in done["read"].items()
        for number, files in enumerate(of_runs)
    )


def _vectors(task: JoinTask, number: int) -> list[EncoderVectors]:
    return [EncoderVectors(task.stores[number], each) for each in (task.clip, task.dino)]
