"""The two encoders of a run: known at once, loaded when first needed."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import cache, cached_property
from operator import itemgetter

import torch

from export.gate import amounts_on, first_images
from export.look import Group
from miner.config import (
    EmbedSettings,
    ExcludeSettings,
    FeedSettings,
    ImageLimits,
    JoinSettings,
    ReadSettings,
)
from miner.encoders import Encoder, find_record
from miner.errors import ResourceError
from miner.partial import Late
from miner.records import new_attempt
from miner.registry import EncoderRecord
from miner.shards import Shard
from miner.stats import Stats
from miner.store import Store
from miner.vectors import FP32
from miner.weights import locate
from pipelines.engines import open_encoder

log = logging.getLogger(__name__)


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
    """The two encoders of a run: known at once, loaded and proven when first needed.

    Args:
        settings: which, and on what.
        shards: those of the run; engines prove themselves on their first images, when
            they are opened.
        read: how these are read.
        how: thresholds at which the run decides; default: the encoders' own.
        records: CLIP's and DINO's; default: those that the settings name.
        elsewhere: whether others than this process encode, so that a device that is missing here
            is no error before an encoder is loaded.
    """

    def __init__(
        self,
        settings: EmbedSettings,
        shards: Iterable[Shard] = (),
        *,
        read: ReadSettings | None = None,
        how: JoinSettings | None = None,
        records: Sequence[EncoderRecord] | None = None,
        elsewhere: bool = False,
    ) -> None:
        self._settings = settings
        self._shards = shards
        self._read = read or ReadSettings()
        self._how = how or JoinSettings()
        if not elsewhere:
            device_of(settings.device)
        clip_record, dino_record = records or map(find_record, (settings.clip, settings.dino))
        self._located = [
            locate(clip_record, settings.clip_weights),
            locate(dino_record, settings.dino_weights),
        ]
        self._own: dict[str, Group] | None = None
        self._loaded: dict[tuple[str, str, str], Encoder] = {}
        clip, dino = (record.encoder_id for record in self.records)
        if clip == dino:
            raise ValueError(
                f"--clip and --dino are both {clip}; a blind pair takes two encoders that differ"
            )

    @cached_property
    def _device(self) -> str:
        return device_of(self._settings.device)

    @property
    def records(self) -> list[EncoderRecord]:
        """CLIP's record and DINO's."""
        return [record for record, _ in self._located]

    def load(self, encoder_id: str) -> Encoder:
        """An encoder on its device, as the settings want it computed."""
        return self._load(encoder_id, self._settings)

    def load_truth(self, encoder_id: str) -> Encoder:
        """An encoder on its device, in float32 by torch."""
        truth = {"backend": "torch", "precision": "fp32"}
        return self._load(encoder_id, self._settings.model_copy(update=truth))

    def late(self) -> Late:
        """Both, for a join that finds out which images they have to see."""
        return Late(
            load=lambda encoder_id, kind: (
                self.load_truth(encoder_id) if kind == FP32 else self.load(encoder_id)
            ),
            feeding=self._settings.part(FeedSettings),
            on_shard=append_metrics,
        )

    def _load(self, encoder_id: str, settings: EmbedSettings) -> Encoder:
        key = (encoder_id, settings.backend, settings.precision)
        if key not in self._loaded:
            place = [record.encoder_id for record in self.records].index(encoder_id)
            record, path = self._located[place]
            log.info("loading %s on %s from %s", encoder_id, self._device, path)
            self._loaded[key] = open_encoder(
                record,
                path,
                settings,
                self._device,
                threshold=self._threshold(record, ("clip_above", "dino_below")[place]),
                own=lambda: self._first_images(encoder_id),
            )
        return self._loaded[key]

    def _threshold(self, record: EncoderRecord, name: str) -> float:
        """Where the run decides: as given, else the encoder's own, else the usual."""
        own = getattr(record, name)
        if own is None or name in self._how.model_fields_set:
            own = getattr(self._how, name)
        return float(own)

    def _first_images(self, encoder_id: str) -> Group:
        """Crops for an encoder; those of both are cut at once, and each is given away once."""
        if self._own is None or encoder_id not in self._own:
            self._shards = list(self._shards)
            groups = first_images(
                self._shards,
                self.records,
                amounts_on(torch.device(self._device)).read,
                limits=self._read.part(ImageLimits),
                limit=self._read.limit,
                exclude=self._read.part(ExcludeSettings),
            )
            ids = [record.encoder_id for record in self.records]
            self._own = dict(zip(ids, groups, strict=True))
        return self._own.pop(encoder_id)


def append_metrics(store: Store, shard_id: str, stats: Stats) -> None:
    """Add a line on what was done of a shard to the run's metrics."""
    line = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "shard": shard_id,
        "counts": dict(stats.counts),
        "seconds": {stage: round(s, 4) for stage, s in stats.seconds.items()},
        "core_seconds": {name: round(s, 4) for name, s in stats.core_seconds.items()},
    }
    store.files.append(_own_file("embed", os.getpid()), json.dumps(line))


def append_failure(store: Store, shard_id: str, error: str) -> None:
    """Add a line on a shard that could not be read to the run's metrics."""
    line = {"time": datetime.now(UTC).isoformat(), "shard": shard_id, "error": error}
    store.files.append(_own_file("failed", os.getpid()), json.dumps(line))


def failures(store: Store) -> dict[str, str]:
    """Why shards could not be read when they were tried last, by shard_id."""
    names = [name for name in store.files.names("metrics") if name.startswith("failed.")]
    texts = store.files.read_many(f"metrics/{name}" for name in names)
    lines = [json.loads(line) for text in texts for line in text.splitlines()]
    return {line["shard"]: line["error"] for line in sorted(lines, key=itemgetter("time"))}


@cache
def _own_file(kind: str, pid: int) -> str:
    """A file to which this process alone adds lines."""
    return f"metrics/{kind}.{new_attempt()}.jsonl"
