"""What stands before the routes: sizes, times, numbers, and clients that go away."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from pipelines.serving.listening import allow_many_connections
from tests.serving import Held, Live, called, listening, settings_of, until
from tests.small import jpeg

RAW = {"content-type": "image/jpeg"}


NUM_CLIENTS = 1000


def error_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def post(client: httpx.AsyncClient, seed: int = 0) -> asyncio.Task[httpx.Response]:
    work = client.post("/v1/embeddings", content=jpeg(seed), headers=RAW)
    return asyncio.create_task(work)  # type: ignore[arg-type]


async def drips(*chunks: bytes, then: asyncio.Event | None = None) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk
    if then is not None:
        await then.wait()


def test_a_body_that_is_too_large_is_cut_off_while_it_comes() -> None:
    async def run() -> None:
        async with called(settings_of(max_body_bytes=1000)) as client:
            answer = await client.post("/v1/embeddings", content=b"a" * 1001, headers=RAW)
            assert error_of(answer) == (413, "body_too_large")
            assert answer.headers["connection"] == "close"
            # Without Content-Length, and without an end.
            endless = drips(b"a" * 600, b"a" * 600, then=asyncio.Event())
            answer = await client.post("/v1/embeddings", content=endless, headers=RAW)
            assert error_of(answer) == (413, "body_too_large")
            whole = drips(b"a" * 600, b"a" * 400)
            answer = await client.post("/v1/embeddings", content=whole, headers=RAW)
            assert error_of(answer) == (422, "unknown_format")
            huge = {**RAW, "content-length": "9" * 5000}
            answer = await client.post("/v1/embeddings", content=b"a", headers=huge)
            assert error_of(answer) == (413, "body_too_large")

    asyncio.run(run())


def test_a_client_that_still_sends_reads_why_it_was_refused() -> None:
    with listening(settings_of(max_body_bytes=1000)) as live, live.client() as client:
        answer = client.post("/v1/embeddings", content=bytes(2 * 10**7), headers=RAW)
        assert error_of(answer) == (413, "body_too_large")


def test_a_slow_body_is_given_up() -> None:
    async def run() -> None:
        async with called(settings_of(body_timeout_s=0.2)) as client:
            slow = drips(b"a", then=asyncio.Event())
            answer = await client.post("/v1/embeddings", content=slow, headers=RAW)
            assert error_of(answer) == (408, "body_timeout")

    asyncio.run(run())


def test_bodies_together_are_bounded_and_given_back() -> None:
    async def run() -> None:
        settings = settings_of(max_body_bytes=1000, max_held_bytes=1500)
        async with called(settings) as client:
            assert (await client.get("/healthz")).status_code == 200
            end = asyncio.Event()
            first = asyncio.create_task(
                client.post("/v1/embeddings", content=drips(b"a" * 900, then=end), headers=RAW)
            )
            limits = limits_of(client)
            await until(lambda: limits._num_held_bytes == 900)
            answer = await client.post("/v1/embeddings", content=b"a" * 900, headers=RAW)
            assert error_of(answer) == (429, "too_many_bytes_held")
            assert answer.headers["retry-after"] == "1"
            end.set()
            assert error_of(await first) == (422, "unknown_format")
            assert limits._num_held_bytes == 0

    asyncio.run(run())


def limits_of(client: Any) -> Any:
    """The middleware of a client's app."""
    from pipelines.serving.limits import Limits

    layer = client.app.middleware_stack
    while not isinstance(layer, Limits):
        layer = layer.app
    return layer


def test_a_full_queue_says_when_to_come_again(held: Held) -> None:
    async def run() -> None:
        settings = settings_of(max_batch=2, max_queue=2)
        async with called(settings) as client:
            tasks = [post(client, seed) for seed in range(2)]
            await until(lambda: client.app.state.service.batcher.num_held == 2)
            answer = await post(client)
            assert error_of(answer) == (429, "queue_full")
            assert int(answer.headers["retry-after"]) >= 1
            health = await client.get("/healthz")
            assert health.status_code == 200
            metrics = (await client.get("/metrics")).text
            assert "blindpairs_queue_images 2.0" in metrics
            held.go.set()
            assert [(await task).status_code for task in tasks] == [200, 200]
            assert (await post(client)).status_code == 200

    asyncio.run(run())


