"""Images of many requests: batches that form by themselves, and who leaves the queue."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
import torch

from miner.config import ImageLimits
from miner.decode import Decode, Order, Outcome, Refused, decode_order
from miner.encoders import Encoder, load_encoder
from miner.ring import Ring
from miner.schema import Reason
from pipelines.serving import batcher as batcher_module
from pipelines.serving.batch_encoding import Embedded
from pipelines.serving.batcher import MOST_FAILED, Batcher
from pipelines.serving.errors import HttpError
from pipelines.serving.metrics import ServeMetrics
from tests.dying import HANGS, KILLS, dying, mistaken
from tests.serving import settings_of, until
from tests.small import jpeg

BOTH = ("clip", "dino")


@pytest.fixture(scope="module")
def encoders() -> dict[str, Encoder]:
    return {role: load_encoder(f"demo-{role}") for role in BOTH}


def figure(metrics: ServeMetrics, name: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(f"blindpairs_{name}", labels) or 0.0


def run(
    encoders: dict[str, Any],
    work: Callable[[Batcher, ServeMetrics], Awaitable[None]],
    *,
    decode: Decode = decode_order,
    **settings: Any,
) -> None:
    """Do something with a batcher, on a loop of its own."""

    async def with_batcher() -> None:
        metrics = ServeMetrics()
        batcher = Batcher(encoders, settings_of(**settings), metrics, decode=decode)
        try:
            await work(batcher, metrics)
        finally:
            batcher.close()

    asyncio.run(with_batcher())


class Counting:
    """A decoder that counts images, and waits for a word where it is asked to."""

    def __init__(self) -> None:
        self.orders: list[int] = []
        self.go = threading.Event()
        self.go.set()

    def __call__(self, order: Order, ring: Ring, limits: ImageLimits) -> list[Outcome]:
        self.orders.append(len(order.jobs))
        assert self.go.wait(60)
        return decode_order(order, ring, limits)


def test_full_batches_wait_for_nobody_and_one_decode_serves_both(
    encoders: dict[str, Encoder],
) -> None:
    counting = Counting()

    async def work(batcher: Batcher, metrics: ServeMetrics) -> None:
        futures = batcher.submit([jpeg(seed) for seed in range(12)], BOTH)
        answers = await asyncio.gather(*futures)
        assert figure(metrics, "batch_images_count") == 3
        assert figure(metrics, "batch_images_sum") == 12
        assert sum(counting.orders) == 12
        for answer in answers:
            assert isinstance(answer, Embedded)
            assert answer.vectors.keys() == set(BOTH)
            for vector_D in answer.vectors.values():
                assert vector_D.dtype == np.float16
                assert np.linalg.norm(vector_D.astype(np.float64)) == pytest.approx(1, abs=1e-3)

    # Nobody would wait so long for a batch that is not full.
    run(encoders, work, decode=counting, max_batch=4, max_wait_ms=10_000)


def test_answers_come_in_the_order_of_the_question(encoders: dict[str, Encoder]) -> None:
    async def work(batcher: Batcher, metrics: ServeMetrics) -> None:
        images = [jpeg(seed) for seed in range(30)]
        together = await asyncio.gather(*batcher.submit(images, ("clip",)))
        for image, answer in zip(images, together, strict=True):
            (alone,) = await asyncio.gather(*batcher.submit([image], ("clip",)))
            assert isinstance(alone, Embedded)
            assert isinstance(answer, Embedded)
            assert answer.vectors.keys() == {"clip"}
            a, b = (each.vectors["clip"].astype(np.float32) for each in (alone, answer))
            np.testing.assert_allclose(a, b, rtol=0, atol=2**-11)

    run(encoders, work, max_batch=8, num_decoders=2, max_wait_ms=1)


def test_an_image_that_kills_its_decoder_fails_alone(encoders: dict[str, Encoder]) -> None:
    async def work(batcher: Batcher, metrics: ServeMetrics) -> None:
        images = [jpeg(1), KILLS, jpeg(2), b"<html>", b""]
        first, killer, second, html, empty = await asyncio.gather(*batcher.submit(images, BOTH))
        assert isinstance(first, Embedded)
        assert isinstance(second, Embedded)
        reasons = [each.reason for each in (killer, html, empty) if isinstance(each, Refused)]
        assert reasons == [Reason.CRASHED_DECODER, Reason.FORMAT_NOT_ALLOWED, Reason.EMPTY]
        assert batcher.num_held == 0
        assert figure(metrics, "served_images_total", outcome="crashed_decoder") == 1

    run(encoders, work, decode=dying, decoders="process")


def test_a_full_queue_takes_all_images_or_none(encoders: dict[str, Encoder]) -> None:
    counting = Counting()

    async def work(batcher: Batcher, metrics: ServeMetrics) -> None:
        counting.go.clear()
        futures = batcher.submit([jpeg(1)] * 5, BOTH)
        with pytest.raises(HttpError, match="5 images are in the queue, its limit is 6") as full:
            batcher.submit([jpeg(1)] * 2, BOTH)
        assert (full.value.status, full.value.headers) == (429, {"retry-after": "1"})
        futures += batcher.submit([jpeg(1)], BOTH)
        assert figure(metrics, "queue_images") == 6
        counting.go.set()
        await asyncio.gather(*futures)
        assert batcher.num_held == 0

    run(encoders, work, decode=counting, max_batch=4, max_queue=6)


def test_images_that_nobody_wants_leave_the_queue(encoders: dict[str, Encoder]) -> None:
    counting = Counting()

    async def work(batcher: Batcher, metrics: ServeMetrics) -> None:
        counting.go.clear()
        futures = batcher.submit([jpeg(1)] * 300, BOTH)
        await until(lambda: counting.orders)
        for future in futures[:-1]:
            future.cancel()
        await until(lambda: figure(metrics, "served_images_total", outcome="cancelled") == 299)
        assert batcher.num_held < 100
        counting.go.set()
        assert isinstance(await futures[-1], Embedded)
        await until(lambda: batcher.num_held == 0)
        # The encoders never saw the others.
        assert figure(metrics, "batch_images_sum") == 1

    run(encoders, work, decode=counting, max_batch=16)


class Failing:
    """An encoder that fails where it is told to, by how often it was called."""

    def __init__(self, encoder: Encoder, fails: Callable[[int, int], BaseException | None]) -> None:
        self._encoder, self._fails, self.num_calls = encoder, fails, 0
        self.record, self.device = encoder.record, encoder.device

    def __call__(self, pixels_BCHW: torch.Tensor) -> torch.Tensor:
        self.num_calls += 1
        error = self._fails(self.num_calls, len(pixels_BCHW))
        if error is not None:
            raise error
        return self._encoder(pixels_BCHW)


class NotFinite(Failing):
    """An encoder that gives no number for the first image of its batches."""

    def __call__(self, pixels_BCHW: torch.Tensor) -> torch.Tensor:
        vectors_BD = super().__call__(pixels_BCHW).clone()
        vectors_BD[0, 3] = torch.nan
        return vectors_BD


def test_of_a_batch_that_fails_each_image_is_tried_alone(
    encoders: dict[str, Encoder], caplog: pytest.LogCaptureFixture
) -> None:
    # The whole batch fails, and the second of its images alone.
    failing = Failing(
        encoders["dino"], lambda n, _: RuntimeError("no memory") if n in (1, 3) else None
    )

    async def work(batcher: Batcher, metrics: ServeMetrics) -> None:
        for _ in range(4):
            failing.num_calls = 0
            futures = batcher.submit([jpeg(seed) for seed in range(3)], BOTH)
            first, bad, last = await asyncio.gather(*futures, return_exceptions=True)
            assert isinstance(first, Embedded)
            assert isinstance(last, Embedded)
            assert isinstance(bad, HttpError)
            assert (bad.status, bad.code) == (500, "encoding_failed")
        # Batches of which something could be encoded do not count as failed.
        assert batcher.error is None
        assert batcher.num_held == 0

    run({**encoders, "dino": failing}, work, max_batch=3, max_wait_ms=10_000)
    assert "a batch of 3 images could not be encoded" in caplog.text
    assert "1 of 3 could not be encoded alone" in caplog.text


def test_a_vector_that_is_no_number_is_refused(encoders: dict[str, Encoder]) -> None:
    async def work(batcher: Batcher, metrics: ServeMetrics) -> None:
        bad, good = await asyncio.gather(*batcher.submit([jpeg(1), jpeg(2)], BOTH))
        assert isinstance(bad, Refused)
        assert bad.reason == Reason.NONFINITE
        assert isinstance(good, Embedded)

    failing = NotFinite(encoders["dino"], lambda n, size: None)
    run({**encoders, "dino": failing}, work, max_batch=2, max_wait_ms=10_000)


def test_encoders_that_fail_again_and_again_end_it_for_everyone(
    encoders: dict[str, Encoder],
) -> None:
    async def work(batcher: Batcher, metrics: ServeMetrics) -> None:
        for number in range(MOST_FAILED):
            assert batcher.error is None, number
            with pytest.raises(HttpError, match="the encoder failed at this image"):
                await batcher.submit([jpeg(1)], BOTH)[0]
        await until(lambda: batcher.error is not None)
        assert "3 batches in a row could not be encoded" in str(batcher.error)
        with pytest.raises(HttpError, match="the service is stopping") as stopped:
            batcher.submit([jpeg(1)], BOTH)
        assert stopped.value.status == 503

    failing = Failing(encoders["dino"], lambda n, size: RuntimeError("the device is gone"))
    run({**encoders, "dino": failing}, work, max_batch=4, max_wait_ms=1)


def test_a_thread_that_dies_tells_all_who_wait(encoders: dict[str, Encoder]) -> None:
    async def work(batcher: Batcher, metrics: ServeMetrics) -> None:
        futures = batcher.submit([jpeg(seed) for seed in range(5)], BOTH)
        for future in futures:
            with pytest.raises(HttpError, match="the service's encoders stopped"):
                await future
        assert isinstance(batcher.error, SystemExit)
        assert batcher.num_held == 0

    failing = Failing(encoders["dino"], lambda n, size: SystemExit(1))
    run({**encoders, "dino": failing}, work, max_batch=4, max_wait_ms=1)


def test_decoders_that_stop_end_it_for_everyone(encoders: dict[str, Encoder]) -> None:
    async def work(batcher: Batcher, metrics: ServeMetrics) -> None:
        (future,) = batcher.submit([jpeg(1)], BOTH)
        with pytest.raises(HttpError, match="the service's decoders stopped"):
            await future
        assert isinstance(batcher.error, RuntimeError)
        with pytest.raises(HttpError, match="the service is stopping"):
            batcher.submit([jpeg(1)], BOTH)

    run(encoders, work, decode=mistaken)


def test_what_is_held_at_the_end_is_told_so_at_once(
    encoders: dict[str, Encoder], caplog: pytest.LogCaptureFixture
) -> None:
    counting = Counting()

    async def work(batcher: Batcher, metrics: ServeMetrics) -> None:
        counting.go.clear()
        futures = batcher.submit([jpeg(seed) for seed in range(3)], BOTH)
        nobody_asks = batcher.submit([jpeg(4)], BOTH)
        await until(lambda: counting.orders)
        closing = asyncio.create_task(asyncio.to_thread(batcher.close))
        for future in futures:
            with pytest.raises(HttpError, match="the service stopped"):
                await future
        # The event loop goes on while the decoder is still at its image.
        assert not closing.done()
        counting.go.set()
        await closing
        assert nobody_asks[0].done()

    run(encoders, work, decode=counting, max_batch=4, max_wait_ms=10_000)
    gc.collect()
    assert "never retrieved" not in caplog.text


def test_closing_ends_a_process_that_would_decode_for_minutes(encoders: dict[str, Encoder]) -> None:
    async def work(batcher: Batcher, metrics: ServeMetrics) -> None:
        (future,) = batcher.submit([HANGS], BOTH)
        await until(lambda: not batcher._waiting)
        await asyncio.to_thread(batcher.close)
        assert not any(thread.is_alive() for thread in batcher._threads)
        with pytest.raises(HttpError, match="the service stopped"):
            await future

    run(encoders, work, decode=dying, decoders="process")


def test_a_thread_that_does_not_end_is_left_alone(
    encoders: dict[str, Encoder],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batcher_module, "CLOSE_S", 0.1)
    counting = Counting()

    async def work(batcher: Batcher, metrics: ServeMetrics) -> None:
        counting.go.clear()
        batcher.submit([jpeg(1)], BOTH)
        await until(lambda: counting.orders)
        batcher.close()
        assert "work is still in hand after 0.1 s" in caplog.text
        counting.go.set()

    run(encoders, work, decode=counting)


def test_small_images_do_not_wait_for_a_slow_one(encoders: dict[str, Encoder]) -> None:
    slow = threading.Event()

    def decode(order: Order, ring: Ring, limits: ImageLimits) -> list[Outcome]:
        if any(job.data == b"slow" for job in order.jobs):
            assert slow.wait(60)
        return decode_order(order, ring, limits)

    async def work(batcher: Batcher, metrics: ServeMetrics) -> None:
        images = [jpeg(seed) for seed in range(10)]
        futures = batcher.submit([*images, b"slow", *images], BOTH)
        answers = await asyncio.gather(*futures[:10], *futures[11:])
        assert all(isinstance(answer, Embedded) for answer in answers)
        assert not futures[10].done()
        slow.set()
        assert isinstance(await futures[10], Refused)

    run(encoders, work, decode=decode, num_decoders=2, max_batch=8, max_wait_ms=1)
