"""Requests at a server: as fast as it answers, or at a given rate.

Closed loop: each of some connections asks again when it was answered, so that the server is always
busy; this measures throughput. Open loop: requests are sent at random moments of a given rate,
whatever became of those before (a Poisson process), as those of many people are. Their latency
counts from the moment at which each was meant to be sent: a server that stalls, or a generator that
falls behind, does not hide what waited.

The client is as small as it can be, since on a small machine it takes its time from the server.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from miner.client_answers import EmbeddingList, arranged

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)

LOST = 0
"""The status of a request whose connection broke."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is asked.

    Attributes:
        port: of the server, on loopback.
        images: request n sends image n, and begins anew behind the last.
        truth: by encoder_id [images, D] float32, what the vectors have to be.
        connections: that are open at most.
        rate: requests a second of an open loop; None is a closed one.
        warm_s: seconds before those that count.
        seconds: that count.
        seed: of the moments of an open loop.
    """

    port: int
    images: Sequence[bytes]
    truth: Mapping[str, np.ndarray]
    connections: int
    rate: float | None = None
    warm_s: float
    seconds: float
    seed: int = 0


@dataclass(kw_only=True)
class Driven:
    """What came of it, in the seconds that count.

    Attributes:
        latencies_s: of answered requests, sorted.
        lags_s: how much later than meant requests went out, sorted; zeros in a closed loop.
        statuses: how often each came.
        images_per_s: answered with vectors.
        generator_cores: processor time of the generator by time.
        deviation: largest distance of a vector from the truth.
    """

    latencies_s: list[float] = field(default_factory=list)
    lags_s: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    images_per_s: float = 0.0
    generator_cores: float = 0.0
    deviation: float = 0.0


@dataclass(slots=True)
class _Asked:
    """One request: moments of the clock, and what was answered."""

    number: int
    meant_s: float
    sent_s: float
    done_s: float
    status: int
    body: bytes


def drive(load: Load) -> Driven:
    """Send a load from this process, and hold every answer against the truth."""
    generator = _Generator(load)
    start_core_s = time.process_time()
    asked = asyncio.run(generator.run())
    core_s, elapsed_s = time.process_time() - start_core_s, time.perf_counter() - generator.start_s
    return _summed(load, asked, generator.start_s + load.warm_s, core_s / elapsed_s)


def _summed(load: Load, asked: list[_Asked], first_s: float, cores: float) -> Driven:
    """Throughput by when answers came; latencies of a closed loop likewise.

    In an open loop those count that were meant to be sent in time, however late their answers.
    """
    last_s = first_s + load.seconds
    is_open = load.rate is not None
    counted = [
        each for each in asked if first_s <= (each.meant_s if is_open else each.done_s) < last_s
    ]
    good = [each for each in counted if each.status == 200]
    num_done = sum(each.status == 200 and first_s <= each.done_s < last_s for each in asked)
    return Driven(
        latencies_s=sorted(each.done_s - each.meant_s for each in good),
        lags_s=sorted(each.sent_s - each.meant_s for each in counted),
        statuses=Counter(each.status for each in counted),
        images_per_s=num_done / load.seconds,
        generator_cores=cores,
        deviation=max(
            (_deviation(load, each) for each in asked if each.status == 200), default=0.0
        ),
    )


def _deviation(load: Load, asked: _Asked) -> float:
    """Distance of an answer's vectors from the truth; infinite where one is missing."""
    found = arranged(EmbeddingList.model_validate_json(asked.body), 1)
    if found.vectors.keys() != load.truth.keys():
        return float("inf")
    place = asked.number % len(load.images)
    return max(
        float(np.linalg.norm(found.vectors[encoder_id][0] - truth_ND[place]))
        for encoder_id, truth_ND in load.truth.items()
    )


class _Generator:
    def __init__(self, load: Load) -> None:
        self._load = load
        self._requests = [_request(image) for image in load.images]
        self._asked: list[_Asked] = []
        self._idle: deque[_Connection] = deque()
        self._room = asyncio.Semaphore(load.connections)
        self.start_s = 0.0

    async def run(self) -> list[_Asked]:
        """Every request, once all are answered; the clock starts when a first one was."""
        await self._ask(0, time.perf_counter())
        self.start_s = time.perf_counter()
        if self._load.rate is None:
            end_s = self.start_s + self._load.warm_s + self._load.seconds
            loops = (self._again_and_again(n, end_s) for n in range(self._load.connections))
            await asyncio.gather(*loops)
        else:
            await self._at_rate(self.start_s, self._load.rate)
        for connection in self._idle:
            connection.close()
        return self._asked

    async def _again_and_again(self, number: int, end_s: float) -> None:
        while (now_s := time.perf_counter()) < end_s:
            await self._ask(number, now_s)
            number += self._load.connections

    async def _at_rate(self, start_s: float, rate: float) -> None:
        generator = np.random.default_rng(self._load.seed)
        at_s, end_s = start_s, start_s + self._load.warm_s + self._load.seconds
        tasks = []
        while (at_s := at_s + generator.exponential(1 / rate)) < end_s:
            await asyncio.sleep(max(at_s - time.perf_counter(), 0))
            tasks.append(asyncio.create_task(self._ask(len(tasks), at_s)))
        await asyncio.gather(*tasks)

    async def _ask(self, number: int, meant_s: float) -> None:
        async with self._room:
            connection = self._idle.pop() if self._idle else _Connection(self._load.port)
            sent_s = time.perf_counter()
            request = self._requests[number % len(self._requests)]
            status, body = await connection.ask(request)
            done_s = time.perf_counter()
            self._idle.append(connection)
        in_loop = self._load.rate is None
        meant_s = sent_s if in_loop else meant_s
        self._asked.append(_Asked(number, meant_s, sent_s, done_s, status, body))


class _Connection:
    """HTTP/1.1, one request after the other; opened when it is first needed, and after a break."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Status and body of the answer."""
        try:
            if self._streams is None:
                self._streams = await asyncio.open_connection("127.0.0.1", self._port)
            reader, writer = self._streams
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = LENGTH.search(head)
            assert length is not None, head
            body = await reader.readexactly(int(length[1]))
        except (OSError, asyncio.IncompleteReadError):
            self.close()
            return LOST, b""
        if b"\r\nconnection: close\r\n" in head.lower():
            self.close()
        return int(head[9:12]), body

    def close(self) -> None:
        """Close the connection, if it is open."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


def _request(image: bytes) -> bytes:
    head = (
        "POST /v1/embeddings HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        f"Content-Type: application/octet-stream\r\nContent-Length: {len(image)}\r\n\r\n"
    )
    return head.encode() + image
