"""The run: plan, hand out shards, collect reports, join, select."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path

import torch

from miner.audit import collect_garbage
from miner.config import (
    EmbedSettings,
    FeedSettings,
    JoinSettings,
    MineSettings,
    ReadSettings,
    SelectSettings,
)
from miner.decoders import warm_up
from miner.embed import ROLES, Done, embed_shards, reading_fingerprint
from miner.encoders import TorchEncoder, find_record, load_encoder
from miner.errors import FingerprintError, ResourceError
from miner.records import Json
from miner.registry import EncoderRecord
from miner.shards import Shard, list_shards
from miner.stats import Stats
from miner.store import Store
from miner.versions import versions
from miner.weights import locate
from pipelines.joins import join_and_select
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
        num_new: shards on which there was work to do.
        failed: shard_id to error, of shards that could not be read.
        damaged: ids of committed shards that are damaged.
        num_samples: over all listed and committed shards.
        num_quarantined: likewise.
        max_bad_fraction: the limit above which a run is partial.
    """

    clip: str
    dino: str
    stats: Stats = field(default_factory=Stats)
    num_shards: int = 0
    num_new: int = 0
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
        self._loaded: dict[str, TorchEncoder] = {}
        clip, dino = (record.encoder_id for record in self.records)
        if clip == dino:
            raise ValueError(
                f"--clip and --dino are both {clip}; a blind pair takes two encoders that differ"
            )

    @property
    def records(self) -> list[EncoderRecord]:
        """CLIP's record and DINO's."""
        return [record for record, _ in self._located]

    def load(self) -> list[TorchEncoder]:
        """Both encoders on their device."""
        for record, path in self._located:
            if record.encoder_id not in self._loaded:
                log.info("loading %s on %s from %s", record.encoder_id, self._device, path)
                self._loaded[record.encoder_id] = load_encoder(
                    record, device=self._device, dtype=self._settings.precision, weights=path
                )
        return [self._loaded[record.encoder_id] for record in self.records]


def embed(
    patterns: Sequence[str], store: Store, read: ReadSettings, encode: EmbedSettings, command: Json
) -> Embedded:
    """Embed every listed shard that is not committed yet.

    Args:
        patterns: shards, as `miner.shards.list_shards` takes them.
        store: the run directory.
        read: how shards are read.
        encode: which encoders, on what.
        command: what to log in run.json.

    Raises:
        MinerError: shards cannot be listed or were changed, or weights or a device are missing. A
            shard that cannot be read does not raise; it is reported in `failed`.
    """
    listed = list_shards(patterns, dataset=read.dataset, stem_depth=read.stem_depth)
    root = os.path.realpath(store.root)
    if any(shard.files and os.path.realpath(shard.url) == root for shard in listed):
        raise ValueError(f"--out {store.root} is the folder of the images; give another one")
    encoders = Encoders(encode)
    shards = settle(listed, store, dataset_given=read.dataset is not None)
    clip, dino = (record.encoder_id for record in encoders.records)
    seen = {shard.shard_id: _whereabouts(shard) for shard in shards}
    store.update_run(reading_fingerprint(read), seen, {**command, "encoders": [clip, dino]})
    done = Embedded(
        clip=clip, dino=dino, num_shards=len(shards), max_bad_fraction=read.max_bad_fraction
    )
    with store.writing(), ShardProgress(len(shards)) as progress:
        todo = _Todo(shards, store, encoders, read.limit, done, progress)
        for shard_done in _embed_all(todo, store, encoders, read, encode, progress):
            if shard_done.error is not None:
                shard_id, error = shard_done.shard.shard_id, str(shard_done.error)
                log.error("shard %s failed: %s", shard_id, error)
                done.failed[shard_id] = error
                done.stats += shard_done.stats
                progress.advance()
            else:
                _append_metrics(store, shard_done)
                todo.account(shard_done.shard, shard_done.stats)
    # A join that was killed goes on with what it had packed.
    collect_garbage(store, spare=("packed",))
    return done


class _Todo:
    """The shards that have work to do, in their order; the others are accounted for on the way."""

    def __init__(
        self,
        shards: Sequence[Shard],
        store: Store,
        encoders: Encoders,
        limit: int | None,
        done: Embedded,
        progress: ShardProgress,
    ) -> None:
        self._shards, self._store, self._encoders = shards, store, encoders
        self._left, self._done, self._progress = limit, done, progress

    def __iter__(self) -> Iterator[tuple[Shard, int | None]]:
        """Shards, each with what is left of `--limit`."""
        encoder_ids = [record.encoder_id for record in self._encoders.records]
        stages = ["samples", *(f"vectors/{encoder_id}" for encoder_id in encoder_ids)]
        for shard in self._shards:
            if self._left is not None and self._left <= 0:
                return
            _check_cut(self._store, shard, self._left)
            if all(self._store.commit_path(stage, shard.shard_id).exists() for stage in stages):
                self.account(shard, Stats())
            else:
                yield shard, self._left

    def account(self, shard: Shard, stats: Stats) -> None:
        """Add a committed shard to the totals."""
        store, done = self._store, self._done
        record = store.record("samples", shard.shard_id)
        vectors = [store.record(f"vectors/{e}", shard.shard_id) for e in (done.clip, done.dino)]
        done.stats += stats
        done.num_new += bool(stats.counts)
        done.num_samples += record["num_samples"]
        done.num_quarantined += record["num_quarantined"]
        done.num_quarantined += sum(vector["num_quarantined"] for vector in vectors)
        done.damaged += [shard.shard_id] if record["damaged"] else []
        self._left = None if self._left is None else self._left - record["num_samples"]
        self._progress.advance()


def _embed_all(
    todo: _Todo,
    store: Store,
    encoders: Encoders,
    read: ReadSettings,
    encode: EmbedSettings,
    progress: ShardProgress,
) -> Iterator[Done]:
    """Embed what there is to do; with nothing to do no encoder is loaded."""
    shards = iter(todo)
    first = next(shards, None)
    if first is None:
        return
    if encode.decoders == "process":
        warm_up()
    embedding = embed_shards(
        chain([first], shards),
        dict(zip(ROLES, encoders.load(), strict=True)),
        store=store,
        settings=read,
        feeding=encode.part(FeedSettings),
        # What is left of a limit is known once the shard before is committed.
        read_ahead=read.limit is None,
        on_image=progress.image,
    )
    with closing(embedding):
        yield from embedding


def _check_cut(store: Store, shard: Shard, quota: int | None) -> None:
    if not store.commit_path("samples", shard.shard_id).exists():
        return
    cut_after = store.record("samples", shard.shard_id)["cut_after"]
    if cut_after is not None and cut_after != quota:
        raise FingerprintError(
            f"{shard.shard_id} was committed with --limit, after {cut_after} of its samples; "
            f"now {'all' if quota is None else quota} are asked for; give the same --limit, "
            "or another --out"
        )


def _append_metrics(store: Store, done: Done) -> None:
    path = store.root / "metrics" / "embed.jsonl"
    path.parent.mkdir(exist_ok=True)
    stats = done.stats
    line = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "shard": done.shard.shard_id,
        "counts": dict(stats.counts),
        "seconds": {stage: round(s, 4) for stage, s in stats.seconds.items()},
        "core_seconds": {name: round(s, 4) for name, s in stats.core_seconds.items()},
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
    embedded = embed(
        patterns, store, settings.part(ReadSettings), settings.part(EmbedSettings), command
    )
    how, which = settings.part(JoinSettings), settings.part(SelectSettings)
    return embedded, join_and_select(store, embedded.clip, embedded.dino, how, which)