def test_too_many_requests_stop_no_look_at_the_health(held: Held) -> None:
    async def run() -> None:
        async with called(settings_of(max_requests=1)) as client:
            task = post(client)
            await until(lambda: held.num_begun == 2)
            assert error_of(await client.get("/metrics")) == (429, "too_many_requests")
            assert (await client.get("/healthz")).status_code == 200
            assert (await client.get("/readyz")).status_code == 200
            held.go.set()
            assert (await task).status_code == 200

    asyncio.run(run())


def test_an_answer_that_takes_too_long_is_given_up_and_leaves_the_queue(held: Held) -> None:
    async def run() -> None:
        async with called(settings_of(request_timeout_s=0.3)) as client:
            tasks = [post(client, seed) for seed in range(200)]
            answers = [await task for task in tasks]
            assert {error_of(answer) for answer in answers} == {(504, "timeout")}
            service = client.app.state.service
            # Some are with the decoder, or wait at its door; the others are gone.
            assert 0 < service.batcher.num_held < 100
            held.go.set()
            await until(lambda: service.batcher.num_held == 0)
            metrics = (await client.get("/metrics")).text
            assert 'blindpairs_served_images_total{outcome="cancelled"} 200.0' in metrics
            assert 'blindpairs_requests_total{route="/v1/embeddings",status="504"} 200.0' in metrics

    asyncio.run(run())


def test_a_client_that_hangs_up_leaves_the_queue(held: Held) -> None:
    with listening(settings_of()) as live:
        service = live.app.state.service
        with live.client() as client, pytest.raises(httpx.ReadTimeout):
            client.post("/v1/embeddings", content=jpeg(1), headers=RAW, timeout=0.3)
        held.go.set()
        wait = threading.Event()
        for _ in range(3000):
            if service.batcher.num_held == 0 and service.num_in_flight == 0:
                break
            wait.wait(0.01)
        with live.client() as client:
            metrics = client.get("/metrics").text
    assert 'served_images_total{outcome="cancelled"} 1.0' in metrics
    assert 'requests_total{route="/v1/embeddings",status="gone"} 1.0' in metrics


def test_many_clients_with_slow_bodies_stop_nobody(live: Live) -> None:
    # Both ends of each connection are this process's.
    allow_many_connections()
    host, port = live.url.removeprefix("http://").split(":")
    head = (
        f"POST /v1/embeddings HTTP/1.1\r\nHost: {host}\r\nContent-Type: image/jpeg\r\n"
        "Content-Length: 100000\r\n\r\nabc"
    ).encode()
    crumbs = head.replace(b"Content-Length: 100000", b"Transfer-Encoding: chunked")
    crumbs = crumbs.removesuffix(b"abc") + b"1\r\na\r\n" * 1000

    async def run() -> None:
        writers = []
        try:
            for number in range(NUM_CLIENTS):
                _, writer = await asyncio.open_connection(host, int(port))
                # Some never end their head, some never end their body, some send it in crumbs.
                writer.write((head, head[:30], crumbs)[number % 3])
                writers.append(writer)
            body = json.dumps({"input": base64.b64encode(jpeg(1)).decode()}).encode()
            async with httpx.AsyncClient(base_url=live.url, timeout=60) as client:
                assert (await client.get("/healthz")).status_code == 200
                headers = {"content-type": "application/json"}
                answer = await client.post("/v1/embeddings", content=body, headers=headers)
                assert answer.status_code == 200
        finally:
            for writer in writers:
                writer.close()

    asyncio.run(run())


def test_no_answer_shows_our_insides(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    index = live.app.state.service.index

    def fail(*args: object) -> None:
        raise RuntimeError("a secret of ours")

    monkeypatch.setattr(index, "image", fail)
    with live.client() as client:
        answer = client.get("/v1/images/a/b/c")
    with live.client() as client:
        metrics = client.get("/metrics").text
    assert error_of(answer) == (500, "internal")
    assert "secret" not in answer.text
    assert 'requests_total{route="/v1/images/{image_id:path}",status="500"} 1.0' in metrics
