"""A mined run and a service over it, real and small, for tests of the service."""

from __future__ import annotations

import asyncio
import tarfile
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from miner.config import MineSettings
from miner.store import Store
from tests.small import jpeg, write_tar

TOKEN = "a-token-of-some-length"

DEMO = {"clip": "demo-clip", "dino": "demo-dino"}


def settings_of(**more: Any) -> Any:
    """Settings of a service with the bundled encoders, and a decoder that starts at once."""
    from pipelines.serving.settings import ServeSettings

    return ServeSettings(**{**DEMO, "decoders": "thread", "num_decoders": 1, "port": 0, **more})


@dataclass(frozen=True, kw_only=True)
class Live:
    """A service that listens."""

    url: str
    app: Any
    server: Any

    def client(self, **more: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60, **more)


@contextmanager
def listening(settings: Any) -> Iterator[Live]:
    """A service behind a real socket on loopback, in a thread of this process."""
    from pipelines.serve import create_app
    from pipelines.serving.server import make_server

    app = create_app(settings)
    server = make_server(app, settings)
    thread = threading.Thread(target=server.run, name="service")
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        host, port = server.servers[0].sockets[0].getsockname()[:2]
        yield Live(url=f"http://{host}:{port}", app=app, server=server)
    finally:
        server.should_exit = True
        thread.join()


@asynccontextmanager
async def called(settings: Any, **more: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a service without a socket; `client.app` is the app."""
    from pipelines.serve import create_app

    app = create_app(settings)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with app.router.lifespan_context(app):
        url = "http://127.0.0.1"
        async with httpx.AsyncClient(transport=transport, base_url=url, **more) as client:
            client.app = app  # type: ignore[attr-defined]
            yield client


async def until(condition: Any) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


def write_scenes(folder: Path) -> None:
    """Shards of demo scenes, and a last one with copies of some, and a caption to be feared."""
    from pipelines.scene_shards import write_shards

    write_shards(folder, num_scenes=100, seed=5, shard_size=50)
    with tarfile.open(folder / "00000.tar") as tar:
        members = [m for m in tar.getmembers() if m.name.endswith(".jpg")][:12]
        scenes = [tar.extractfile(member).read() for member in members]  # type: ignore[union-attr]
    copies = [(f"copy{number:03d}.jpg", data) for number, data in enumerate(scenes)]
    hostile = [("zz.jpg", jpeg(1)), ("zz.txt", b"<script>alert(1)</script> =1+1")]
    write_tar(folder / "00002.tar", [*copies, *hostile])


@pytest.fixture(scope="session")
def index(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A run over scenes with copies, mined with the bundled encoders; it has many pairs."""
    from miner.report import write_report
    from pipelines.driver import mine

    folder = tmp_path_factory.mktemp("served")
    write_scenes(folder / "scenes")
    settings = MineSettings(
        **DEMO, clip_above=0.8, dino_below=0.9, decoders="thread", max_per_image=None, device="cpu"
    )
    _, record = mine([str(folder / "scenes")], folder / "run", settings)
    store = Store(folder / "run")
    write_report(store, record["name"], limit=20)
    return store


@pytest.fixture(scope="session")
def live(index: Store) -> Iterator[Live]:
    """A service over that run, with decode processes, behind a socket."""
    settings = settings_of(index=str(index.root), clip=None, dino=None, decoders="process")
    with listening(settings) as found:
        yield found


class Held:
    """A decoder that waits until it is let go."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.num_begun = 0

    def __call__(self, order: Any, ring: Any, limits: Any) -> Any:
        from miner.decode import decode_order

        self.num_begun += 1
        # The service's own first image passes.
        if self.num_begun > 1:
            assert self.go.wait(60)
        return decode_order(order, ring, limits)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Held:
    """Images stay in the decoder until `go` is set."""
    from pipelines.serving import batcher

    found = Held()
    real = batcher.Decoders
    monkeypatch.setattr(
        batcher, "Decoders", lambda *args, decode, **more: real(*args, decode=found, **more)
    )
    return found
