"""Connections that keep a deadline, against peers that take their time with every step."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import httpcore
import pytest

from miner.client_calls import Calls
from miner.client_wire import open_pool, until
from miner.errors import ServiceError

T_S = 0.6
LATE_S = 20.0
"""Nothing here ends this late unless each byte has a time limit of its own."""

Peer = Callable[[socket.socket, threading.Event], None]


@contextmanager
def peer(act: Peer) -> Iterator[int]:
    """The port of a server that does the same with every connection until the block ends."""
    stop = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)

        def serve() -> None:
            while not stop.is_set():
                try:
                    wire, _ = server.accept()
                except TimeoutError:
                    continue
                with wire:
                    wire.settimeout(0.05)
                    try:
                        act(wire, stop)
                    except OSError:
                        continue

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            stop.set()
            thread.join()


def drips(data: bytes) -> Peer:
    """Sends bytes, one now and then, and the last one again and again."""

    def act(wire: socket.socket, stop: threading.Event) -> None:
        place = 0
        while not stop.wait(0.02):
            wire.sendall(data[place : place + 1])
            place = min(place + 1, len(data) - 1)

    return act


def sips(wire: socket.socket, stop: threading.Event) -> None:
    """Takes what comes, a little now and then, so that there is always room for some more."""
    wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    while not stop.wait(0.02):
        with suppress(TimeoutError):
            wire.recv(2048)


@pytest.mark.parametrize(
    "act",
    [
        drips(b"HTTP/1.1 200 OK\r\nX: " + b"a" * 9),
        drips(b"HTTP/1.1 100 Continue\r\n\r\n" * 99),
        drips(b"HTTP/1.1 200 OK\r\nContent-Length: 999999\r\n\r\n" + b"a" * 9),
        drips(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 9),
        sips,
    ],
    ids=["head", "heads", "body", "chunks", "sending"],
)
def test_the_deadline_holds_for_every_part_of_a_call(act: Peer) -> None:
    with peer(act) as port:
        calls = Calls(f"http://127.0.0.1:{port}", None, T_S, 0)
        start_s = time.monotonic()
        with pytest.raises(ServiceError, match=r"no answer in 1 tries within 0.6 s .*Timeout"):
            calls.ask("POST", "/x", json={"a": "b" * (30_000_000 if act is sips else 9)})
        assert T_S <= time.monotonic() - start_s < LATE_S
        calls.close()


def test_a_deadline_that_is_over_asks_nothing_more() -> None:
    with (
        open_pool() as pool,
        until(time.monotonic() - 1),
        pytest.raises(httpcore.ConnectTimeout, match="the time is over"),
    ):
        pool.request("GET", "http://127.0.0.1:9/")


def test_every_address_of_a_host_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    def ends(wire: socket.socket, stop: threading.Event) -> None:
        wire.recv(4096)
        wire.sendall(b"HTTP/1.1 204 Fine\r\n\r\n")

    found = socket.getaddrinfo

    def two(host: str, *args: Any, **more: Any) -> list[Any]:
        names = ("127.0.0.2", "127.0.0.1") if host == "service.test" else (host,)
        return [each for name in names for each in found(name, *args, **more)]

    monkeypatch.setattr(socket, "getaddrinfo", two)
    with peer(ends) as port, open_pool() as pool, until(time.monotonic() + 60):
        assert pool.request("GET", f"http://service.test:{port}/").status == 204


def test_a_name_that_nobody_knows_is_an_error_of_the_connection() -> None:
    with (
        open_pool() as pool,
        until(time.monotonic() + 60),
        pytest.raises(httpcore.ConnectError, match="Errno"),
    ):
        pool.request("GET", "http://no.such.host.invalid/")
