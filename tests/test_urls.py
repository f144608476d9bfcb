import pytest

from miner.shards import list_shards
from miner.urls import shown, without_secrets


@pytest.mark.parametrize(
    ("url", "safe"),
    [
        ("/data/a?b@c.tar", "/data/a?b@c.tar"),
        ("s3://bucket/a?b@c.tar", "s3://bucket/a?b@c.tar"),
        ("https://me:pw@host:80/a%20b.tar", "https://host:80/a%20b.tar"),
        ("https://host/w.bin?X-Amz-Signature=abc#sha256=12", "https://host/w.bin#sha256=12"),
        ("hf://datasets/o/n@main/{0..3}.tar", "hf://datasets/o/n@main/{0..3}.tar"),
    ],
)
def test_what_is_shown_of_a_url(url: str, safe: str) -> None:
    assert shown(url) == safe
    assert without_secrets(f"403 at url='{url}', twice") == f"403 at url='{safe}', twice"


def test_shards_whose_urls_are_secret_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^https://host/0\.tar: a user or password in the URL"):
        list_shards(["https://me:pw@host/0.tar"])
    for query in ("X-Amz-Expires=9&X-Amz-Signature=abc", "sv=1&sig=abc", "token=abc"):
        with pytest.raises(ValueError, match="a signature or token in the URL") as error:
            list_shards([f"https://host/{{0..3}}.tar?{query}"])
        assert "abc" not in str(error.value)
