"""What stands before the routes: who may call, how much at a time, and for how long.

A request's body is read here, within its limits, before it takes one of the places of those that
are worked on; so clients that send slowly hold up nobody. `/healthz` and `/readyz` pass by all of
it. A client that hangs up, or that waited too long, has its request cancelled.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipelines.serving.callers import Callers
from pipelines.serving.errors import HttpError, answer
from pipelines.serving.service import Service

OPEN_PATHS = frozenset({"/healthz", "/readyz"})

EVERYWHERE = {
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-resource-policy": b"same-origin",
    b"cache-control": b"no-store",
}
"""Headers of every answer that does not say otherwise."""

LINGER_S = 5.0
"""How long the rest of a refused body is taken in and thrown away, in seconds."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

REFUSED_ROUTE = "refused"
"""The route of requests that come to none, in the metrics."""


class _GoneError(Exception):
    """The client hung up."""


class Limits:
    """ASGI middleware around the whole app."""

    def __init__(self, app: ASGIApp, service: Service, callers: Callers) -> None:
        self._app, self._service, self._settings = app, service, service.settings
        self._callers = callers
        self._num_held_bytes = 0
        self._num_working = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or say why not."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["method"] == "HEAD":
            # The server leaves out the body.
            scope = {**scope, "method": "GET"}
        call = _Call(scope, receive, send)
        if scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, call.send)
            return
        self._service.num_in_flight += 1
        try:
            await self._limited(call)
        except _GoneError:
            pass
        except asyncio.CancelledError:
            if not self._service.is_draining:
                raise
            stopped = HttpError(503, "stopped", "the service stopped before it had an answer")
            await call.refuse(stopped, {"connection": "close"})
        except Exception:
            # The app's own last resort says it to the client, outside of this.
            call.status = 500
            raise
        finally:
            self._service.num_in_flight -= 1
            self._num_held_bytes -= call.num_held_bytes
            self._count(call)

    async def _limited(self, call: _Call) -> None:
        try:
            if self._service.is_draining:
                raise HttpError(
                    503, "draining", "the service is stopping; ask another one", retry_after_s=1
                )
            if _CONTROL.search(call.scope["path"]):
                raise HttpError(404, "not_found", "nothing here has control characters in its path")
            self._callers.check(call.header(b"host"), call.header(b"authorization"))
            body = await self._read_body(call)
            if self._num_working >= self._settings.max_requests:
                raise HttpError(
                    429,
                    "too_many_requests",
                    f"{self._num_working} requests are worked on, the limit is "
                    f"{self._settings.max_requests}; come again after Retry-After",
                    retry_after_s=1,
                )
        except HttpError as error:
            if call.is_read:
                await call.refuse(error, {})
            else:
                await call.refuse(error, {"connection": "close"}, linger=error.status != 408)
            return
        self._num_working += 1
        call.start_s = time.perf_counter()
        try:
            await self._work(call, body)
        finally:
            self._num_working -= 1

    async def _read_body(self, call: _Call) -> bytes:
        declared = call.header(b"content-length")
        self._refuse_large(int(declared[:18]) if declared.isdigit() else 0)
        chunks: list[bytes] = []
        try:
            async with asyncio.timeout(self._settings.body_timeout_s):
                while not call.is_read:
                    message = await call.receive()
                    if message["type"] == "http.disconnect":
                        raise _GoneError
                    chunk = message.get("body", b"")
                    self._hold(call, len(chunk))
                    self._refuse_large(call.num_held_bytes)
                    chunks.append(chunk)
                    call.is_read = not message.get("more_body", False)
        except TimeoutError:
            raise HttpError(
                408,
                "body_timeout",
                f"the request took longer than {self._settings.body_timeout_s:g} s to arrive",
            ) from None
        return b"".join(chunks)

    def _refuse_large(self, num_bytes: int) -> None:
        most = self._settings.max_body_bytes
        if num_bytes > most:
            raise HttpError(
                413,
                "body_too_large",
                f"the body is larger than {most} bytes; send fewer or smaller images",
            )

    def _hold(self, call: _Call, num_bytes: int) -> None:
        call.num_held_bytes += num_bytes
        self._num_held_bytes += num_bytes
        if self._num_held_bytes > self._settings.max_held_bytes:
            raise HttpError(
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
                working.result()
                return
            await _cancelled(working)
            if leaving in done:
                raise _GoneError
            await call.refuse(
                HttpError(
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
        """A header's value; empty where it is missing, or there several times."""
        values = [value for key, value in self.scope["headers"] if key == name]
        return values[0] if len(values) == 1 else b""

    async def send(self, message: Message) -> None:
        """Pass on a part of the answer, with the headers that all have."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = list(message.get("headers", []))
            there = {name.lower() for name, _ in headers}
            headers += [each for each in EVERYWHERE.items() if each[0] not in there]
            message = {**message, "headers": headers}
        await self._send(message)

    async def refuse(
        self, error: HttpError, headers: MutableMapping[str, str], *, linger: bool = False
    ) -> None:
        """Answer with an error, unless an answer has begun.

        Args:
            error: why.
            headers: of the answer, besides.
            linger: before the connection is closed, take in what the client is still sending: one
                that is cut off while it sends never reads the answer.
        """
        if self.status is not None:
            return
        response = answer(error)
        response.headers.update(headers)
        send = self._lingering if linger else self.send
        await response(self.scope, self.receive, send)

    async def _lingering(self, message: Message) -> None:
        if message["type"] != "http.response.body":
            await self.send(message)
            return
        await self.send({**message, "more_body": True})
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                more = True
                while more:
                    taken = await self.receive()
                    more = taken["type"] == "http.request" and taken.get("more_body", False)
        await self.send({"type": "http.response.body", "body": b"", "more_body": False})

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
