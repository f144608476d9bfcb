"""Samples of shards to vectors, one shard after another, the next one read ahead.

Where the samples come from is the caller's: a shard from its beginning to its end, or some of its
images fetched by offset.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from enum import Enum
from typing import Generic, TypeVar

from miner.batch import Batch, Busy, Seen
from miner.batches import Lane, Vectors
from miner.config import FeedSettings, ImageLimits
from miner.decode import Decode, decode_order
from miner.encoders import Encoder
from miner.errors import ShardError
from miner.feed import Feed
from miner.law import Refusal
from miner.passage import Passage
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
        on_image: called for each decoded image, for progress.
        decode: what a decode worker does.

    Yields:
        One for each work; of a shard that could not be read, with its error.
    """
    encoding = encode_arriving(
        works,
        encoders,
        limits=limits,
        settings=settings,
        laps=laps,
        on_image=on_image,
        decode=decode,
    )
    with closing(encoding):
        for each in encoding:
            assert isinstance(each, Encoded), "works are all there"
            yield each


class Pause(Enum):
    """A moment in which whoever encodes may be told of further works."""

    BATCH = "between two batches of a work, with no other work read ahead"
    IDLE = "nothing is in hand"


def encode_arriving(
    works: Iterable[WorkT | None],
    encoders: Mapping[str, Encoder],
    *,
    limits: ImageLimits,
    settings: FeedSettings,
    laps: Laps | None = None,
    on_image: Callable[[], None] = lambda: None,
    decode: Decode = decode_order,
) -> Generator[Encoded[WorkT] | Pause]:
    """Encode works in their order, while they arrive.

    Args:
        works: taken one at a time, and the next one while the first is encoded. A None says that
            there is none yet: they are asked for another one after a pause.
        encoders: by role, all on one device.
        limits: what an image may be.
        settings: batch size and decode workers.
        laps: where every moment is given to a stage; the caller's own go to `write`.
        on_image: called for each decoded image, for progress.
        decode: what a decode worker does.

    Yields:
        One for each work; and a pause after each None.
    """
    laps = laps or Laps()
    device = next(iter(encoders.values())).device
    crops = list(dict.fromkeys(encoder.record.crop for encoder in encoders.values()))
    with (
        Feed(crops, limits=limits, settings=settings, device=str(device), decode=decode) as feed,
        Trace(settings.profile, device) as trace,
    ):
        lane = Lane(encoders, feed, laps, trace)
        upcoming = _Upcoming(iter(works), lambda work: _open(feed, work, encoders))
        before = feed.busy
        while True:
            upcoming.look(2)
            if not upcoming.ahead:
                if upcoming.is_over:
                    return
                yield Pause.IDLE
                upcoming.look(1)
                # Nobody of this run waited for that.
                laps.skip()
                continue
            work, passage = upcoming.ahead.popleft()
            encoded = _nothing_encoded(work, passage, lane)
            for _ in _batches_encoded(encoded, passage, lane, on_image):
                if not upcoming.look(1):
                    yield Pause.BATCH
            spent, before = feed.busy - before, feed.busy
            encoded.core_seconds = {"read": spent.read_core_s, "decode": spent.decode_core_s}
            yield encoded
            laps.lap("write")


class _Upcoming(Generic[WorkT]):
    """Works that are read ahead.

    Attributes:
        ahead: those that are opened, and not taken yet.
        is_over: whether no other will come.
    """

    def __init__(self, works: Iterator[WorkT | None], opened: Callable[[WorkT], Passage]) -> None:
        self.ahead: deque[tuple[WorkT, Passage]] = deque()
        self.is_over = False
        self._works, self._opened = works, opened

    def look(self, most: int) -> bool:
        """Open works until so many are ahead; False where one was asked for and none is yet."""
        while len(self.ahead) < most and not self.is_over:
            try:
                work = next(self._works)
            except StopIteration:
                self.is_over = True
            else:
                if work is None:
                    return False
                self.ahead.append((work, self._opened(work)))
        return True


def _open(feed: Feed, work: Work, encoders: Mapping[str, Encoder]) -> Passage:
    crops = list(dict.fromkeys(encoders[role].record.crop for role in work.roles))
    return feed.open(work.items, crops, with_phash=work.with_phash)


def _nothing_encoded(work: WorkT, passage: Passage, lane: Lane) -> Encoded[WorkT]:
    vectors = {role: Vectors(encoder=lane.encoders[role], image_ids=[]) for role in work.roles}
    return Encoded(work=work, entries=passage.entries, vectors=vectors)


def _batches_encoded(
    encoded: Encoded[WorkT], passage: Passage, lane: Lane, on_image: Callable[[], None]
) -> Iterator[None]:
    """Encode a work to its end; a moment's pause after each batch."""
    work, vectors = encoded.work, encoded.vectors
    try:
        for batch in _waited_for(passage, lane):
            image_ids = [image_id_of(work.shard, seen.sample.key) for seen in batch.decoded]
            for each in vectors.values():
                each.image_ids += image_ids
            lane.encode(batch, list(work.roles), lambda role, new: vectors[role].add(new))
            for _ in image_ids:
                on_image()
            yield
    except ShardError as error:
        encoded.error = error
    lane.finish()


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
