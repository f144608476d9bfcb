"""The URL of a service as a client is given it, and the query of a call."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlencode, urlsplit

from miner.urls import shown


def check_service_url(url: str) -> None:
    """Refuse what is no URL of a service.

    Raises:
        ValueError: it is none; what may be a secret in it is not repeated.
    """
    try:
        seen = shown(url)
        parts = urlsplit(url)
        is_good = (
            parts.scheme in ("http", "https")
            and bool((parts.hostname or "").encode("idna"))
            and parts.port != 0
            and url.isascii()
            and url.isprintable()
            and not any(char in url for char in " @?#\\")
        )
    except ValueError:
        # It cannot be taken apart, so that nobody knows what of it is secret.
        seen, is_good = "the URL that was given", False
    if not is_good:
        raise ValueError(
            f"{seen}: the URL of a service is http://HOST:PORT or https://HOST, without "
            "user or query; a token is given as `token`"
        )


def base_of(url: str) -> str:
    """Where the paths of a service begin: without a slash, or the `v1` that other clients want."""
    return url.rstrip("/").removesuffix("/v1").rstrip("/")


def query_of(params: Mapping[str, object] | None) -> str:
    """Parameters behind their question mark; the service knows `true` and `false`."""
    words = {
        name: str(value).lower() if isinstance(value, bool) else value
        for name, value in (params or {}).items()
    }
    return f"?{urlencode(words)}" if words else ""
