from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from miner import fetch, filesystems
from miner.errors import ShardError
from miner.fetch import ImageFetcher, ShardFile, read_image_bytes
from miner.samples import ShardReader
from miner.shards import Shard, checksum, list_shards
from tests.reading import KEYS, LIMITS, read
from tests.tars import BLOCK, good_tar, jpeg, put, shard_of


def test_fetcher_keeps_few_files_open(tmp_path: Path) -> None:
    tars = [shard_of(good_tar(), tmp_path, f"{number}.tar") for number in range(4)]
    with ImageFetcher(max_open=2) as fetcher:
        for shard in (*tars, *tars):
            assert fetcher.read(shard.url, "000.jpg", BLOCK, len(jpeg(0))) == jpeg(0)
            assert len(fetcher._open) <= 2
    assert not fetcher._open


def test_images_that_are_not_there(tmp_path: Path) -> None:
    shard = shard_of(good_tar(), tmp_path)
    with pytest.raises(ShardError, match=r"no 100 bytes at offset \d+, the file has"):
        read_image_bytes(shard.url, "", shard.num_bytes - 10, 100)
    for offset, num_bytes in ((2**63, 1), (0, 2**62), (-1, 2), (0, -1)):
        with pytest.raises(ShardError, match=r"the file has \d+; restore the file"):
            read_image_bytes(shard.url, "", offset, num_bytes)
    with ShardFile(shard.url) as file:
        os.truncate(shard.url, 100)
        with pytest.raises(ShardError, match=r"100 of 200 bytes came at offset 0"):
            file.read(0, 200)
    with pytest.raises(ShardError, match=r"opening failed \(FileNotFoundError"):
        read_image_bytes(str(tmp_path / "gone.tar"), "", 0, 1)
    for member_name in ("../a.jpg", "/etc/passwd", "a/../../b", ""):
        with pytest.raises(ShardError, match="leads out of the folder"):
            read_image_bytes(str(tmp_path), member_name, 0, 1)


def test_a_tar_of_any_case_and_a_tree_called_like_a_tar(tmp_path: Path) -> None:
    upper = shard_of(good_tar(), tmp_path, "00000.TAR")
    assert read_image_bytes(upper.url, "000.jpg", BLOCK, len(jpeg(0))) == jpeg(0)
    put(tmp_path / "birds.tar", "hen.jpg")
    (tree,) = list_shards([str(tmp_path / "birds.tar")])
    assert list(read(tree)[0]) == ["hen"]


def test_a_pipe_is_no_shard(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.tar")
    shard = Shard(dataset="d", stem="a", url=str(tmp_path / "a.tar"), num_bytes=0, modified="")
    with pytest.raises(ShardError, match="not a regular file"):
        checksum(shard)


class Server:
    """Files over HTTP on loopback, with ranges and, if asked for, failures."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.num_failures, self.num_requests, self.has_size = 0, 0, True
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: object) -> None:
                pass

            def do_HEAD(self) -> None:
                self.do_GET(has_body=False)

            def do_GET(self, has_body: bool = True) -> None:
                server.num_requests += 1
                data = server.files.get(self.path)
                status, first, last = 200, 0, len(data or b"") - 1
                if asked := self.headers.get("Range"):
                    first, last = (int(end) for end in asked.removeprefix("bytes=").split("-"))
                    status = 206
                body = (data or b"")[first : last + 1]
                if data is None:
                    status, body = 404, b""
                elif has_body and server.num_failures:
                    server.num_failures -= 1
                    status, body = 503, b""
                self.send_response(status)
                if server.has_size:
                    self.send_header("Content-Length", str(len(body)))
                self.send_header("ETag", '"tag"')
                self.send_header("Connection", "close")
                self.end_headers()
                if has_body:
                    self.wfile.write(body)

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(filesystems, "RETRY_WAIT_S", 0)
    server = Server()
    yield server
    server.close()


def test_shards_over_http(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "READAHEAD_BYTES", 4096)
    server.files = {f"/laion/0000{number}.tar": good_tar() for number in range(2)}
    first, second = list_shards([f"{server.url}/laion/{{00000..00001}}.tar"])
    assert (first.shard_id, first.modified, first.sidecar) == ("laion.00000", '"tag"', None)
    before = server.num_requests
    list(ShardReader(first, LIMITS))
    assert server.num_requests - before <= 2 + len(good_tar()) // 4096 + 1
    assert tuple(read(second)[0]) == KEYS


def test_passing_failures_are_survived_and_lasting_ones_named(server: Server) -> None:
    server.files = {"/laion/00000.tar": good_tar()}
    (shard,) = list_shards([f"{server.url}/laion/00000.tar"])
    server.num_failures = filesystems.MAX_ATTEMPTS - 1
    assert tuple(read(shard)[0]) == KEYS
    server.num_failures = 1000
    with pytest.raises(ShardError, match=r"00000\.tar: reading failed \(ClientResponseError: 503"):
        list(ShardReader(shard, LIMITS))


def test_a_server_that_does_not_tell_sizes(server: Server) -> None:
    server.files, server.has_size = {"/laion/00000.tar": good_tar()}, False
    with pytest.raises(ShardError, match="does not tell its size"):
        list_shards([f"{server.url}/laion/00000.tar"])


def test_nothing_at_a_url(server: Server) -> None:
    with pytest.raises(ShardError, match="nothing found"):
        list_shards([f"{server.url}/laion/00000.tar"])


def test_reading_in_order_takes_few_requests(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "READAHEAD_BYTES", 4096)
    data = good_tar()
    server.files = {"/laion/00000.tar": data}
    requests = []
    for in_order in (False, True):
        before = server.num_requests
        with ImageFetcher(in_order=in_order) as fetcher:
            for start in range(0, 4000, 400):
                url = f"{server.url}/laion/00000.tar"
                assert fetcher.read(url, "", start, 400) == data[start : start + 400]
        requests.append(server.num_requests - before)
    assert requests[0] >= 10
    assert requests[1] <= 4
