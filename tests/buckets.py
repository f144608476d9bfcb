"""A server that speaks S3, on loopback, in a process of its own."""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import obstore
import pytest

from miner.objects import open_bucket

_NUMBERS = itertools.count()


def put(url: str, data: bytes) -> None:
    """Write an object."""
    bucket, _, path = url.removeprefix("s3://").partition("/")
    obstore.put(open_bucket(f"s3://{bucket}"), path, data)


def upload(folder: Path, url: str) -> None:
    """Write the files of a folder."""
    for path in folder.rglob("*"):
        if path.is_file():
            put(f"{url}/{path.relative_to(folder).as_posix()}", path.read_bytes())


def objects(url: str) -> dict[str, bytes]:
    """All objects below a URL, by their paths there."""
    bucket = open_bucket(url)
    metas = [meta for chunk in obstore.list(bucket) for meta in chunk]
    return {meta["path"]: bytes(obstore.get(bucket, meta["path"]).bytes()) for meta in metas}


def free_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The URL of a server that begins empty."""
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.s3_server", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        while True:
            assert server.poll() is None, "the S3 server ended"
            try:
                with urllib.request.urlopen(url, timeout=5):
                    break
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(0.05)
        yield url
    finally:
        server.kill()
        server.wait()


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a new bucket; the environment says how to reach it."""
    reach(monkeypatch, s3_server)
    name = f"bucket-{os.getpid()}-{next(_NUMBERS)}"
    request = urllib.request.Request(f"{s3_server}/{name}", method="PUT")
    with urllib.request.urlopen(request, timeout=30):
        return f"s3://{name}"


def reach(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    """Let the environment name an endpoint."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_REGION", "us-east-1")


__all__ = ["objects", "put", "reach", "s3", "s3_server", "upload"]
