"""The run: plan, hand out shards, collect reports, join, select."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import torch

from miner.audit import collect_garbage
from miner.config import EmbedSettings, JoinSettings, MineSettings, ReadSettings, SelectSettings
from miner.embed import embed_shard, reading_fingerprint
from miner.encoders import Encoder, TorchEncoder, find_record, load_encoder
from miner.errors import FingerprintError, ResourceError, ShardError, StoreError
from miner.partial import Late, embed_rest
from miner.records import Json
from miner.registry import EncoderRecord
from miner.rows import joined_shards
from miner.shards import Shard, list_shards
from miner.stats import Stats
from miner.store import Store
from miner.vectors import FP32, EncoderVectors
from miner.versions import versions
from miner.weights import locate
from pipelines.joins import join_and_select, with_own_thresholds
from pipelines.modes import AUTO_SAMPLES, Choice, choice_made, choose, embedding_of
from pipelines.progress import ShardProgress
from pipelines.settle import settle

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Embedded:
    """What an embedding run did and found.

    Attributes:
        clip: encoder_id.
        dino: encoder_id.
        stats: of the work done in this run only.
        num_shards: listed shards.
        new: ids of shards on which there was work to do.
        failed: shard_id to error, of shards that could not be read.
        damaged: ids of committed shards that are damaged.
        num_samples: over all listed and committed shards.
        num_quarantined: likewise.
        max_bad_fraction: the limit above which a run is partial.
        choice: whether DINO saw every image, and why.
    """

    clip: str
    dino: str
    choice: Choice = field(default=Choice(mode="eager", because="asked for"))
    stats: Stats = field(default_factory=Stats)
    num_shards: int = 0
    new: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)
    damaged: list[str] = field(default_factory=list)
    num_samples: int = 0
    num_quarantined: int = 0
    max_bad_fraction: float

    @property
    def bad_fraction(self) -> float:
        """Share of the samples that was refused."""
        return self.num_quarantined / max(self.num_samples, 1)

    @property
    def partial(self) -> bool:
        """Whether something is missing that was asked for (exit code 3)."""
        too_many = self.bad_fraction > self.max_bad_fraction
        return bool(self.failed or self.damaged) or too_many


def device_of(name: str) -> str:
    """The device that a setting stands for.

    Raises:
        ResourceError: a GPU is asked for and there is none.
    """
    has_gpu = torch.cuda.is_available()
    if name == "auto":
        return "cuda" if has_gpu else "cpu"
    if name.startswith("cuda") and not has_gpu:
        raise ResourceError(
            f"--device {name}: torch {torch.__version__} sees no GPU; give --device cpu, or see "
            "`blindpairs doctor`"
        )
    return name


class Encoders:
    """The two encoders of a run: known at once, loaded when first needed."""

    def __init__(self, settings: EmbedSettings) -> None:
        self._settings = settings
        self._device = device_of(settings.device)
        self._located = [
            locate(find_record(settings.clip), settings.clip_weights),
            locate(find_record(settings.dino), settings.dino_weights),
        ]
        self._loaded: dict[tuple[str, str], TorchEncoder] = {}
        clip, dino = (record.encoder_id for record in self.records)
        if clip == dino:
            raise ValueError(
                f"--clip and --dino are both {clip}; a blind pair takes two encoders that differ"
            )

    @property
    def records(self) -> list[EncoderRecord]:
        """CLIP's record and DINO's."""
        return [record for record, _ in self._located]

    def load(self, encoder_id: str) -> Encoder:
        """An encoder on its device, as the settings want it computed."""
        return self._load(encoder_id, self._settings.precision)

    def load_truth(self, encoder_id: str) -> Encoder:
        """An encoder on its device, in float32 by torch."""
        return self._load(encoder_id, "fp32")

    def late(self, store: Store) -> Late:
        """Both, for a join that finds out which images they have to see."""
        return Late(
            load=lambda encoder_id, kind: (
                self.load_truth(encoder_id) if kind == FP32 else self.load(encoder_id)
            ),
            batch_size=self._settings.batch_size,
            on_shard=lambda shard_id, stats: _append_metrics(store, shard_id, stats),
        )

    def _load(self, encoder_id: str, precision: str) -> TorchEncoder:
        key = (encoder_id, precision)
        if key not in self._loaded:
            found = {record.encoder_id: (record, path) for record, path in self._located}
            record, path = found[encoder_id]
            log.info("loading %s on %s from %s", encoder_id, self._device, path)
            self._loaded[key] = load_encoder(
                record, device=self._device, dtype=precision, weights=path
            )
        return self._loaded[key]


def embed(
    patterns: Sequence[str],
    store: Store,
    read: ReadSettings,
    encode: EmbedSettings,
    command: Json,
    how: JoinSettings | None = None,
    encoders: Encoders | None = None,
) -> Embedded:
    """Embed every listed shard that is not committed yet; where DINO is lazy, with CLIP alone.

    Args:
        patterns: shards, as `miner.shards.list_shards` takes them.
        store: the run directory.
        read: how shards are read.
        encode: which encoders, on what.
        command: what to log in run.json.
        how: thresholds, by which `--dino-mode auto` chooses; default: the encoders' own.
        encoders: made of `encode`, where the caller has them already.

    Raises:
        MinerError: shards cannot be listed or were changed, or weights or a device are missing. A
            shard that cannot be read does not raise; it is reported in `failed`.
    """
    listed = list_shards(patterns, dataset=read.dataset, stem_depth=read.stem_depth)
    root = os.path.realpath(store.root)
    if any(shard.files and os.path.realpath(shard.url) == root for shard in listed):
        raise ValueError(f"--out {store.root} is the folder of the images; give another one")
    encoders = encoders or Encoders(encode)
    shards = settle(listed, store, dataset_given=read.dataset is not None)
    clip, dino = (record.encoder_id for record in encoders.records)
    seen = {shard.shard_id: _whereabouts(shard) for shard in shards}
    store.update_run(reading_fingerprint(read), seen, {**command, "encoders": [clip, dino]})
    done = Embedded(
        clip=clip, dino=dino, num_shards=len(shards), max_bad_fraction=read.max_bad_fraction
    )
    task = _Embedding(store=store, shards=shards, encoders=encoders, read=read, encode=encode)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Embedding:
    """What is embedded, where and how."""

    store: Store
    shards: list[Shard]
    encoders: Encoders
    read: ReadSettings
    encode: EmbedSettings


def _embed_all(
    task: _Embedding,
    wanted: list[str],
    done: Embedded,
    progress: ShardProgress,
    *,
    most_samples: int | None = None,
) -> None:
    """Embed shard by shard with some encoders, and count; stop early at a number of samples."""
    left = task.read.limit
    for shard in task.shards:
        if left is not None and left <= 0:
            break
        try:
            stats = _embed_one(shard, task, wanted, left, progress)
        except ShardError as error:
            log.error("shard %s failed: %s", shard.shard_id, error)
            done.failed[shard.shard_id] = str(error)
            progress.advance()
            continue
        num_samples = _account(done, task.store, shard.shard_id, stats, wanted)
        left = None if left is None else left - num_samples
        if most_samples is not None:
            if done.num_samples >= most_samples:
                break
            continue
        progress.advance()


def _choose(task: _Embedding, done: Embedded, how: JoinSettings, progress: ShardProgress) -> Choice:
    """Choose by the first shards, seen by CLIP alone, unless an earlier command chose already."""
    # Not at the top: a plan imports this file.
    from pipelines.plan import flops_per_image

    store, clip, dino = task.store, done.clip, done.dino
    choice = choice_made(store, clip, dino)
    if choice is None:
        head = Embedded(clip=clip, dino=dino, max_bad_fraction=done.max_bad_fraction)
        _embed_all(task, [clip], head, progress, most_samples=AUTO_SAMPLES)
        done.stats, done.new = head.stats, head.new
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


def _account(done: Embedded, store: Store, shard_id: str, stats: Stats, wanted: list[str]) -> int:
    """Add a committed shard to the totals; its number of samples."""
    record = store.record("samples", shard_id)
    vectors = [store.record(f"vectors/{encoder_id}", shard_id) for encoder_id in wanted]
    done.stats += stats
    if stats.counts:
        done.new.add(shard_id)
    done.num_samples += record["num_samples"]
    done.num_quarantined += record["num_quarantined"]
    done.num_quarantined += sum(vector["num_quarantined"] for vector in vectors)
    done.damaged += [shard_id] if record["damaged"] else []
    return int(record["num_samples"])


def _embed_one(
    shard: Shard,
    task: _Embedding,
    wanted: list[str],
    quota: int | None,
    progress: ShardProgress,
) -> Stats:
    store = task.store
    stages = ["samples", *(f"vectors/{encoder_id}" for encoder_id in wanted)]
    if store.commit_path("samples", shard.shard_id).exists():
        record = store.record("samples", shard.shard_id)
        cut_after = record["cut_after"]
        if cut_after is not None and cut_after != quota:
            raise FingerprintError(
                f"{shard.shard_id} was committed with --limit, after {cut_after} of its samples; "
                f"now {'all' if quota is None else quota} are asked for; give the same --limit, "
                "or another --out"
            )
    if all(store.commit_path(stage, shard.shard_id).exists() for stage in stages):
        return Stats()
    stats = Stats()
    late = replace(task.encoders.late(store), on_image=progress.image)
    for encoder_id in wanted if store.commit_path("samples", shard.shard_id).exists() else []:
        vectors = EncoderVectors(store, encoder_id)
        if shard.shard_id not in vectors.whole and vectors.names(shard.shard_id):
            # A lazy join had a part of it looked at.
            stats += embed_rest(store, shard.shard_id, task.encoders.load(encoder_id), late)
    stats += embed_shard(
        shard,
        [task.encoders.load(encoder_id) for encoder_id in wanted],
        store=store,
        settings=task.read,
        batch_size=task.encode.batch_size,
        quota=quota,
        on_image=progress.image,
    )
    _append_metrics(store, shard.shard_id, stats)
    return stats


def _append_metrics(store: Store, shard_id: str, stats: Stats) -> None:
    path = store.root / "metrics" / "embed.jsonl"
    path.parent.mkdir(exist_ok=True)
    line = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "shard": shard_id,
        "counts": dict(stats.counts),
        "seconds": {stage: round(elapsed_s, 4) for stage, elapsed_s in stats.seconds.items()},
    }
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def _whereabouts(shard: Shard) -> Json:
    return {"url": shard.url, "num_bytes": shard.num_bytes, "modified": shard.modified}


def command_of(name: str, settings: Json) -> Json:
    """What run.json remembers of a command."""
    return {
        "command": name,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "settings": settings,
        "versions": versions(),
    }


def mine(patterns: Sequence[str], out: Path, settings: MineSettings) -> tuple[Embedded, Json]:
    """The whole run: embed, join, select. Run again, it does only what is missing.

    Args:
        patterns: shards, as `miner.shards.list_shards` takes them.
        out: the run directory.
        settings: everything.

    Returns:
        What was embedded, and the content of join.json.

    Raises:
        MinerError: see `embed`, `miner.join.join` and `miner.select.select`.
    """
    store = Store(out)
    command = command_of("mine", settings.model_dump(mode="json", exclude_defaults=True))
    encode, how = settings.part(EmbedSettings), settings.part(JoinSettings)
    if how.recheck and (encode.backend, encode.precision) == ("torch", "fp32"):
        _refuse_idle_recheck(store)
    encoders = Encoders(encode)
    embedded = embed(patterns, store, settings.part(ReadSettings), encode, command, how, encoders)
    record = join_and_select(
        store,
        embedded.clip,
        embedded.dino,
        how,
        settings.part(SelectSettings),
        lazy=embedded.choice.mode == "lazy",
        late=encoders.late(store),
    )
    return embedded, record


def _refuse_idle_recheck(store: Store) -> None:
    """Refuse before hours of work what the join would refuse after them."""
    if not store.encoder_ids():
        raise ValueError(
            "--recheck has no effect on vectors that torch computes in fp32, which is what it "
            "would compare with; leave it out, or give another --backend or --precision"
        )


def join_again(
    store: Store, clip: str, dino: str, how: JoinSettings, which: SelectSettings
) -> Json:
    """Join what a run has; images that encoders still have to see are seen as they were before.

    Args:
        store: the run directory.
        clip: encoder_id.
        dino: encoder_id.
        how: thresholds and implementation.
        which: what is selected.

    Raises:
        StoreError: encoders are wanted, and no command tells how both were used.
        FingerprintError: the weights that were used then are others now.
        MinerError: see `miner.join.join` and `miner.select.select`.
    """
    last = embedding_of(store, clip, dino)
    lazy = last is not None and last[1] == "lazy"
    if not lazy and not how.recheck:
        return join_and_select(store, clip, dino, how, which)
    if last is None:
        raise StoreError(
            f"no command embedded {store.root} with {clip} and {dino}, so --recheck does not know "
            "their weights; run `blindpairs embed` with both"
        )
    encoders = Encoders(last[0])
    now = [record.encoder_id for record in encoders.records]
    if now != [clip, dino]:
        raise FingerprintError(
            f"{store.root} was embedded with {clip} and {dino}, and their weights files are those "
            f"of {' and '.join(now)} now; restore them"
        )
    return join_and_select(store, clip, dino, how, which, lazy=lazy, late=encoders.late(store))
