import threading
import time
from collections.abc import Iterable, Iterator
from typing import Literal

import pytest
import torch

from miner import crops, images
from miner.batch import Batch
from miner.config import FeedSettings, ImageLimits
from miner.crops import CropSpec
from miner.decode import Decode, Refused, decode_order
from miner.errors import ShardError
from miner.feed import NUM_SLOTS, Feed
from miner.law import Refusal
from miner.passage import ORDER_BYTES, Passage
from miner.samples import Sample
from miner.schema import Reason
from tests.dying import mistaken
from tests.tars import jpeg

SMALL = CropSpec(mode="shortest", resize_to=20, size=16)
LARGE = CropSpec(mode="squash", resize_to=30, size=30)
BATCH = 5


def sample(number: int, data: bytes | None = None) -> Sample:
    return Sample(
        key=f"{number:03d}",
        member=f"{number:03d}.jpg",
        offset=512 * number,
        data=jpeg(number) if data is None else data,
        caption=None,
        url=None,
        label=None,
        meta="{}",
    )


def make_feed(
    kind: Literal["process", "thread"] = "thread",
    num_decoders: int = 2,
    decode: Decode = decode_order,
) -> Feed:
    settings = FeedSettings(batch_size=BATCH, decoders=kind, num_decoders=num_decoders)
    return Feed([SMALL, LARGE], limits=ImageLimits(), settings=settings, decode=decode)


def taken(feed: Feed, passage: Passage) -> Iterator[tuple[list[str], torch.Tensor, torch.Tensor]]:
    """Keys and pixels of each batch, copied before it is given back."""
    for batch in passage:
        keys = [seen.sample.key for seen in batch.decoded]
        yield keys, batch.pixels(SMALL).clone(), batch.pixels(LARGE).clone()
        feed.release(batch)


ITEMS: list[Sample | Refusal] = [
    *(sample(number) for number in range(7)),
    Refusal(key="x", member="x", reason=Reason.NO_IMAGE, detail="none"),
    sample(7, b"<html>no</html>"),
    *(sample(number) for number in range(8, 13)),
]


@pytest.mark.parametrize(("kind", "num_decoders"), [("thread", 1), ("thread", 4), ("process", 2)])
def test_batches_are_runs_of_consecutive_samples(
    kind: Literal["process", "thread"], num_decoders: int
) -> None:
    with make_feed(kind, num_decoders) as feed:
        passage = feed.open(ITEMS, [SMALL, LARGE])
        batches = list(taken(feed, passage))
        assert [keys for keys, _, _ in batches] == [
            ["000", "001", "002", "003", "004"],
            ["005", "006", "008", "009"],
            ["010", "011", "012"],
        ]
        for keys, small_BCHW, large_BCHW in batches:
            for key, small_CHW, large_CHW in zip(keys, small_BCHW, large_BCHW, strict=True):
                pixels_HWC = images.decode(jpeg(int(key)), ImageLimits()).pixels_HWC
                assert torch.equal(small_CHW, crops.cut(pixels_HWC, SMALL))
                assert torch.equal(large_CHW, crops.cut(pixels_HWC, LARGE))
    keys = [e.key if isinstance(e, Refusal) else e.sample.key for e in passage.entries]
    assert keys == [*(f"{n:03d}" for n in range(7)), "x", *(f"{n:03d}" for n in range(7, 13))]
    (html,) = [e for e in passage.entries if not isinstance(e, Refusal) and e.sample.key == "007"]
    assert isinstance(html.outcome, Refused)
    assert (html.num_bytes, html.sample.data) == (15, b"")


def test_pixels_of_a_batch_are_the_rings_own_memory() -> None:
    items = [sample(0, b""), sample(1), sample(2, b"<html>no</html>"), sample(3), sample(4)]
    with make_feed() as feed:
        (batch,) = feed.open(items, [SMALL])
        for _ in range(2):
            pixels_BCHW = batch.pixels(SMALL)
            # A copy of it would not be pinned where the ring is.
            assert pixels_BCHW.data_ptr() == feed.ring.pixels(batch.slot, 0).data_ptr()
            for pixels_CHW, number in zip(pixels_BCHW, (1, 3, 4), strict=True):
                pixels_HWC = images.decode(jpeg(number), ImageLimits()).pixels_HWC
                assert torch.equal(pixels_CHW, crops.cut(pixels_HWC, SMALL))
        feed.release(batch)


