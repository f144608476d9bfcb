"""Images of many requests: batches that form by themselves, and who leaves the queue."""

from __future__ import annotations

import asyncio
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
from pipelines.serving.batch_encoding import Embedded
from pipelines.serving.batcher import Batcher
from pipelines.serving.errors import HttpError
from pipelines.serving.metrics import ServeMetrics
from tests.dying import KILLS, dying, mistaken
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
    """An encoder that fails at its first batch, and gives no number at its second."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder, self._num_calls = encoder, 0
        self.record, self.device = encoder.record, encoder.device

    def __call__(self, pixels_BCHW: torch.Tensor) -> torch.Tensor:
        self._num_calls += 1
        if self._num_calls == 1:
            raise RuntimeError("no memory")
        vectors_BD = self._encoder(pixels_BCHW).clone()
        if self._num_calls == 2:
            vectors_BD[0, 3] = torch.nan
        return vectors_BD


def test_a_batch_that_fails_takes_no_other_with_it(
    encoders: dict[str, Encoder], caplog: pytest.LogCaptureFixture
) -> None:
    async def work(batcher: Batcher, metrics: ServeMetrics) -> None:
        first = batcher.submit([jpeg(1), jpeg(2)], BOTH)
        assert [str(e) for e in await asyncio.gather(*first, return_exceptions=True)] == [
            "no memory"
        ] * 2
        bad, good = await asyncio.gather(*batcher.submit([jpeg(1), jpeg(2)], BOTH))
        assert isinstance(bad, Refused)
        assert bad.reason == Reason.NONFINITE
        assert isinstance(good, Embedded)
        assert batcher.num_held == 0

    failing = {"clip": encoders["clip"], "dino": Failing(encoders["dino"])}
    run(failing, work, max_batch=2, max_wait_ms=10_000)
    assert "a batch of 2 images could not be encoded" in caplog.text


def test_decoders_that_stop_end_it_for_everyone(encoders: dict[str, Encoder]) -> None:
    async def work(batcher: Batcher, metrics: ServeMetrics) -> None:
        (future,) = batcher.submit([jpeg(1)], BOTH)
        with pytest.raises(HttpError, match="the service's decoders stopped"):
            await future
        assert isinstance(batcher.error, RuntimeError)
        with pytest.raises(HttpError, match="the service is stopping"):
            batcher.submit([jpeg(1)], BOTH)

    run(encoders, work, decode=mistaken)


def test_what_is_held_at_the_end_is_told_so(encoders: dict[str, Encoder]) -> None:
    counting = Counting()

    async def work(batcher: Batcher, metrics: ServeMetrics) -> None:
        counting.go.clear()
        futures = batcher.submit([jpeg(seed) for seed in range(3)], BOTH)
        await until(lambda: counting.orders)
        threading.Timer(0.1, counting.go.set).start()
        batcher.close()
        for future in futures:
            with pytest.raises(HttpError, match="the service stopped"):
                await future

    run(encoders, work, decode=counting, max_batch=4, max_wait_ms=10_000)
