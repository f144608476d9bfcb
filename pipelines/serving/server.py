"""The HTTP server: listens, and when it is told to stop, first ends what is in flight."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import threading
from collections.abc import Iterator
from typing import Any

import click
import uvicorn
from fastapi import FastAPI

from pipelines.serving.protocol import PunctualProtocol
from pipelines.serving.service import Service
from pipelines.serving.settings import ServeSettings

log = logging.getLogger(__name__)

POLL_S = 0.02
"""How often it is looked whether requests in flight have ended, in seconds."""

BACKLOG = 2048

IDLE_S = 75
"""How long a connection may be idle between requests, in seconds; proxies hold theirs for 60."""


class DrainingServer(uvicorn.Server):
    """A server that on SIGTERM or SIGINT says so at /readyz, and ends once nothing is in flight.

    A second signal ends it at once.
    """

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service
        self._draining: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle both signals on the event loop while the block runs."""
        if threading.current_thread() is not threading.main_thread():
            # Only the main thread hears signals.
            yield
            return
        loop = asyncio.get_running_loop()
        before = {number: signal.getsignal(number) for number in uvicorn.server.HANDLED_SIGNALS}
        for number in before:
            loop.add_signal_handler(number, self.stop)
        try:
            yield
        finally:
            for number, handler in before.items():
                loop.remove_signal_handler(number)
                signal.signal(number, handler)

    def stop(self) -> None:
        """Begin to drain; asked again, end at once."""
        if self._service.is_draining or not self.started:
            self.should_exit = self.force_exit = True
            return
        self._service.is_draining = True
        self._draining = asyncio.get_running_loop().create_task(self._drain())

    async def _drain(self) -> None:
        drain_s = self._service.settings.drain_s
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(drain_s):
                while self._service.num_in_flight or self._is_writing():
                    await asyncio.sleep(POLL_S)
        if self._service.num_in_flight:
            log.warning(
                "%d requests were still in flight after %g s and are cut off; give more --drain-s",
                *(self._service.num_in_flight, drain_s),
            )
        self.should_exit = True

    def _is_writing(self) -> bool:
        """Whether a client has still to take a part of its answer."""
        transports = (each.transport for each in self.server_state.connections)
        return any(transport.get_write_buffer_size() for transport in transports)

    async def startup(self, sockets: Any = None) -> None:
        """Listen, and say where."""
        await super().startup(sockets=sockets)
        for server in self.servers:
            for listener in server.sockets:
                host, port = listener.getsockname()[:2]
                shown = f"[{host}]" if ":" in host else host
                click.echo(f"serving at http://{shown}:{port}", err=True)


def make_server(app: FastAPI, settings: ServeSettings) -> DrainingServer:
    """The server of an app, which does not listen yet."""
    config = uvicorn.Config(
        app,
        host=settings.host.strip("[]"),
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        # The same on every machine, whatever else is installed there.
        loop="asyncio",
        http=type("Protocol", (PunctualProtocol,), {"patience_s": settings.body_timeout_s}),
        ws="none",
        lifespan="on",
        backlog=BACKLOG,
        timeout_keep_alive=IDLE_S,
        # What is cut off is told so; this is only for those who do not listen.
        timeout_graceful_shutdown=1,
        proxy_headers=False,
    )
    return DrainingServer(config, app.state.service)


def run_server(app: FastAPI, settings: ServeSettings, listener: socket.socket) -> int:
    """Serve until told to stop; the exit code.

    Args:
        app: the service.
        settings: as given.
        listener: of `open_listener`.

    Raises:
        MinerError: the encoders or the index cannot be loaded.
    """
    service: Service = app.state.service
    with _quiet(service), contextlib.suppress(SystemExit):
        make_server(app, settings).run([listener])
    if service.failure is not None:
        raise service.failure
    return 0


@contextlib.contextmanager
def _quiet(service: Service) -> Iterator[None]:
    """Why a service did not start is said once: by whoever catches it, with no traceback."""
    logger = logging.getLogger("uvicorn.error")

    def is_news(record: logging.LogRecord) -> bool:
        return service.failure is None

    logger.addFilter(is_news)
    try:
        yield
    finally:
        logger.removeFilter(is_news)
