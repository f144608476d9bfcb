"""Runs seen by CLIP alone and by both small encoders, for tests of joins that encode late.

A batch is one image, since lazy and eager batches hold other images: the size of a batch may change
the last bit of float32, now and then one step of the stored float16, and so the bytes of `raw`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from miner.config import FeedSettings, ReadSettings
from miner.embed import embed_shard, reading_fingerprint
from miner.encoders import Encoder, TorchEncoder
from miner.partial import Late
from miner.shards import list_shards
from miner.stats import Stats
from miner.store import Store

FEEDING = FeedSettings(batch_size=4, decoders="thread")


@dataclass(kw_only=True)
class Watched:
    """Encoders for a late join; takes note of who looked at how many images of which shard."""

    encoders: Sequence[Encoder]
    truths: Sequence[TorchEncoder] = ()
    batch_size: int = 1
    seen: list[tuple[str, int]] = field(default_factory=list)
    runs: dict[str, Path] = field(default_factory=dict)

    def _take_note(self, store: Store, shard_id: str, stats: Stats) -> None:
        counts = stats.counts.items()
        self.seen.append((shard_id, sum(n for name, n in counts if "encoded" in name)))
        self.runs[shard_id] = store.root

    @property
    def late(self) -> Late:
        return Late(
            load=lambda encoder_id, kind: next(
                encoder
                for encoder in (self.truths if kind == "fp32" else self.encoders)
                if encoder.encoder_id == encoder_id
            ),
            feeding=FEEDING.model_copy(update={"batch_size": self.batch_size}),
            on_shard=self._take_note,
        )


def embed(corpus: Path, run: Path, encoders: Sequence[Encoder], *names: str) -> Store:
    """A run of a corpus, or of some of its shards, with some encoders; their own commands' log."""
    store = Store(run)
    patterns = [str(corpus / name) for name in names] or [str(corpus)]
    shards = list_shards(patterns, dataset="corpus")
    seen = {shard.shard_id: {"url": shard.url} for shard in shards}
    command = {"command": "test", "encoders": [encoder.encoder_id for encoder in encoders]}
    store.update_run(reading_fingerprint(ReadSettings()), seen, command)
    for shard in shards:
        embed_shard(shard, encoders, store=store, settings=ReadSettings(), batch_size=1)
    return store


def raw_bytes(store: Store) -> dict[str, bytes]:
    """The parts of `raw` of all joins, by their paths."""
    parts = sorted(store.root.glob("pairs/*/raw/*.parquet"))
    return {path.relative_to(store.root).as_posix(): path.read_bytes() for path in parts}
