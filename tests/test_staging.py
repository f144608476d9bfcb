from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from miner import staging
from miner.errors import ResourceError
from miner.fetch import ShardFile
from miner.staging import staged
from pipelines.driver import command_of
from tests.buckets import free_port, put, s3, s3_server

__all__ = ["s3", "s3_server"]

DATA = bytes(range(256)) * 9000
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def url() -> Iterator[str]:
    """A remote file."""
    url = "memory://weights/clip%201.safetensors"
    with fsspec.open(url, "wb") as file:
        file.write(DATA)
    yield url
    fsspec.filesystem("memory").rm("/weights", recursive=True)


def test_a_path_is_taken_as_it_is() -> None:
    assert staged("no/such file") == Path("no/such file")


@pytest.mark.parametrize("where", ["memory://weights/a", "weights#sha256=12", "s3://a#sha256=zz"])
def test_a_url_without_a_hash(where: str) -> None:
    with pytest.raises(ResourceError, match="a URL is only taken with the sha256 of its bytes"):
        staged(where)


def test_a_url_is_fetched_once(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache"
    path = staged(f"{url}#sha256={SHA256.upper()}", cache)
    assert path.read_bytes() == DATA
    assert (path.parent.name, path.suffix) == (SHA256, ".safetensors")
    monkeypatch.setattr(staging, "_fetch", pytest.fail)
    assert staged(f"{url}#sha256={SHA256}", cache) == path
    assert list((cache / "unfinished").iterdir()) == []
    assert cache.stat().st_mode & 0o777 == 0o700


def test_the_users_own_cache_is_the_default(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    path = staged(f"{url}#sha256={SHA256}")
    assert path.is_relative_to(tmp_path / ".cache" / "blindpairs" / "staged")


def test_other_bytes_are_refused_and_not_kept(url: str, tmp_path: Path) -> None:
    wanted = "0" * 64
    with pytest.raises(ResourceError, match=f"has sha256 {SHA256}, asked for is {wanted}"):
        staged(f"{url}#sha256={wanted}", tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size] == []


def test_a_local_file_is_checked_where_it_has_a_hash(tmp_path: Path) -> None:
    path = tmp_path / "clip.safetensors"
    path.write_bytes(DATA)
    assert staged(f"{path}#sha256={SHA256}") == path
    assert staged(f"file://{path}#sha256={SHA256}", tmp_path / "cache").read_bytes() == DATA
    path.write_bytes(DATA[1:])
    found = hashlib.sha256(DATA[1:]).hexdigest()
    with pytest.raises(ResourceError, match=f"has sha256 {found}, asked for is {SHA256}"):
        staged(f"{path}#sha256={SHA256}")
    with pytest.raises(ResourceError, match="there is no such file; mend the path"):
        staged(f"{path}x#sha256={SHA256}")


def test_a_changed_file_of_the_cache_is_fetched_anew(url: str, tmp_path: Path) -> None:
    path = staged(f"{url}#sha256={SHA256}", tmp_path)
    path.write_bytes(b"cut")
    assert staged(f"{url}#sha256={SHA256}", tmp_path).read_bytes() == DATA


def test_what_cannot_be_fetched(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match=r"cannot be fetched: memory://nothing/here: opening"):
        staged(f"memory://nothing/here#sha256={SHA256}", tmp_path)


def test_a_signature_is_told_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    url = f"http://me:hush@127.0.0.1:{free_port()}/clip.safetensors?X-Amz-Signature=hush"
    with (
        caplog.at_level(logging.DEBUG, "miner"),
        pytest.raises(ResourceError, match="give a signed one again to `blindpairs mine`") as error,
    ):
        staged(f"{url}#sha256={SHA256}", tmp_path)
    with pytest.raises(ResourceError, match="a URL is only taken with the sha256") as unhashed:
        staged(url, tmp_path)
    assert "fetching http://127.0.0.1:" in caplog.text
    assert "hush" not in caplog.text + str(error.value) + str(unhashed.value)
    settings = {"clip_weights": f"{url}#sha256={SHA256}", "batch_size": 3}
    kept = command_of("mine", settings)["settings"]
    assert kept["batch_size"] == 3
    assert kept["clip_weights"].endswith(f"/clip.safetensors#sha256={SHA256}")
    assert "hush" not in kept["clip_weights"]


def test_of_many_that_want_a_file_one_fetches_it(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one to fetch is held until the others wait for its lock."""
    waiting, opened = threading.Semaphore(0), []
    original = ShardFile.__init__

    def opening(self: ShardFile, url: str, **kwargs: bool) -> None:
        opened.append(url)
        for _ in range(3):
            assert waiting.acquire(timeout=60)
        original(self, url, **kwargs)

    def warn(message: str, *_: object) -> None:
        if "another process fetches" in message:
            waiting.release()

    monkeypatch.setattr(ShardFile, "__init__", opening)
    monkeypatch.setattr(staging.log, "warning", warn)
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda: found.append(staged(f"{url}#sha256={SHA256}", tmp_path)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert opened == [url]
    assert len(found) == 4
    assert {path.read_bytes() for path in found} == {DATA}


def test_a_file_in_a_bucket(s3: str, tmp_path: Path) -> None:
    put(f"{s3}/weights/clip.safetensors", DATA)
    url = f"{s3}/weights/clip.safetensors"
    path = staged(f"{url}#sha256={SHA256}", tmp_path)
    assert path == tmp_path / SHA256 / "clip.safetensors"
    assert path.read_bytes() == DATA
    with pytest.raises(ResourceError, match=f"cannot be fetched: {s3}/weights/none"):
        staged(f"{s3}/weights/none#sha256={'1' * 64}", tmp_path)
