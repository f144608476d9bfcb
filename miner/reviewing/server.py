"""A report, served on loopback to one browser, that saves what its reviewer decides into the run.

Any other page that the browser has open can reach a port of this machine, and so can any program
on it. What keeps them out:

    token      every address begins with a random word that only the printed URL holds
    Host       has to name loopback, so that no foreign name that resolves to it is served
    Origin     has to be this server's own where something is written
    type       of what is written is one that no form can send

Here are the token and the port; `miner/reviewing/request.py` holds every request against them.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import secrets
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from typing import Any

from miner.errors import ResourceError, StoreError
from miner.reviewing.request import ReviewRequest
from miner.store import Store

log = logging.getLogger(__name__)

DRAIN_S = 10.0
"""How long a server that ends waits for decisions that are being saved, in seconds."""

PORTS = range(20_000, 60_000)
"""Where a run's own port lies."""

NUM_PORTS_TRIED = 20
"""How many ports are tried, from a run's own on."""

HTTP_PORT = 80
"""The port that a browser leaves out of Host and Origin."""


class ReviewServer(ThreadingHTTPServer):
    """Serves one report; `serve_forever` until `shutdown`.

    Attributes:
        store: the run.
        report: the report's folder within it.
        url: the page's address, with its token.
    """

    daemon_threads = True
    # A page asks for many images at once.
    request_queue_size = 128

    def __init__(self, store: Store, name: str, *, port: int | None = None) -> None:
        """Listen on loopback.

        Args:
            store: the run directory.
            name: the join's.
            port: where to listen; 0 takes any that is free. None takes one that is the run's own,
                or the next free one: a browser keeps what was said by the page's address.

        Raises:
            ResourceError: the port is taken, or not ours to take.
            StoreError: the join has no report.
        """
        self.store, self.report = store, f"pairs/{name}/report"
        if not store.files.exists(f"{self.report}/index.html"):
            raise StoreError(
                f"{store.place(self.report)} holds no report; run `blindpairs report {store.root}`"
            )
        self._num_saving, self._change = 0, threading.Condition()
        self._listen([port] if port is not None else ports_of(store))
        self.token = secrets.token_urlsafe(16)
        self.hosts = hosts_of(self.server_port)
        self.url = f"http://127.0.0.1:{self.server_port}/{self.token}/"

    def _listen(self, ports: list[int]) -> None:
        for port in ports:
            try:
                super().__init__(("127.0.0.1", port), ReviewRequest)
            except OSError as error:
                if error.errno == errno.EADDRINUSE and port != ports[-1]:
                    continue
                if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                    raise
                raise ResourceError(
                    f"port {port} of 127.0.0.1 cannot be had ({error.strerror}); "
                    "give another --port, or 0 for any that is free"
                ) from error
            return

    @contextmanager
    def saving(self) -> Iterator[None]:
        """While decisions arrive and are saved."""
        with self._change:
            self._num_saving += 1
        try:
            yield
        finally:
            with self._change:
                self._num_saving -= 1
                self._change.notify_all()

    def drain(self, timeout_s: float = DRAIN_S) -> bool:
        """Wait for decisions that are being saved; whether none is left."""
        with self._change:
            return self._change.wait_for(lambda: self._num_saving == 0, timeout_s)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that hangs up is told to the log; what else goes wrong is told to everyone."""
        hung_up = isinstance(sys.exception(), (ConnectionError, TimeoutError))
        log.log(logging.INFO if hung_up else logging.ERROR, "a request failed", exc_info=True)


def hosts_of(port: int) -> set[str]:
    """What a browser may say in Host to reach a port of this machine."""
    names = {"127.0.0.1", "localhost"}
    return {f"{name}:{port}" for name in names} | (names if port == HTTP_PORT else set())


def ports_of(store: Store) -> list[int]:
    """The ports that a run's page may have, its own one first."""
    digest = hashlib.sha256(store.files.address.encode()).digest()
    own = int.from_bytes(digest[:8], "big")
    return [PORTS[(own + step) % len(PORTS)] for step in range(NUM_PORTS_TRIED)]
