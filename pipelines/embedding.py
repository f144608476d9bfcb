"""Shards to embeddings: hand them out, account for them, and choose how lazy DINO is."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime

import torch

from miner.audit import collect_garbage
from miner.config import EmbedSettings, JoinSettings, ReadSettings
from miner.embed import reading_fingerprint
from miner.errors import ResourceError
from miner.partial import embed_rests
from miner.records import Json
from miner.rows import joined_shards
from miner.shards import Shard, absolute, list_shards
from miner.stats import Stats
from miner.store import Store
from miner.urls import shown
from miner.vectors import EncoderVectors
from miner.versions import versions
from pipelines.embed_work import EmbedHere, EmbedShards, first_shards
from pipelines.embedded import Embedded
from pipelines.executors import Executor, Inline
from pipelines.joins import with_own_thresholds
from pipelines.loading import Encoders, append_failure, append_metrics
from pipelines.modes import AUTO_SAMPLES, Choice, choice_made, choose
from pipelines.progress import ShardProgress
from pipelines.settle import settle
from pipelines.shares import WHOLE, Share
from pipelines.todo import Embedding, Todo

log = logging.getLogger(__name__)


def embed(
    patterns: Sequence[str],
    store: Store,
    read: ReadSettings,
    encode: EmbedSettings,
    command: Json,
    how: JoinSettings | None = None,
    *,
    executor: Executor | None = None,
    share: Share = WHOLE,
) -> Embedded:
    """Embed every listed shard that is not committed yet; where DINO is lazy, with CLIP alone.

    Args:
        patterns: shards, as `miner.shards.list_shards` takes them.
        store: the run directory.
        read: how shards are read.
        encode: which encoders, on what.
        command: what to log in run.json.
        how: thresholds, by which `--dino-mode auto` chooses and engines are judged; default: the
            encoders' own.
        executor: who does the work; default: this process.
        share: which shards of the list.

    Raises:
        ValueError: `share` is given together with what needs all shards in their order.
        MinerError: shards cannot be listed or were changed, or weights or a device are missing (of
            the driver, too, where it has to encode some images late). A
            shard that cannot be read does not raise; it is reported in `failed`.
    """
    executor = executor or Inline()
    _check_share(share, read, encode)
    found = list_shards(patterns, dataset=read.dataset, stem_depth=read.stem_depth)
    listed = [absolute(shard) for shard in found]
    root = store.files.address
    if any(shard.files and os.path.realpath(shard.url) == root for shard in listed):
        raise ValueError(f"--out {store.root} is the folder of the images; give another one")
    elsewhere = not isinstance(executor, Inline)
    if elsewhere:
        _check_elsewhere(encode, how)
    encoders = Encoders(encode, listed, read=read, how=how, elsewhere=elsewhere)
    with store.remembering():
        shards = settle(listed, store, dataset_given=read.dataset is not None)
        clip, dino = (record.encoder_id for record in encoders.records)
        seen = {shard.shard_id: _whereabouts(shard) for shard in shards}
        store.update_run(reading_fingerprint(read), seen, {**command, "encoders": [clip, dino]})
        shards = shards[share.number - 1 :: share.of]
        done = Embedded(
            clip=clip,
            dino=dino,
            encoders=encoders,
            num_shards=len(shards),
            max_bad_fraction=read.max_bad_fraction,
        )
        if elsewhere and read.limit is not None:
            log.warning(
                "--limit counts samples over the shards in their order: they go one at a time, so "
                "that one Ray worker alone is busy"
            )
        task = Embedding(
            store=store,
            shards=shards,
            encoders=encoders,
            read=read,
            encode=encode,
            how=how,
            executor=executor,
            before={encoder_id: EncoderVectors(store, encoder_id) for encoder_id in (clip, dino)},
        )
        with store.writing(), ShardProgress(len(shards)) as progress:
            if encode.dino_mode == "auto":
                done.choice = _choose(task, done, how or JoinSettings(), progress)
            elif encode.dino_mode == "lazy":
                done.choice = Choice(mode="lazy", because="asked for")
            wanted = [clip] if done.choice.mode == "lazy" else [clip, dino]
            _embed_all(task, wanted, done, progress)
    # A join that was killed goes on with what it had packed.
    collect_garbage(store, spare=("packed",))
    return done


def _embed_all(
    task: Embedding,
    wanted: list[str],
    done: Embedded,
    progress: ShardProgress,
    *,
    most_samples: int | None = None,
) -> None:
    """Embed every shard with some encoders, and count; stop early at a number of samples."""
    _embed_rests(task, wanted, done, progress)
    todo = Todo(task, wanted, done, progress, most_samples)
    there = EmbedShards(
        root=task.store.root,
        read=task.read,
        encode=task.encode,
        how=task.how,
        records=task.encoders.records,
        wanted=wanted,
        first_shards=first_shards(task.shards),
    )
    here = EmbedHere(work=there, encoders=task.encoders)
    work = here if isinstance(task.executor, Inline) else there
    embedding = task.executor.run(work, todo, in_turn=todo.in_turn, on_progress=progress.images)
    with closing(embedding):
        for outcome in embedding:
            shard, report = outcome.task.shard, outcome.report
            error = outcome.error if report is None else report.error
            stats = Stats() if report is None else report.stats
            if error is not None:
                append_failure(task.store, shard.shard_id, error)
                done.fail(shard.shard_id, error, stats)
                todo.show("failed", stats, worker=outcome.worker)
                continue
            if stats.counts:
                append_metrics(task.store, shard.shard_id, stats)
            todo.account(shard, stats, worker=outcome.worker)


def _check_share(share: Share, read: ReadSettings, encode: EmbedSettings) -> None:
    """Refuse what one part of the shards cannot know."""
    if share.of == 1:
        return
    if read.limit is not None:
        raise ValueError(
            "--limit counts over all shards in their order, which a --part does not see; leave out "
            "one of them"
        )
    if encode.dino_mode == "auto":
        raise ValueError(
            "--dino-mode auto chooses by the first of all shards, which a --part does not see; "
            "give eager or lazy"
        )


def _check_elsewhere(encode: EmbedSettings, how: JoinSettings | None) -> None:
    """Refuse what workers cannot do, or what this machine would do badly in their place."""
    if encode.profile is not None:
        raise ValueError(
            "--profile traces one process, and with --executor ray there are several; leave out "
            "one of them"
        )
    late = "--recheck" if how is not None and how.recheck else f"--dino-mode {encode.dino_mode}"
    if encode.device == "cpu" or torch.cuda.is_available() or late == "--dino-mode eager":
        return
    raise ResourceError(
        f"{late} has images encoded by this machine during the join, and it has no GPU, while Ray "
        f"workers may (--device {encode.device}); run it on a machine with a GPU, leave it out, or "
        "give --device cpu for all"
    )


def _embed_rests(
    task: Embedding, wanted: list[str], done: Embedded, progress: ShardProgress
) -> None:
    """Of shards of which lazy joins had a part looked at: the rest."""
    store = task.store
    late = replace(task.encoders.late(), on_image=lambda: progress.images(1))
    for encoder_id in wanted:
        before = task.before[encoder_id]
        shard_ids = [
            shard.shard_id
            for shard in task.shards
            if before.names(shard.shard_id)
            and shard.shard_id not in done.failed
            and not store.is_committed(f"vectors/{encoder_id}", shard.shard_id)
        ]
        if shard_ids:
            encoder = task.encoders.load(encoder_id)
            for shard_id, stats, error in embed_rests(store, shard_ids, encoder, late):
                if error is not None:
                    append_failure(store, shard_id, str(error))
                    done.fail(shard_id, str(error), stats)
                    continue
                append_metrics(store, shard_id, stats)
                done.stats += stats
                done.new.add(shard_id)


def _choose(task: Embedding, done: Embedded, how: JoinSettings, progress: ShardProgress) -> Choice:
    """Choose by the first shards, seen by CLIP alone, unless an earlier command chose already."""
    # Not at the top: a plan imports this file.
    from pipelines.estimates import flops_per_image

    store, clip, dino = task.store, done.clip, done.dino
    choice = choice_made(store, clip, dino)
    if choice is None:
        head = Embedded(
            clip=clip,
            dino=dino,
            encoders=task.encoders,
            max_bad_fraction=done.max_bad_fraction,
        )
        _embed_all(task, [clip], head, progress, most_samples=AUTO_SAMPLES)
        # What is damaged is counted again with the rest.
        done.stats, done.new, done.failed = head.stats, head.new, head.failed
        num_bytes = sum(shard.num_bytes for shard in task.shards)
        known = {shard.shard_id: shard for shard in task.shards}
        seen = [known[i] for i in joined_shards(store, clip) if i in known]
        num_seen = sum(store.record("samples", s.shard_id)["num_decodable"] for s in seen)
        num_images = round(num_seen * num_bytes / max(sum(s.num_bytes for s in seen), 1))
        num_images = min(num_images, task.read.limit or num_images)
        first, second = (float(flops_per_image(record)) for record in task.encoders.records)
        how = with_own_thresholds(store, clip, dino, how)
        choice = choose(store, (clip, dino), (first, second), num_images, how)
        chosen = {"dino_mode": choice.mode, "because": choice.because}
        store.log_command({**command_of("auto", {}), "encoders": [clip, dino], "chosen": chosen})
    log.warning("--dino-mode auto: %s, since %s", choice.mode, choice.because)
    return choice


def _whereabouts(shard: Shard) -> Json:
    return {"url": shard.url, "num_bytes": shard.num_bytes, "modified": shard.modified}


def command_of(name: str, settings: Json) -> Json:
    """What run.json remembers of a command; of URLs no user, password or query."""
    settings = {k: shown(v) if isinstance(v, str) else v for k, v in settings.items()}
    return {
        "command": name,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "settings": settings,
        "versions": versions(),
    }
