"""Images of committed shards, read and encoded once more, and held against what was committed.

Shape suffixes: N images, D width of a vector.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np

from miner.batch import Seen
from miner.commits import crash_of_committed
from miner.config import FeedSettings, ImageLimits
from miner.decode import Refused
from miner.encode import Work, encode_all
from miner.encoders import Encoder
from miner.errors import FingerprintError, ShardError
from miner.fetch import ImageFetcher, is_tree
from miner.law import Refusal
from miner.records import Json
from miner.samples import Sample
from miner.schema import Reason
from miner.shards import Shard
from miner.stats import Laps, Stats
from miner.store import Store

READ_THROUGH_BYTES = 4 * 2**20
"""Unread bytes between two wanted images, on average, up to which a shard is read from front to
back: a request by offset takes a remote store about 50 ms, in which 100 MB/s bring 5 MB."""

COLUMNS = ["image_id", "key", "member", "offset", "num_bytes", "sha256"]

SHARD_FIELDS = ("dataset", "stem", "url", "num_bytes", "modified")
"""What the record of a shard's samples says of it."""


@dataclass(frozen=True, kw_only=True)
class _PartWork(Work):
    """Some images of a shard.

    Attributes:
        rows: those of `samples`, in the order of the shard.
    """

    rows: list[Json]


def samples_of(store: Store, shard_id: str) -> list[Json]:
    """The rows of a shard's images, in the order in which they were embedded."""
    rows: list[Json] = store.samples(shard_id).select(COLUMNS).to_pylist()
    return rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Again:
    """Some images of a shard, encoded; or why it cannot be read.

    Attributes:
        rows: of `samples`.
        vectors_ND: [N, D] float32, of each.
        stats: the time that it took.
    """

    shard_id: str
    rows: list[Json]
    vectors_ND: np.ndarray
    stats: Stats
    error: ShardError | None = None


def encode_again(
    store: Store,
    shard_ids: Iterable[str],
    rows_of: Callable[[str], list[Json]],
    encoder: Encoder,
    feeding: FeedSettings,
    on_image: Callable[[], None],
) -> Iterator[Again]:
    """Read, decode and encode some images of shards."""
    run = store.run()
    limits = {k: v for k, v in run["reading"].items() if k in ImageLimits.model_fields}
    role = encoder.record.name
    works = (_work(store, run, shard_id, rows_of(shard_id), role) for shard_id in shard_ids)
    laps = Laps()
    encoded = encode_all(
        works,
        {role: encoder},
        limits=ImageLimits(**limits),
        settings=feeding,
        laps=laps,
        on_image=on_image,
    )
    with closing(encoded):
        for each in encoded:
            work = each.work
            if each.error is None:
                _check_unchanged(work.shard, work.rows, each.entries)
            yield Again(
                shard_id=work.shard.shard_id,
                rows=work.rows,
                vectors_ND=each.vectors[role].vectors_ND,
                stats=Stats(seconds=laps.take(), core_seconds=each.core_seconds),
                error=each.error,
            )


def committed_shards(store: Store) -> Iterator[Shard]:
    """The shards of a run, where they were seen last; of folder trees the images alone."""
    run = store.run()
    for shard_id in store.committed("samples"):
        shard = _shard(store, run, shard_id)
        if is_tree(shard.url):
            members = store.samples(shard_id)["member"].to_pylist()
            shard = replace(shard, files=tuple(members))
        yield shard


def committed_shard(store: Store, shard_id: str) -> Shard:
    """A shard as it was committed."""
    said = store.record("samples", shard_id)["shard"]
    return Shard(**{name: said[name] for name in SHARD_FIELDS})


def _shard(store: Store, run: Json, shard_id: str) -> Shard:
    """A shard where it was seen last."""
    shard = committed_shard(store, shard_id)
    seen = run["shards"].get(shard_id)
    return replace(shard, url=seen["url"]) if seen else shard


def _work(store: Store, run: Json, shard_id: str, rows: list[Json], role: str) -> _PartWork:
    shard = _shard(store, run, shard_id)
    items = _fetched(shard.url, rows)
    return _PartWork(shard=shard, items=items, roles=(role,), with_phash=False, rows=rows)


def _fetched(url: str, rows: Sequence[Json]) -> Iterator[Sample]:
    """The rows' images; from front to back where gaps are small."""
    with ImageFetcher(in_order=reads_through(rows)) as fetcher:
        for row in rows:
            yield Sample(
                key=row["key"],
                member=row["member"],
                offset=row["offset"],
                data=fetcher.read(url, row["member"], row["offset"], row["num_bytes"]),
                caption=None,
                url=None,
                label=None,
                meta="{}",
            )


def _check_unchanged(shard: Shard, rows: list[Json], entries: Iterable[Seen | Refusal]) -> None:
    """Hold what was read against what was committed."""
    for row, seen in zip(rows, entries, strict=True):
        assert isinstance(seen, Seen)
        if isinstance(seen.outcome, Refused):
            if seen.outcome.reason is Reason.CRASHED_DECODER:
                raise crash_of_committed(row["image_id"], seen.outcome.detail)
            raise FingerprintError(
                f"{row['image_id']} was decodable when it was committed and is refused now "
                f"({seen.outcome.reason.value}: {seen.outcome.detail}); use the versions that "
                "run.json names, restore the shard, or give another --out"
            )
        assert seen.found is not None
        if seen.found.sha256 != row["sha256"]:
            raise FingerprintError(
                f"shard {shard.url}: {row['image_id']} has other bytes since it was committed; "
                "restore the shard, or give another --out"
            )


def reads_through(rows: Sequence[Json]) -> bool:
    """Whether reading a shard from front to back beats a request for each of its wanted images."""
    if len(rows) < 2:
        return False
    ends = [row["offset"] + row["num_bytes"] for row in rows]
    span = max(ends) - min(row["offset"] for row in rows)
    unread = span - sum(row["num_bytes"] for row in rows)
    return bool(unread <= READ_THROUGH_BYTES * (len(rows) - 1))