def test_next_shard_is_decoded_before_the_first_is_taken() -> None:
    with make_feed() as feed:
        first = feed.open([sample(0)], [SMALL])
        second = feed.open([sample(1)], [SMALL])
        deadline_s = time.monotonic() + 30
        while not (second.is_read and second.batches[0].num_open == 0):
            assert time.monotonic() < deadline_s
            time.sleep(0.01)
        assert [keys for keys, _, _ in taken(feed, first)] == [["000"]]
        assert [keys for keys, _, _ in taken(feed, second)] == [["001"]]


def test_reading_waits_for_whoever_encodes() -> None:
    num_read = 0

    def endless() -> Iterator[Sample]:
        nonlocal num_read
        while True:
            num_read += 1
            yield sample(1)

    with make_feed() as feed:
        batches = iter(feed.open(endless(), [SMALL]))
        for round_ in range(3):
            time.sleep(0.2)
            # The sample that needs the next slot is in hand already.
            assert num_read <= (NUM_SLOTS + round_) * BATCH + 1
            feed.release(next(batches))


def test_orders_are_bounded() -> None:
    orders: list[tuple[int, int]] = []

    def counting(order, ring, limits):  # type: ignore[no-untyped-def]
        orders.append((len(order.jobs), sum(len(job.data) for job in order.jobs)))
        return decode_order(order, ring, limits)

    padded = [sample(n, jpeg(n) + bytes(ORDER_BYTES // 3)) for n in range(9)]
    with make_feed(decode=counting) as feed:
        assert len(list(taken(feed, feed.open(padded, [SMALL])))) == 2
    assert all(num_bytes < ORDER_BYTES + len(padded[0].data) for _, num_bytes in orders)
    assert sum(number for number, _ in orders) == 9


def test_shard_that_breaks_gives_its_batches_first() -> None:
    def breaking() -> Iterator[Sample]:
        yield from (sample(number) for number in range(7))
        raise ShardError("the disk is gone; bring it back")

    with make_feed() as feed:
        broken = feed.open(breaking(), [SMALL])
        whole = feed.open([sample(9)], [SMALL])
        found = taken(feed, broken)
        assert [len(next(found)[0]) for _ in range(2)] == [5, 2]
        with pytest.raises(ShardError, match="the disk is gone"):
            next(found)
        assert [keys for keys, _, _ in taken(feed, whole)] == [["009"]]


@pytest.mark.parametrize("kind", ["thread", "process"])
def test_mistake_in_a_worker_is_raised_here(kind: Literal["process", "thread"]) -> None:
    with (
        make_feed(kind, decode=mistaken) as feed,
        pytest.raises(RuntimeError, match="a mistake of ours"),
    ):
        next(iter(feed.open([sample(0)], [SMALL])))


def test_batch_without_a_decoded_image_is_skipped() -> None:
    bad = [sample(number, b"") for number in range(BATCH)]
    with make_feed() as feed:
        passage = feed.open([*bad, sample(7)], [SMALL])
        assert [keys for keys, _, _ in taken(feed, passage)] == [["007"]]
        assert len(passage.entries) == BATCH + 1


def test_empty_shard_has_no_batch() -> None:
    with make_feed() as feed:
        assert list(feed.open([], [SMALL])) == []


def test_leaving_stops_every_thread() -> None:
    before = threading.active_count()

    def slow() -> Iterable[Sample]:
        while True:
            yield sample(3)

    batches: list[Batch] = []
    with make_feed("process") as feed:
        batches.append(next(iter(feed.open(slow(), [SMALL]))))
        feed.open(slow(), [SMALL])
    assert threading.active_count() == before


def test_busy_seconds_are_those_of_the_threads_behind() -> None:
    def slow() -> Iterator[Sample]:
        for number in range(3):
            time.sleep(0.03)
            yield sample(number)

    with make_feed() as feed:
        list(taken(feed, feed.open(slow(), [SMALL])))
        busy = feed.busy
    assert busy.read_s >= 0.09
    assert busy.read_core_s < 0.09
    assert busy.decode_core_s > 0
    assert 0 < busy.decode_s < 30
    assert (busy - busy).read_s == 0
