"""The server: it drains when it is told to stop, and waits for no head for ever."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import httpx
import pytest

from tests.serving import listening, settings_of
from tests.small import jpeg

IMAGE = jpeg(1)
HEAD = (
    "POST /v1/embeddings HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/jpeg\r\n"
    f"Content-Length: {len(IMAGE)}\r\nConnection: close\r\n\r\n"
).encode()


def begun(url: str) -> socket.socket:
    """A request of which half was sent."""
    host, port = url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=60)
    connection.sendall(HEAD + IMAGE[:100])
    return connection


def rest_of(connection: socket.socket) -> bytes:
    """All that a server still says."""
    with connection.makefile("rb") as file:
        return file.read()


def wait_until_in_flight(url: str, number: int) -> None:
    """Wait until so many requests are being answered, by what the service says of itself."""
    for _ in range(3000):
        text = httpx.get(f"{url}/metrics", timeout=60).text
        # The look itself is one of them.
        if f"blindpairs_requests_in_flight {number + 1}.0" in text:
            return
        threading.Event().wait(0.01)
    raise AssertionError(text)


@pytest.fixture
def process() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`blindpairs serve` and its URL."""
    words = [*("--clip", "demo-clip", "--dino", "demo-dino", "--decoders", "thread")]
    words += ["--port", "0", "--num-decoders", "1"]
    command = [sys.executable, "-m", "pipelines.cli", "serve", *words]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as started:
        assert started.stderr is not None
        said = ""
        try:
            for line in started.stderr:
                said += line
                if found := re.search(r"serving at (http://\S+)", line):
                    yield started, found[1]
                    break
            else:
                raise AssertionError(said)
        finally:
            started.kill()


def test_sigterm_ends_what_is_in_flight_and_then_the_process(
    process: tuple[subprocess.Popen[str], str],
) -> None:
    started, url = process
    connection = begun(url)
    wait_until_in_flight(url, 1)
    started.send_signal(signal.SIGTERM)
    for _ in range(3000):
        answer = httpx.get(f"{url}/readyz", timeout=60)
        if answer.status_code == 503:
            break
        threading.Event().wait(0.01)
    assert answer.json() == {"status": "draining"}
    assert httpx.get(f"{url}/healthz", timeout=60).status_code == 200
    refused = httpx.get(f"{url}/v1/pairs", timeout=60)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
    with connection:
        connection.sendall(IMAGE[100:])
        assert rest_of(connection).startswith(b"HTTP/1.1 200 ")
    assert started.wait(60) == 0
    assert started.stderr is not None
    assert started.stderr.read() == ""


def test_answers_that_are_being_read_are_read_to_their_end() -> None:
    with listening(settings_of()) as live, socket.socket() as slow:
        host, port = live.url.removeprefix("http://").split(":")
        # Before it connects, so that no more is on its way than this.
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.settimeout(60)
        slow.connect((host, int(port)))
        for _ in range(1000):
            if live.server.server_state.connections:
                break
            threading.Event().wait(0.01)
        (there,) = live.server.server_state.connections
        there.transport.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_SNDBUF, 4096
        )
        slow.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        for _ in range(1000):
            if there.transport.get_write_buffer_size():
                break
            threading.Event().wait(0.01)
        assert there.transport.get_write_buffer_size()
        live.server.servers[0].get_loop().call_soon_threadsafe(live.server.stop)
        # An end that does not look at what is unread takes less.
        threading.Event().wait(3)
        head, _, body = rest_of(slow).partition(b"\r\n\r\n")
    assert f"content-length: {len(body)}".encode() in head


def test_what_does_not_end_in_time_is_cut_off(caplog: pytest.LogCaptureFixture) -> None:
    with listening(settings_of(drain_s=0.2)) as live, begun(live.url) as connection:
        wait_until_in_flight(live.url, 1)
        live.server.servers[0].get_loop().call_soon_threadsafe(live.server.stop)
        assert rest_of(connection).startswith(b"HTTP/1.1 503 ")
    assert "1 requests were still in flight after 0.2 s and are cut off" in caplog.text


def test_a_second_signal_ends_it_at_once() -> None:
    with listening(settings_of(drain_s=3600)) as live, begun(live.url) as connection:
        wait_until_in_flight(live.url, 1)
        loop = live.server.servers[0].get_loop()
        loop.call_soon_threadsafe(live.server.stop)
        loop.call_soon_threadsafe(live.server.stop)
        assert not rest_of(connection).startswith(b"HTTP/1.1 200")


def test_silent_clients_are_hung_up_on() -> None:
    with listening(settings_of(body_timeout_s=0.2)) as live:
        host, port = live.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=60) as silent:
            assert rest_of(silent) == b""
        with socket.create_connection((host, int(port)), timeout=60) as slow:
            slow.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert slow.recv(20).startswith(b"HTTP/1.1 200")
            # The head of another request on the same connection, cut short.
            slow.sendall(b"GET /healthz HT")
            assert b"HTTP/1.1 200" not in rest_of(slow)
