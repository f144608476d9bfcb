"""Samples of shards to vectors, one shard after another, the next one read ahead.

Where the samples come from is the caller's: a shard from its beginning to its end, or some of its
images fetched by offset.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from miner.batch import Batch, Busy, Seen
from miner.batches import Lane, Vectors
from miner.config import FeedSettings, ImageLimits
from miner.decode import Decode, decode_order
from miner.encoders import Encoder
from miner.errors import ShardError
from miner.feed import Feed, Passage
from miner.law import Refusal
from miner.samples import Sample
from miner.shards import Shard, image_id_of
from miner.stats import Laps
from miner.trace import Trace


@dataclass(frozen=True, kw_only=True)
class Work:
    """Samples of one shard that some encoders are to look at.

    Attributes:
        shard: whose samples.
        items: the samples, and refusals where they are wanted in order among them; they are
            iterated over in another thread, ahead of their turn.
        roles: of the encoders: `clip`, `dino` or both.
        with_phash: whether perceptual hashes are wanted.
    """

    shard: Shard
    items: Iterable[Sample | Refusal]
    roles: tuple[str, ...]
    with_phash: bool = True


WorkT = TypeVar("WorkT", bound=Work)


@dataclass(kw_only=True)
class Encoded(Generic[WorkT]):
    """What became of some work.

    Attributes:
        work: which.
        entries: its samples, with what became of each, and refusals, in their order.
        vectors: by role; of all decodable samples, also of those that were taken back later.
        core_seconds: processor time of reading and decoding meanwhile.
        error: why the shard could not be read to its end.
    """

    work: WorkT
    entries: list[Seen | Refusal]
    vectors: dict[str, Vectors]
    core_seconds: dict[str, float] = field(default_factory=dict)
    error: ShardError | None = None


def encode_all(
    works: Iterable[WorkT],
    encoders: Mapping[str, Encoder],
    *,
    limits: ImageLimits,
    settings: FeedSettings,
    laps: Laps | None = None,
    read_ahead: bool = True,
    on_image: Callable[[], None] = lambda: None,
    decode: Decode = decode_order,
) -> Generator[Encoded[WorkT]]:
    """Encode works in their order.

    Args:
        works: taken one at a time, and the next one while the first is encoded.
        encoders: by role, all on one device.
        limits: what an image may be.
        settings: batch size and decode workers.
        laps: where every moment is given to a stage; the caller's own go to `write`.
        read_ahead: where false, a work is taken only when the one before it has been yielded.
        on_image: called for each decoded image, for progress.
        decode: what a decode worker does.

    Yields:
        One for each work; of a shard that could not be read, with its error.
    """
    laps = laps or Laps()
    device = next(iter(encoders.values())).device
    crops = list(dict.fromkeys(encoder.record.crop for encoder in encoders.values()))
    with (
        Feed(crops, limits=limits, settings=settings, device=str(device), decode=decode) as feed,
        Trace(settings.profile, device) as trace,
    ):
        lane = Lane(encoders, feed, laps, trace)
        ahead: deque[tuple[WorkT, Passage]] = deque()
        upcoming, before = iter(works), feed.busy
        while True:
            while len(ahead) <= read_ahead and (work := next(upcoming, None)) is not None:
                ahead.append((work, _open(feed, work, encoders)))
            if not ahead:
                return
            encoded = _encode(*ahead.popleft(), lane, on_image)
            spent, before = feed.busy - before, feed.busy
            encoded.core_seconds = {"read": spent.read_core_s, "decode": spent.decode_core_s}
            yield encoded
            laps.lap("write")


def _open(feed: Feed, work: Work, encoders: Mapping[str, Encoder]) -> Passage:
    crops = list(dict.fromkeys(encoders[role].record.crop for role in work.roles))
    return feed.open(work.items, crops, with_phash=work.with_phash)


def _encode(
    work: WorkT, passage: Passage, lane: Lane, on_image: Callable[[], None]
) -> Encoded[WorkT]:
    vectors = {role: Vectors(encoder=lane.encoders[role], image_ids=[]) for role in work.roles}
    encoded = Encoded(work=work, entries=passage.entries, vectors=vectors)
    try:
        for batch in _waited_for(passage, lane):
            image_ids = [image_id_of(work.shard, seen.sample.key) for seen in batch.decoded]
            for each in vectors.values():
                each.image_ids += image_ids
            lane.encode(batch, list(work.roles), lambda role, new: vectors[role].add(new))
            for _ in image_ids:
                on_image()
    except ShardError as error:
        encoded.error = error
    lane.finish()
    return encoded


def _waited_for(passage: Passage, lane: Lane) -> Iterator[Batch]:
    """The batches, with the wait for each given to what held it up: reading or decoding."""
    batches, feed = iter(passage), lane.feed
    lane.laps.lap("write")
    while True:
        before = feed.busy
        try:
            with lane.trace.stage("feed"):
                batch = next(batches, None)
        finally:
            lane.laps.split(_held_up_by(feed.busy - before, feed))
        if batch is None:
            return
        yield batch


def _held_up_by(meanwhile: Busy, feed: Feed) -> dict[str, float]:
    """Weights of reading and decoding: how busy the one reader was, and each of the decoders."""
    for busy in (meanwhile, feed.busy):
        weights = {"read": busy.read_s, "decode": busy.decode_s / feed.num_decoders}
        if sum(weights.values()) > 0:
            return weights
    # Nothing was done yet: workers are still starting.
    return {"decode": 1.0}
