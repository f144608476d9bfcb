"""Connections of the client: sockets of which every step keeps one deadline.

A time limit on each read or write alone would start anew with every byte that drips in. Here all of
them, and every address of a host that is tried, share what is left of one call's time. No proxy is
asked, whatever the environment says.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import httpcore

CONNECT_S = 5.0
"""How long one connection may take to be made, in seconds."""

IDLE_S = 5.0
"""How long a connection that nobody uses is kept, in seconds."""

MOST_IDLE = 20
SEND_BYTES = 64 * 2**10

_end_s: ContextVar[float] = ContextVar("end_s")


@contextmanager
def until(end_s: float) -> Iterator[None]:
    """What this thread does on a connection ends by a moment of `time.monotonic`."""
    token = _end_s.set(end_s)
    try:
        yield
    finally:
        _end_s.reset(token)


def open_pool() -> httpcore.ConnectionPool:
    """Connections that keep the deadline of `until`."""
    return httpcore.ConnectionPool(
        # Whoever calls from many threads wants as many connections.
        max_connections=None,
        max_keepalive_connections=MOST_IDLE,
        keepalive_expiry=IDLE_S,
        network_backend=_Backend(),
    )


class _Backend(httpcore.NetworkBackend):
    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        try:
            # Only the system knows how long this takes; it cannot be cut short.
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise httpcore.ConnectError(str(error)) from error
        failure: Exception = httpcore.ConnectError(f"{host} has no address")
        for address in dict.fromkeys(str(each[4][0]) for each in found):
            left_s = min(_left_s(httpcore.ConnectTimeout), CONNECT_S)
            try:
                stream = httpcore.SyncBackend().connect_tcp(
                    address, port, left_s, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
            else:
                return _Stream(stream)
        raise failure


class _Stream(httpcore.NetworkStream):
    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _left_s(httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        wire: socket.socket = self._stream.get_extra_info("socket")
        left = memoryview(buffer)
        while left:
            wire.settimeout(_left_s(httpcore.WriteTimeout))
            try:
                left = left[wire.send(left[:SEND_BYTES]) :]
            except TimeoutError as error:
                raise httpcore.WriteTimeout(str(error)) from error
            except OSError as error:
                raise httpcore.WriteError(str(error)) from error

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        left_s = _left_s(httpcore.ConnectTimeout)
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, left_s))

    def close(self) -> None:
        self._stream.close()

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _left_s(late: type[httpcore.TimeoutException]) -> float:
    """Seconds until the deadline; above 0, which to a socket would mean not to wait at all.

    Raises:
        httpcore.TimeoutException: it is over.
    """
    left_s = _end_s.get() - time.monotonic()
    if left_s <= 0:
        raise late("the time is over")
    return left_s
