"""Connections of clients that are slow, silent, or mean no good."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from pipelines.serving.protocol import FREE_PIECES, MAX_HEAD_BYTES, MOST_PIPELINED
from tests.serving import Held, Live, listening, settings_of
from tests.small import jpeg

GET = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
OPENAPI = b"GET /openapi.json HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
POST = b"POST /v1/embeddings HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/jpeg\r\n"

PATIENCE_S = 0.5


@contextmanager
def connected(live: Live) -> Iterator[socket.socket]:
    host, port = live.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        yield connection


def only_connection(live: Live) -> Any:
    """The service's end of the only connection that is open, with little room for what it sends."""
    deadline_s = time.monotonic() + 60
    while len(there := list(live.server.server_state.connections)) != 1:
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    wire = there[0].transport.get_extra_info("socket")
    wire.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    return there[0]


def rest_of(connection: socket.socket) -> bytes:
    """All that a server still says."""
    with connection.makefile("rb") as file:
        return file.read()


def error_of(answer: bytes) -> tuple[int, str]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"content-type: application/json" in head
    return int(head[9:12]), json.loads(body)["error"]["code"]


@pytest.fixture(scope="module")
def patient() -> Iterator[Live]:
    """A service that waits for nobody for long."""
    with listening(settings_of(body_timeout_s=PATIENCE_S)) as found:
        yield found


@pytest.mark.parametrize(
    ("sent", "error"),
    [
        (b"nonsense\r\n\r\n", (400, "bad_http")),
        (b"CONNECT 127.0.0.1:1 HTTP/1.1\r\n\r\n", (400, "bad_http")),
        (b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n", (400, "bad_http")),
        (
            POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            (400, "bad_http"),
        ),
        (
            POST + b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 3\r\n\r\nabc",
            (400, "no_other_protocol"),
        ),
        (b"GET / HTTP/1.1\r\na: " + b"a" * (2 * MAX_HEAD_BYTES), (431, "head_too_large")),
        (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * MAX_HEAD_BYTES, (431, "head_too_large")),
        (b"GET /" + b"a" * MAX_HEAD_BYTES + b" HTTP/1.1\r\n\r\n", (431, "head_too_large")),
    ],
    ids=["nonsense", "connect", "not ascii", "two lengths", "upgrade", "value", "headers", "path"],
)
def test_what_is_no_request_gets_a_reason(
    live: Live, sent: bytes, error: tuple[int, str], caplog: pytest.LogCaptureFixture
) -> None:
    with connected(live) as connection:
        connection.sendall(sent)
        assert error_of(rest_of(connection)) == error
    # Anyone could fill the log.
    assert caplog.text == ""


def test_another_protocol_is_not_spoken(live: Live, caplog: pytest.LogCaptureFixture) -> None:
    upgrade = GET.replace(b"\r\n\r\n", b"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
    with connected(live) as connection:
        connection.sendall(upgrade)
        assert connection.recv(100).startswith(b"HTTP/1.1 200 ")
    assert caplog.text == ""


def test_a_body_in_crumbs_is_cut_off(live: Live) -> None:
    with connected(live) as connection:
        crumbs = b"1\r\na\r\n" * (2 * FREE_PIECES)
        connection.sendall(POST + b"Transfer-Encoding: chunked\r\n\r\n" + crumbs)
        assert rest_of(connection) == b""
    with connected(live) as connection:
        data = jpeg(1)
        pieces = b"".join(b"1\r\n%c\r\n" % each for each in data[:FREE_PIECES])
        rest = data[FREE_PIECES:]
        pieces += b"%x\r\n%s\r\n" % (len(rest), rest) if rest else b""
        head = b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
        connection.sendall(POST + head + pieces + b"0\r\n\r\n")
        assert rest_of(connection).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("sent", [b"", b"GET /heal", b"\r\n", GET + b"GET /heal"])
def test_heads_that_do_not_come_are_not_waited_for(patient: Live, sent: bytes) -> None:
    start_s = time.monotonic()
    with connected(patient) as connection:
        connection.sendall(sent)
        assert rest_of(connection).count(b"HTTP/1.1 200 ") == sent.count(GET)
    assert time.monotonic() - start_s < 30


def test_empty_lines_are_no_head_and_get_as_long(patient: Live) -> None:
    with connected(patient) as connection:
        connection.sendall(GET)
        assert connection.recv(20).startswith(b"HTTP/1.1 200 ")
        connection.sendall(b"\r\n")
        assert b"HTTP/1.1" not in rest_of(connection)


def test_answers_that_are_not_read_are_thrown_away(
    patient: Live, caplog: pytest.LogCaptureFixture
) -> None:
    service = patient.app.state.service
    for last in (OPENAPI, OPENAPI.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")):
        with connected(patient) as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            there = only_connection(patient)
            deaf.sendall(OPENAPI * MOST_PIPELINED + last)
            deadline_s = time.monotonic() + 60
            while not there.transport.get_write_buffer_size():
                assert time.monotonic() < deadline_s
                time.sleep(0.01)
            while patient.server.server_state.connections or service.num_in_flight:
                assert time.monotonic() < deadline_s
                time.sleep(0.01)
    assert caplog.text == ""


def test_requests_one_behind_the_other_are_answered_in_order(live: Live) -> None:
    with connected(live) as connection:
        last = GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        connection.sendall(GET + OPENAPI + GET * 20 + last)
        said = rest_of(connection)
    assert said.count(b"HTTP/1.1 200 ") == 23
    assert said.index(b'"openapi"') < said.rindex(b'{"status":"ok"}')


def test_who_asks_on_and_on_and_reads_nothing_is_hung_up_on(live: Live) -> None:
    with connected(live) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(GET * 100_000)
        said = b""
        with contextlib.suppress(ConnectionError):
            said = rest_of(connection)
    assert said.count(b"HTTP/1.1 200 ") <= MOST_PIPELINED + 1


def test_a_client_that_reads_slowly_gets_all(patient: Live) -> None:
    with connected(patient) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        last = OPENAPI.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        only_connection(patient)
        connection.sendall(OPENAPI + last)
        said, start_s = b"", time.monotonic()
        while data := connection.recv(1024):
            said += data
            time.sleep(0.05)
    # Longer than it would be waited for in vain.
    assert time.monotonic() - start_s > 2 * PATIENCE_S
    first, second = said.split(b"HTTP/1.1 200 OK")[1:]
    assert first.partition(b"\r\n\r\n")[2] == second.partition(b"\r\n\r\n")[2] != b""


def test_a_client_that_leaves_has_all_its_requests_cancelled(held: Held) -> None:
    with listening(settings_of()) as live:
        service = live.app.state.service
        with connected(live) as connection:
            data = jpeg(2)
            connection.sendall((POST + b"Content-Length: %d\r\n\r\n" % len(data) + data) * 5)
            deadline_s = time.monotonic() + 60
            while held.num_begun != 2:
                assert time.monotonic() < deadline_s
                time.sleep(0.01)
        # The decoder is not let go before: nothing but the client's leaving ends the request.
        while service.num_in_flight or live.server.server_state.connections:
            assert time.monotonic() < deadline_s
            time.sleep(0.01)
        held.go.set()
        value = service.metrics.registry.get_sample_value
        gone = {"route": "/v1/embeddings", "status": "gone"}
        assert value("blindpairs_requests_total", gone) == 1
