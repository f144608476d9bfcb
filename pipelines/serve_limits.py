"""What stands before the routes: who may call, how much at a time, and for how long.

A request's body is read here, within its limits, before it takes one of the places of those that
are worked on; so clients that send slowly hold up nobody. `/healthz` and `/readyz` pass by all of
it. A client that hangs up, or that waited too long, has its request cancelled.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipelines.serve_errors import ServiceError, answer
from pipelines.serve_service import Service
from pipelines.serve_settings import LOCAL_NAMES, ServeSettings

OPEN_PATHS = frozenset({"/healthz", "/readyz"})

TOKEN_VARIABLE = "BLINDPAIRS_TOKEN"
LEAST_TOKEN_CHARS = 16

EVERYWHERE = {
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cache-control": b"no-store",
}
"""Headers of every answer that does not say otherwise."""

REFUSED_ROUTE = "refused"
"""The route of requests that come to none, in the metrics."""


class _GoneError(Exception):
    """The client hung up."""


def read_token(settings: ServeSettings) -> str | None:
    """The token that callers have to send, if any.

    Raises:
        ValueError: it cannot be read, is too short, or is missing where others can call.
    """
    token = os.environ.get(TOKEN_VARIABLE)
    if settings.token_file is not None:
        try:
            token = settings.token_file.read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"--token-file {settings.token_file}: {error}") from error
    if token is None:
        if not settings.is_local:
            raise ValueError(
                f"--host {settings.host}: others than this machine could call; give a token by "
                f"--token-file or {TOKEN_VARIABLE}, or listen on 127.0.0.1"
            )
        return None
    if len(token) < LEAST_TOKEN_CHARS or not token.isascii() or not token.isprintable():
        raise ValueError(
            f"the token has {len(token)} characters; it takes at least {LEAST_TOKEN_CHARS}, all "
            "printable ASCII, as `openssl rand -hex 32` gives"
        )
    return token


def allowed_hosts(settings: ServeSettings, *, has_token: bool) -> frozenset[str] | None:
    """Names in Host that are answered; None for all.

    Without a token a page from elsewhere could have its own name resolved to this machine.
    """
    if settings.allowed_hosts is None:
        return None if has_token else frozenset({*LOCAL_NAMES, settings.host.lower()})
    names = {name.strip().lower() for name in settings.allowed_hosts.split(",")}
    return None if "*" in names else frozenset(names)


class Limits:
    """ASGI middleware around the whole app."""

    def __init__(self, app: ASGIApp, service: Service, token: str | None) -> None:
        self._app, self._service, self._settings = app, service, service.settings
        self._token = None if token is None else _digest(token.encode())
        self._hosts = allowed_hosts(service.settings, has_token=token is not None)
        self._num_held_bytes = 0
        self._num_working = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or say why not."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        call = _Call(scope, receive, send)
        if scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, call.send)
            return
        self._service.num_in_flight += 1
        try:
            await self._limited(call)
        except _GoneError:
            pass
        finally:
            self._service.num_in_flight -= 1
            self._num_held_bytes -= call.num_held_bytes
            self._count(call)

    async def _limited(self, call: _Call) -> None:
        try:
            self._check_caller(call)
            body = await self._read_body(call)
            if self._num_working >= self._settings.max_requests:
                raise ServiceError(
                    429,
                    "too_many_requests",
                    f"{self._num_working} requests are worked on, the limit is "
                    f"{self._settings.max_requests}; come again after Retry-After",
                    retry_after_s=1,
                )
        except ServiceError as error:
            # What is left of the body is not read any more.
            await call.refuse(error, {"connection": "close"} if not call.is_read else {})
            return
        self._num_working += 1
        call.start_s = time.perf_counter()
        try:
            await self._work(call, body)
        finally:
            self._num_working -= 1

    def _check_caller(self, call: _Call) -> None:
        if self._service.is_draining:
            raise ServiceError(
                503, "draining", "the service is stopping; ask another one", retry_after_s=1
            )
        if self._hosts is not None and _name(call.header(b"host")) not in self._hosts:
            raise ServiceError(
                400,
                "host_not_allowed",
                "the Host of the request is none that is answered here; see --allowed-hosts",
                param="host",
            )
        if self._token is not None:
            scheme, _, token = call.header(b"authorization").partition(b" ")
            # Digests are of one length, so that the time says nothing about the token.
            same = hmac.compare_digest(_digest(token.strip()), self._token)
            if scheme.lower() != b"bearer" or not same:
                raise ServiceError(
                    401,
                    "invalid_token",
                    "the token is missing or wrong; send `Authorization: Bearer TOKEN`",
                    param="authorization",
                )

    async def _read_body(self, call: _Call) -> bytes:
        most = self._settings.max_body_bytes
        declared = call.header(b"content-length")
        chunks: list[bytes] = []
        try:
            async with asyncio.timeout(self._settings.body_timeout_s):
                while not call.is_read:
                    if call.num_held_bytes > most or (declared.isdigit() and int(declared) > most):
                        raise ServiceError(
                            413,
                            "body_too_large",
                            f"the body is larger than {most} bytes; send fewer or smaller images",
                        )
                    message = await call.receive()
                    if message["type"] == "http.disconnect":
                        raise _GoneError
                    chunk = message.get("body", b"")
                    self._hold(call, len(chunk))
                    chunks.append(chunk)
                    call.is_read = not message.get("more_body", False)
        except TimeoutError:
            raise ServiceError(
                408,
                "body_timeout",
                f"the request took longer than {self._settings.body_timeout_s:g} s to arrive",
            ) from None
        if call.num_held_bytes > most:
            call.is_read = False
            raise ServiceError(
                413,
                "body_too_large",
                f"the body is larger than {most} bytes; send fewer or smaller images",
            )
        return b"".join(chunks)

    def _hold(self, call: _Call, num_bytes: int) -> None:
        call.num_held_bytes += num_bytes
        self._num_held_bytes += num_bytes
        if self._num_held_bytes > self._settings.max_held_bytes:
            raise ServiceError(
                429,
                "too_many_bytes_held",
                f"bodies of {self._settings.max_held_bytes} bytes are held already; come again "
                "after Retry-After",
                retry_after_s=1,
            )

    async def _work(self, call: _Call, body: bytes) -> None:
        """Have the app answer, unless the client hangs up or waits too long."""
        working = asyncio.ensure_future(self._app(call.scope, call.replay(body), call.send))
        leaving = asyncio.ensure_future(call.gone())
        try:
            done, _ = await asyncio.wait(
                {working, leaving},
                timeout=self._settings.request_timeout_s,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if working in done:
                await working
                return
            await _cancelled(working)
            if leaving in done:
                raise _GoneError
            await call.refuse(
                ServiceError(
                    504,
                    "timeout",
                    f"the answer took longer than {self._settings.request_timeout_s:g} s; send "
                    "less, or come again",
                ),
                {},
            )
        finally:
            await _cancelled(working)
            await _cancelled(leaving)

    def _count(self, call: _Call) -> None:
        route = getattr(call.scope.get("route"), "path", REFUSED_ROUTE)
        metrics = self._service.metrics
        metrics.requests.labels(route, str(call.status or "gone")).inc()
        if call.start_s is not None:
            metrics.request_s.labels(route).observe(time.perf_counter() - call.start_s)


class _Call:
    """One request and how far it got."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope, self.receive, self._send = scope, receive, send
        self.is_read = False
        self.num_held_bytes = 0
        self.status: int | None = None
        self.start_s: float | None = None

    def header(self, name: bytes) -> bytes:
        """A header's first value; empty where it is missing."""
        return next((value for key, value in self.scope["headers"] if key == name), b"")

    async def send(self, message: Message) -> None:
        """Pass on a part of the answer, with the headers that all have."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = list(message.get("headers", []))
            there = {name.lower() for name, _ in headers}
            headers += [each for each in EVERYWHERE.items() if each[0] not in there]
            message = {**message, "headers": headers}
        await self._send(message)

    async def refuse(self, error: ServiceError, headers: MutableMapping[str, str]) -> None:
        """Answer with an error, unless an answer has begun."""
        if self.status is None:
            response = answer(error)
            response.headers.update(headers)
            await response(self.scope, self.receive, self.send)

    def replay(self, body: bytes) -> Callable[[], Awaitable[Message]]:
        """What the app receives: the whole body, then nothing until it is cancelled."""
        messages: list[dict[str, Any]] = [
            {"type": "http.request", "body": body, "more_body": False}
        ]

        async def receive() -> Message:
            if messages:
                return messages.pop()
            await asyncio.Event().wait()
            raise AssertionError

        return receive

    async def gone(self) -> None:
        """Wait until the client hangs up."""
        while (await self.receive())["type"] != "http.disconnect":
            pass


async def _cancelled(task: asyncio.Future[Any]) -> None:
    """Cancel a task, and wait until it has ended; what it raises then interests nobody."""
    if not task.done():
        task.cancel()
        await asyncio.wait({task})


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()


def _name(host: bytes) -> str:
    """A Host without its port, in small letters."""
    text = host.decode("latin-1").lower()
    if text.startswith("["):
        return text.partition("]")[0] + "]"
    return text.partition(":")[0]
