"""An S3 server of one object, on connections that break."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from miner import object_reader, objects
from tests.buckets import reach

DATA = bytes(range(256)) * 4096


class Breaking(ThreadingHTTPServer):
    """One object over S3's protocol, on connections that break."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.etag, self.sends, self.status = '"one"', [len(DATA)], 206
        self.ranges: list[str] = []
        self.signed: list[bool] = []

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is part of the plan."""


class _Handler(BaseHTTPRequestHandler):
    server: Breaking
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(200, len(DATA))

    def do_GET(self) -> None:
        asked = self.headers["Range"]
        self.server.ranges.append(asked)
        self.server.signed.append("Authorization" in self.headers)
        if self.headers["If-Match"] not in (None, self.server.etag):
            return self._answer(412, 0)
        if self.server.status != 206:
            return self._answer(self.server.status, 0)
        start, stop = (int(part) for part in asked.removeprefix("bytes=").split("-"))
        self._answer(206, stop + 1 - start, f"bytes {start}-{stop}/{len(DATA)}")
        sent = self.server.sends.pop(0) if len(self.server.sends) > 1 else self.server.sends[0]
        self.wfile.write(DATA[start : stop + 1][:sent])
        self.wfile.flush()
        self.close_connection = sent < stop + 1 - start
        return None

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(self.server.status, 0)

    def _answer(self, status: int, length: int, content_range: str | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        self.send_header("ETag", self.server.etag)
        self.send_header("Last-Modified", "Sat, 21 Nov 2026 10:00:00 GMT")
        if content_range:
            self.send_header("Content-Range", content_range)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Breaking]:
    monkeypatch.setattr(object_reader, "RETRY_WAIT_S", 0.001)
    monkeypatch.setattr(objects, "MAX_RETRIES", 0)
    with Breaking() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        reach(monkeypatch, f"http://127.0.0.1:{server.server_address[1]}")
        yield server
        server.shutdown()
        thread.join()
