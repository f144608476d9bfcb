"""Which shards have work to do, each with what is left of `--limit`, and what became of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from miner.config import EmbedSettings, JoinSettings, ReadSettings
from miner.errors import FingerprintError
from miner.shards import Shard
from miner.stats import Stats
from miner.store import Store
from miner.vectors import EncoderVectors
from pipelines.embed_work import ShardTask
from pipelines.embedded import Embedded
from pipelines.executors import Executor
from pipelines.loading import Encoders
from pipelines.progress import ShardOutcome, ShardProgress


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedding:
    """What is embedded, where and how; and the vectors that were there before, by encoder_id."""

    store: Store
    shards: list[Shard]
    encoders: Encoders
    read: ReadSettings
    encode: EmbedSettings
    how: JoinSettings | None
    executor: Executor
    before: dict[str, EncoderVectors]


class Todo:
    """The shards that have work to do, in their order; the others are accounted for on the way."""

    def __init__(
        self,
        task: Embedding,
        wanted: list[str],
        done: Embedded,
        progress: ShardProgress,
        most_samples: int | None,
    ) -> None:
        self._task, self._wanted, self._done, self._progress = task, wanted, done, progress
        self._left, self._most_samples = task.read.limit, most_samples
        # Some samples are needed at once, to choose by; or what is left of a limit, which is known
        # when the shard before is committed.
        self.in_turn = self._left is not None or most_samples is not None

    def __iter__(self) -> Iterator[ShardTask]:
        """Shards, each with what is left of `--limit`."""
        store = self._task.store
        stages = ["samples", *(f"vectors/{encoder_id}" for encoder_id in self._wanted)]
        for shard in self._task.shards:
            enough = self._most_samples is not None and self._done.num_samples >= self._most_samples
            if enough or (self._left is not None and self._left <= 0):
                return
            _check_cut(store, shard, self._left)
            if shard.shard_id in self._done.failed:
                # What cannot be read is not tried twice.
                self.show("failed", Stats())
            elif all(store.is_committed(stage, shard.shard_id) for stage in stages):
                self.account(shard, Stats())
            else:
                yield ShardTask(shard=shard, quota=self._left)

    def account(self, shard: Shard, stats: Stats, *, worker: str | None = None) -> None:
        """Add a committed shard to the totals."""
        store, done, shard_id = self._task.store, self._done, shard.shard_id
        record = store.record("samples", shard_id)
        vectors = [store.record(f"vectors/{encoder_id}", shard_id) for encoder_id in self._wanted]
        done.stats += stats
        if stats.counts:
            done.new.add(shard_id)
        done.num_samples += record["num_samples"]
        num_quarantined = record["num_quarantined"]
        num_quarantined += sum(vector["num_quarantined"] for vector in vectors)
        done.num_quarantined += num_quarantined
        # Runs that are older than the filters have neither.
        done.excluded.update(record.get("excluded", {}))
        done.unrated.update(record.get("unrated", {}))
        done.damaged += [shard_id] if record["damaged"] else []
        self._left = None if self._left is None else self._left - record["num_samples"]
        self.show(
            "embedded" if stats.counts else "known",
            stats,
            num_quarantined=num_quarantined,
            worker=worker,
        )

    def show(
        self,
        outcome: ShardOutcome,
        stats: Stats,
        *,
        num_quarantined: int = 0,
        worker: str | None = None,
    ) -> None:
        """Show that a shard is dealt with, unless all of them are gone through once more."""
        if self._most_samples is None:
            self._progress.shard(outcome, stats, num_quarantined=num_quarantined, worker=worker)


def _check_cut(store: Store, shard: Shard, quota: int | None) -> None:
    """Refuse a shard that was committed with another `--limit`."""
    if not store.is_committed("samples", shard.shard_id):
        return
    cut_after = store.record("samples", shard.shard_id)["cut_after"]
    if cut_after is not None and cut_after != quota:
        raise FingerprintError(
            f"{shard.shard_id} was committed with --limit, after {cut_after} of its samples; "
            f"now {'all' if quota is None else quota} are asked for; give the same --limit, "
            "or another --out"
        )
