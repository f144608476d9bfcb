from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import obstore
import pytest

from miner import objects
from miner.errors import ResourceError, ShardError
from miner.fetch import ShardFile
from miner.objects import ObjectFile, is_object_url, open_bucket, open_object
from tests.buckets import free_port, put, reach

DATA = bytes(range(256)) * 4096


class Breaking(ThreadingHTTPServer):
    """One object over S3's protocol, on connections that break."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.etag, self.sends, self.status = '"one"', [len(DATA)], 206
        self.ranges: list[str] = []

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
    monkeypatch.setattr(objects, "RETRY_WAIT_S", 0.001)
    monkeypatch.setattr(objects, "MAX_RETRIES", 0)
    with Breaking() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        reach(monkeypatch, f"http://127.0.0.1:{server.server_address[1]}")
        yield server
        server.shutdown()
        thread.join()


def test_a_read_goes_on_where_its_connection_broke(server: Breaking) -> None:
    server.sends = [200_000, 300_000, 0, 0, len(DATA)]
    with ShardFile("s3://bucket/a.tar", in_order=False) as file:
        assert file.num_bytes == len(DATA)
        assert file.read(0, len(DATA)) == DATA
    starts = [int(asked.removeprefix("bytes=").split("-")[0]) for asked in server.ranges]
    assert starts[0] == 0
    assert 0 < starts[1] <= 200_000 < starts[-1] <= 500_000
    assert starts == sorted(starts)


def test_a_connection_that_brings_nothing_is_given_up(server: Breaking) -> None:
    server.sends = [0]
    with pytest.raises(ShardError, match=r"s3://bucket/a.tar: .*run the same command again"):
        open_object("s3://bucket/a.tar").read(0, 10)
    assert len(server.ranges) == 1 + objects.MAX_FAILURES


def test_an_object_that_changes_while_it_is_read_is_refused(server: Breaking) -> None:
    file = ShardFile("s3://bucket/a.tar")
    assert file.read(0, 10) == DATA[:10]
    server.etag = '"two"'
    with ShardFile("s3://bucket/a.tar", in_order=False) as fresh:
        assert fresh.read(5, 10) == DATA[5:15]
    one = open_object("s3://bucket/a.tar")
    server.etag = '"three"'
    number = len(server.ranges)
    with pytest.raises(ShardError, match="was changed while it was read; restore it"):
        one.read(0, 10)
    assert len(server.ranges) == number + 1


@pytest.mark.parametrize(
    ("status", "message"),
    [(403, "access is denied .* give credentials that may read"), (503, "see whether the storage")],
)
def test_refusals_say_what_to_do(server: Breaking, status: int, message: str) -> None:
    reader = open_object("s3://bucket/a.tar")
    server.status = status
    with pytest.raises(ShardError, match=message):
        reader.read(0, 10)


def test_shards_are_read_ahead_in_order(server: Breaking) -> None:
    with ShardFile("s3://bucket/a.tar") as file:
        parts = [file.read(offset, 512) for offset in range(0, len(DATA), 512)]
    assert b"".join(parts) == DATA
    assert len(server.ranges) == 1


def test_an_object_is_a_file(s3: str) -> None:
    put(f"{s3}/a b/c.tar", DATA)
    file = ObjectFile(open_object(f"{s3}/a b/c.tar"))
    assert (file.readable(), file.seekable()) == (True, True)
    assert file.seek(-10, 2) == len(DATA) - 10
    assert file.read(100) == DATA[-10:]
    assert file.read(100) == b""
    file.seek(4)
    assert file.seek(1, 1) == file.tell() == 5
    assert file.read(3) == DATA[5:8]
    with pytest.raises(FileNotFoundError, match=r"nope.tar is not there"):
        open_object(f"{s3}/nope.tar")


def test_urls_of_objects() -> None:
    assert is_object_url("s3://a")
    assert is_object_url("gs://a/b")
    assert not is_object_url("/a")
    assert not is_object_url("s3")
    assert not is_object_url("https://a/b")
    assert not is_object_url(None)


def test_what_names_no_bucket() -> None:
    for url in ("s3://", "gs:///run"):
        with pytest.raises(ResourceError, match="names no bucket; give a URL like s3://bucket"):
            open_bucket(url)


def test_settings_that_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_CONDITIONAL_PUT", "nonsense")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    with pytest.raises(ResourceError, match=r"cannot be opened .* AWS_ACCESS_KEY_ID"):
        open_bucket("s3://bucket/nonsense")


def test_without_credentials_it_says_which_to_give(
    monkeypatch: pytest.MonkeyPatch, server: Breaking
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    # Where a machine with a role would be asked; nobody listens there.
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(ShardError, match="no credentials: set AWS_ACCESS_KEY_ID"):
        open_object("s3://bucket/a.tar")


def test_a_profile_of_the_user_is_found(
    monkeypatch: pytest.MonkeyPatch, s3: str, tmp_path: object
) -> None:
    put(f"{s3}/a", b"data")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with open(f"{tmp_path}/credentials", "w") as file:
        file.write("[default]\naws_access_key_id = k\naws_secret_access_key = s\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", f"{tmp_path}/credentials")
    assert open_object(f"{s3}/a").read(0, 10) == b"data"


def test_google_clouds_urls_are_opened(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    with open(f"{tmp_path}/account.json", "w") as file:
        file.write('{"gcs_base_url": "http://127.0.0.1:1", "disable_oauth": true,')
        file.write('"client_email": "", "private_key": "", "private_key_id": ""}')
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT", f"{tmp_path}/account.json")
    for scheme in ("gs", "gcs"):
        bucket = open_bucket(f"{scheme}://bucket/folder")
        assert isinstance(bucket, obstore.store.GCSStore)
        assert bucket.prefix == "folder"
