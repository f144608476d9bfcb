"""The embedding of shards as work for an executor."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import torch

from miner.config import EmbedSettings, FeedSettings, JoinSettings, ReadSettings
from miner.decode_process import warm_up
from miner.embed import ROLES, embed_shards, reading_fingerprint
from miner.errors import FingerprintError
from miner.records import differences
from miner.registry import EncoderRecord
from miner.shards import Shard
from miner.stats import Stats
from miner.store import Store
from pipelines.executors import OnProgress, Work, Worker
from pipelines.loading import Encoders, device_of

FIRST_SHARDS = 100
"""Shards on whose first images a worker's engines prove themselves, at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardTask:
    """A shard to embed, with what is left of `--limit`."""

    shard: Shard
    quota: int | None = None

    @property
    def name(self) -> str:
        """The shard's id."""
        return self.shard.shard_id


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardReport:
    """What was done of a shard, and why it could not be read."""

    stats: Stats
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class EmbedShards(Work[ShardTask, ShardReport]):
    """What a worker has to know to embed shards as the driver would.

    Attributes:
        root: the run directory.
        read: how shards are read.
        encode: which encoders, on what.
        how: thresholds, by which engines are judged.
        records: both encoders, with the hashes of the driver's weights.
        wanted: encoder_ids of those whose vectors are wanted.
        first_shards: on whose images engines prove themselves.
    """

    root: Path | str
    read: ReadSettings
    encode: EmbedSettings
    how: JoinSettings | None
    records: Sequence[EncoderRecord]
    wanted: Sequence[str]
    first_shards: Sequence[Shard]

    def open(self, num_cores: int | None = None) -> EmbedWorker:
        """Load the encoders here.

        Raises:
            FingerprintError: the weights, or a list of excluded ids, here are not the driver's.
            MinerError: weights or a device are missing here, or an engine is not equal.
        """
        encode = self.encode
        if num_cores is not None:
            torch.set_num_threads(num_cores)
            # Beside a GPU, encoding and reading take a core each.
            own = 2 if device_of(encode.device) == "cuda" else 0
            num_decoders = encode.num_decoders or max(num_cores - own, 1)
            encode = encode.model_copy(update={"num_decoders": num_decoders})
        given = [record.model_copy(update={"weights_sha256": None}) for record in self.records]
        encoders = Encoders(encode, self.first_shards, read=self.read, how=self.how, records=given)
        for record, here in zip(self.records, encoders.records, strict=True):
            if changed := differences(record.model_dump(), here.model_dump()):
                raise FingerprintError(
                    f"{record.name}: a worker has another one than the driver "
                    f"({'; '.join(changed)}); put the same weights file on every node"
                )
        store = Store(self.root)
        if changed := differences(store.run()["reading"], reading_fingerprint(self.read)):
            raise FingerprintError(
                f"a worker would read other samples than the driver ({'; '.join(changed)}); put "
                "the same list for --exclude-ids on every node, or give URL#sha256=HEX"
            )
        return EmbedWorker(store, encoders, self.read, encode, self.wanted)


class EmbedWorker(Worker[ShardTask, ShardReport]):
    """Embeds shards with the encoders of a run."""

    def __init__(
        self,
        store: Store,
        encoders: Encoders,
        read: ReadSettings,
        encode: EmbedSettings,
        wanted: Iterable[str],
    ) -> None:
        self._store, self._read, self._feeding = store, read, encode.part(FeedSettings)
        self._held = ExitStack()
        # For what this worker writes the driver may be gone before it knows.
        self._held.enter_context(store.writing())
        if self._feeding.decoders == "process":
            # Their start takes as long as loading the encoders.
            warm_up()
        ids = [record.encoder_id for record in encoders.records]
        self._roles = {ROLES[ids.index(each)]: encoders.load(each) for each in wanted}

    def stream(
        self, tasks: Iterator[ShardTask | None], on_progress: OnProgress
    ) -> Generator[tuple[ShardTask, ShardReport]]:
        """Embed shards: one is read while another is encoded and the one before it is written."""
        in_hand: dict[str, ShardTask] = {}

        def shards() -> Iterator[tuple[Shard, int | None] | None]:
            for task in tasks:
                if task is None:
                    yield None
                else:
                    in_hand[task.name] = task
                    yield task.shard, task.quota

        embedding = embed_shards(
            shards(),
            self._roles,
            store=self._store,
            settings=self._read,
            feeding=self._feeding,
            on_image=lambda: on_progress(1),
        )
        with closing(embedding):
            for done in embedding:
                error = None if done.error is None else str(done.error)
                yield in_hand.pop(done.shard.shard_id), ShardReport(stats=done.stats, error=error)

    def close(self) -> None:
        """Say that nothing more is written."""
        self._held.close()


@dataclass(frozen=True, kw_only=True)
class EmbedHere(Work[ShardTask, ShardReport]):
    """The same in the driver's process, whose encoders may be needed again."""

    work: EmbedShards
    encoders: Encoders

    def open(self, num_cores: int | None = None) -> EmbedWorker:
        """Take the encoders that are there."""
        work = self.work
        return EmbedWorker(Store(work.root), self.encoders, work.read, work.encode, work.wanted)
