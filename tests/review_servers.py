"""Review servers that answer, and requests to them as a page or an enemy sends them."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from miner.reviewing.server import ReviewServer
from miner.store import Store
from tests.review_runs import Run

JSON_LINES = "application/x-ndjson"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a request got."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, kw_only=True)
class Served:
    """A running server, its run and the join's folder."""

    server: ReviewServer
    store: Store
    folder: Path

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def ask(
        self, path: str, *, method: str = "GET", body: bytes | None = None, **headers: str
    ) -> Answer:
        """Ask for a path below the token, or for `=target` as it stands."""
        target = path[1:] if path.startswith("=") else f"/{self.server.token}/{path}"
        connection = http.client.HTTPConnection("127.0.0.1", self.server.server_port, timeout=30)
        try:
            sent = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, target, body, sent)
            answer = connection.getresponse()
            return Answer(
                status=answer.status, headers=dict(answer.getheaders()), body=answer.read()
            )
        finally:
            connection.close()

    def save(self, body: bytes, **headers: str) -> Answer:
        """Save decisions as the page does."""
        sent = {"Origin": self.origin, "Content_Type": JSON_LINES, **headers}
        return self.ask("review.jsonl", method="POST", body=body, **sent)


@contextmanager
def listening(store: Store, folder: Path) -> Iterator[ReviewServer]:
    """A server of a join's report that answers in a thread."""
    with ReviewServer(store, folder.name) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def serving(store: Store, folder: Path) -> Iterator[Served]:
    """The same, with its run."""
    with listening(store, folder) as server:
        yield Served(server=server, store=store, folder=folder)


@pytest.fixture(scope="module")
def module_served(served_run: Run) -> Iterator[Served]:
    """The run of three pairs, served."""
    with serving(*served_run) as served:
        yield served


@pytest.fixture
def served(module_served: Served) -> Served:
    """The same, nothing decided yet."""
    module_served.store.files.delete_folder("review")
    return module_served
