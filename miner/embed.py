"""Shards: read, decode once, encode, one table for the samples and one for each encoder.

Batches never cross shards and hold the same images whenever a shard is read, so that its vectors
depend neither on other shards nor on how often a run was interrupted. While one shard is encoded
the next one is read, and the one before it is written.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice

from miner.commits import (
    account,
    commit_samples,
    commit_vectors,
    committed_images,
    reading_fingerprint,
)
from miner.config import FeedSettings, ReadSettings
from miner.encode import Encoded, Pause, Work, encode_arriving
from miner.encoders import Encoder
from miner.errors import ShardError
from miner.law import Refusal
from miner.samples import Sample, ShardReader
from miner.shards import Shard, image_id_of
from miner.stats import Laps, Stats
from miner.store import Store

__all__ = ["Done", "embed_shard", "embed_shards", "image_id_of", "reading_fingerprint"]

ROLES = ("clip", "dino")
"""What the two encoders of a run are called, in their order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What became of one shard.

    Attributes:
        shard: which.
        stats: counts of what was done (`shards`, `samples`, `decodable`, `quarantined`, and
            `encoded <encoder>`), and the seconds that went by since the shard before it was done.
        error: why it could not be read.
    """

    shard: Shard
    stats: Stats
    error: ShardError | None = None


@dataclass(frozen=True, kw_only=True)
class _ShardWork(Work):
    """What is missing of a shard."""

    reader: ShardReader
    is_new: bool
    quota: int | None


def embed_shards(
    shards: Iterable[tuple[Shard, int | None] | None],
    encoders: Mapping[str, Encoder],
    *,
    store: Store,
    settings: ReadSettings,
    feeding: FeedSettings,
    on_image: Callable[[], None] = lambda: None,
) -> Generator[Done]:
    """Do whatever is missing of some shards, and commit each; overlapped, but in their order.

    Args:
        shards: what to read, each with the number of samples after which to stop (`--limit`). A
            None among them says that there is none yet: what is in hand is finished and yielded,
            and they are asked for another one.
        encoders: those whose vectors are wanted, by role (`clip`, `dino`); the ones already
            committed are skipped.
        store: the run directory.
        settings: limits for images, and the reading settings that are recorded.
        feeding: batch size and decode workers.
        on_image: called for each decoded image, for progress.

    Yields:
        One for each shard; with no counts where nothing was missing of it.

    Raises:
        FingerprintError: a shard's images are not those that were committed.
    """
    laps = Laps()
    encoded = encode_arriving(
        _works(shards, encoders, store, settings),
        encoders,
        limits=settings,
        settings=feeding,
        laps=laps,
        on_image=on_image,
    )
    with closing(encoded), ThreadPoolExecutor(1, "writer") as writer:
        writing: deque[Future[Done]] = deque()
        for each in encoded:
            if each is not Pause.BATCH or (writing and writing[0].done()):
                yield from _written(writing, laps)
            if isinstance(each, Encoded):
                writing.append(writer.submit(_commit, each, store, settings, feeding))
        yield from _written(writing, laps)


def embed_shard(
    shard: Shard,
    encoders: Sequence[Encoder],
    *,
    store: Store,
    settings: ReadSettings,
    batch_size: int,
    quota: int | None = None,
    on_image: Callable[[], None] = lambda: None,
    roles: Sequence[str] = ROLES,
) -> Stats:
    """Do whatever is missing of one shard, and commit it: `embed_shards` of one.

    Args:
        shard: what to read.
        encoders: those whose vectors are wanted, CLIP's first.
        store: the run directory.
        settings: limits for images, and the reading settings that are recorded.
        batch_size: images to a batch.
        quota: stop after this many samples (`--limit`).
        on_image: called for each decoded image, for progress.
        roles: of the encoders.

    Returns:
        As `Done.stats`; empty where nothing was missing.

    Raises:
        ShardError: the shard cannot be read.
        FingerprintError: the shard's images are not those that were committed.
    """
    stats = Stats()
    for done in embed_shards(
        [(shard, quota)],
        dict(zip(roles, encoders, strict=False)),
        store=store,
        settings=settings,
        feeding=FeedSettings(batch_size=batch_size),
        on_image=on_image,
    ):
        if done.error is not None:
            raise done.error
        stats += done.stats
    return stats


def _works(
    shards: Iterable[tuple[Shard, int | None] | None],
    encoders: Mapping[str, Encoder],
    store: Store,
    settings: ReadSettings,
) -> Iterator[_ShardWork | None]:
    for each in shards:
        if each is None:
            yield None
            continue
        shard, quota = each
        missing = tuple(
            role
            for role, encoder in encoders.items()
            if not store.is_committed(f"vectors/{encoder.encoder_id}", shard.shard_id)
        )
        is_new = not store.is_committed("samples", shard.shard_id)
        reader = ShardReader(shard, settings, settings)
        yield _ShardWork(
            shard=shard,
            items=_first(reader, quota) if missing or is_new else (),
            roles=missing,
            with_phash=is_new,
            reader=reader,
            is_new=is_new,
            quota=quota,
        )


def _first(reader: ShardReader, quota: int | None) -> Iterator[Sample | Refusal]:
    """So many items of a shard."""
    items, num_items = iter(reader), 0
    for item in islice(items, quota):
        num_items += 1
        yield item
    if num_items == quota:
        # One further look tells a shard that ended here from one that was cut.
        next(items, None)


def _commit(
    encoded: Encoded[_ShardWork], store: Store, settings: ReadSettings, feeding: FeedSettings
) -> Done:
    """Commit one shard; runs in the writing thread."""
    work, stats = encoded.work, Stats(core_seconds=encoded.core_seconds)
    if encoded.error is not None:
        return Done(shard=work.shard, stats=stats, error=encoded.error)
    if not work.roles and not work.is_new:
        return Done(shard=work.shard, stats=stats)
    start_core_s = time.thread_time()
    accounts = account(work.shard, encoded.entries)
    if work.is_new:
        commit_samples(work.shard, accounts, work.reader.report, store, settings, work.quota)
        stats.count("shards")
        stats.count("samples", accounts.num_samples)
        stats.count("decodable", len(accounts.decodable))
        stats.count("quarantined", len(accounts.refused))
    committed = committed_images(work.shard, accounts, store)
    for vectors in encoded.vectors.values():
        num_refused = commit_vectors(
            work.shard, vectors, accounts, committed, store, batch_size=feeding.batch_size
        )
        stats.count(f"encoded {vectors.encoder.record.name}", len(committed) - num_refused)
    stats.core_seconds["write"] = time.thread_time() - start_core_s
    return Done(shard=work.shard, stats=stats)


def _written(writing: deque[Future[Done]], laps: Laps) -> Iterator[Done]:
    """What the writing thread is at, once it is done, with all the time since the one before."""
    while writing:
        done = writing.popleft().result()
        laps.lap("write")
        done.stats.seconds.update(laps.take())
        yield done
