from __future__ import annotations

import obstore
import pytest

from miner.errors import ResourceError, ShardError, StoreError
from miner.object_files import ObjectFiles
from miner.object_reader import open_object
from miner.objects import is_object_url, open_bucket
from tests.breaking import Breaking
from tests.buckets import free_port, put


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


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (501, "knows no conditional requests: use S3"),
        (403, "access is denied .* AWS_ACCESS_KEY_ID"),
        (500, "see whether the storage can be reached .* run the same command again"),
    ],
)
def test_a_refused_commit_says_what_to_do(server: Breaking, status: int, message: str) -> None:
    server.status = status
    with pytest.raises(StoreError, match=message):
        ObjectFiles("s3://bucket/run").put("commit.json", b"{}")


def test_what_is_public_is_asked_for_without_a_signature(
    monkeypatch: pytest.MonkeyPatch, server: Breaking
) -> None:
    assert open_object("s3://bucket/a.tar").read(0, 3) == b"\0\1\2"
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    assert open_object("s3://bucket/a.tar").read(0, 3) == b"\0\1\2"
    assert server.signed == [True, False]


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
