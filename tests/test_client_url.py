"""URLs of services: what is none is refused before anything connects, and without its secrets."""

from __future__ import annotations

import pytest

from miner.client_url import base_of, check_service_url, query_of


@pytest.mark.parametrize(
    "url",
    [
        "ftp://a",
        "127.0.0.1:8000",
        "http://",
        "http://me:pass@a",
        "http://a?b=pass",
        "http://a#b",
        "http://a:99999",
        "http://a:0",
        "http://a:pass",
        "http://[::1",
        "http://[me:pass@::1",
        "http://a..b",
        f"http://{'a' * 64}.b",
        "http://a b",
        "http://a\r\nX: y",
        "http://\u00e4",
        "http://a\\b",
    ],
)
def test_other_urls_are_refused_without_their_secrets(url: str) -> None:
    with pytest.raises(ValueError, match="http://HOST:PORT or https://HOST") as info:
        check_service_url(url)
    if "@" in url or "?" in url:
        assert "pass" not in str(info.value)


@pytest.mark.parametrize(
    "url", ["http://a", "HTTPS://a.b:8443/", "http://[::1]:8000", "http://127.0.0.1:8000/under/it"]
)
def test_urls_of_services_pass(url: str) -> None:
    check_service_url(url)


@pytest.mark.parametrize("url", ["http://a:1", "http://a:1/", "http://a:1/v1", "http://a:1/v1/"])
def test_paths_begin_before_the_version(url: str) -> None:
    assert base_of(url) == "http://a:1"


def test_a_query_is_written_as_the_service_reads_it() -> None:
    assert query_of(None) == query_of({}) == ""
    assert query_of({"a": "x y&z", "b": True, "c": 0.5}) == "?a=x+y%26z&b=true&c=0.5"
