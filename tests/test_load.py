"""The generator of load against a real server: what it counts, from when, and what it checks."""

from __future__ import annotations

import base64
import json
import threading
import time
from http.server import BaseHTTPRequestHandler

import numpy as np
import pytest

from bench.load import LOST, Load, drive
from tests.http_scripts import Step, breaks_off, hangs_up, playing, says

VECTORS_ND = np.array([[1, 0], [0.6, 0.8]], np.float32)
IMAGES = [b"first", b"second!"]
TRUTH = {"clip-1": VECTORS_ND}


def vectors(handler: BaseHTTPRequestHandler) -> None:
    """The vector of the very image that was sent."""
    length = int(handler.headers["Content-Length"])
    answer(VECTORS_ND[[len(image) for image in IMAGES].index(length)])(handler)


def answer(vector_D: np.ndarray, model: str = "clip-1") -> Step:
    text = base64.b64encode(vector_D.astype("<f4").tobytes()).decode()
    item = {"object": "embedding", "index": 0, "model": model, "embedding": text}
    return says(200, {"data": [item]})


def slow(seconds: float) -> Step:
    def step(handler: BaseHTTPRequestHandler) -> None:
        time.sleep(seconds)
        vectors(handler)

    return step


def load(url: str, **changes: object) -> Load:
    fields = {"images": IMAGES, "truth": TRUTH, "connections": 2, "warm_s": 0.1, "seconds": 0.5}
    port = int(url.rpartition(":")[2])
    return Load(port=port, **fields | changes)  # type: ignore[arg-type]


def test_a_closed_loop_asks_again_when_it_was_answered() -> None:
    with playing(slow(0.02)) as script:
        driven = drive(load(script.url))
    assert driven.statuses.keys() == {200}
    assert len(driven.latencies_s) == driven.statuses[200] == round(driven.images_per_s * 0.5)
    assert 2 <= len(driven.latencies_s) <= 2 * 0.5 / 0.02 + 2
    assert driven.latencies_s[0] >= 0.02
    assert driven.latencies_s == sorted(driven.latencies_s)
    assert driven.lags_s[-1] == 0.0
    assert driven.deviation < 1e-6
    assert 0 < driven.generator_cores < 1.5
    assert len(script.asked) > len(driven.latencies_s)


def test_an_open_loop_counts_from_the_moment_that_was_meant() -> None:
    """A server that stalls once: those that were to be sent meanwhile have waited, too."""
    stalled = threading.Event()

    def stalls_once(handler: BaseHTTPRequestHandler) -> None:
        if len(script.asked) > 20 and not stalled.is_set():
            stalled.set()
            time.sleep(0.4)
        vectors(handler)

    with playing(stalls_once) as script:
        asked = load(script.url, rate=100.0, connections=1, warm_s=0.0, seconds=1.0, seed=3)
        driven = drive(asked)
    assert stalled.is_set()
    # As many as arrive in 0.4 s, less what chance takes.
    waited = [latency_s for latency_s in driven.latencies_s if latency_s > 0.05]
    assert len(waited) > 15
    assert driven.lags_s[-1] > 0.3
    assert 60 < driven.statuses[200] < 150


def test_moments_of_an_open_loop_follow_from_the_seed() -> None:
    numbers = []
    for seed in (1, 1, 2):
        with playing(vectors) as script:
            asked = load(script.url, rate=200.0, connections=8, warm_s=0.0, seconds=0.5, seed=seed)
            numbers.append(drive(asked).statuses[200])
    assert numbers[0] == numbers[1] != numbers[2]


def test_wrong_vectors_are_seen() -> None:
    with playing(answer(np.array([0.8, 0.6]))) as script:
        assert drive(load(script.url)).deviation == pytest.approx(0.632, abs=1e-3)
    with playing(answer(np.array([1.0, 0.0]), "another")) as script:
        assert drive(load(script.url)).deviation == float("inf")
    with playing(says(200, {"data": []})) as script, pytest.raises(ValueError, match="neither"):
        drive(load(script.url))


def test_statuses_and_broken_connections_are_counted() -> None:
    with playing(vectors, says(429), hangs_up, breaks_off, vectors) as script:
        driven = drive(load(script.url, connections=1, warm_s=0.0))
    assert driven.statuses[429] == 1
    assert driven.statuses[LOST] == 2
    assert driven.statuses[200] > 0


def test_a_connection_that_the_server_closes_is_opened_again() -> None:
    def closes(handler: BaseHTTPRequestHandler) -> None:
        body = json.dumps({"data": [{"object": "error", "index": 0, "error": {"message": "x"}}]})
        says(422, body.encode(), Connection="close")(handler)
        handler.close_connection = True

    with playing(closes) as script:
        driven = drive(load(script.url, connections=1))
    assert driven.statuses.keys() == {422}
    assert driven.statuses[422] > 1
    assert driven.latencies_s == []
