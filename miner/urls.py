"""URLs without what only their owner should know: for logs, messages and what a run remembers."""

from __future__ import annotations

import re
from urllib.parse import urlsplit, urlunsplit

_URL = re.compile(r"\b(?:https?|s3|gs|hf)://[^\s'\"<>]+", re.IGNORECASE)
_SECRET = re.compile(
    r"[^=&;]*(?:sig|token|credential|secret|password|key|auth)[^=&;]*=", re.IGNORECASE
)


def shown(url: str) -> str:
    """A URL without user, password and query; its fragment (a sha256) and all paths stay."""
    if "://" not in url:
        return url
    parts = urlsplit(url)
    netloc = parts.netloc.rpartition("@")[2]
    query = parts.query if parts.scheme.lower() not in ("http", "https") else ""
    return urlunsplit(parts._replace(netloc=netloc, query=query))


def without_secrets(text: str) -> str:
    """A text in which every URL is as `shown`."""
    return _URL.sub(lambda found: shown(found[0]), text)


def check_has_no_secret(url: str) -> None:
    """Refuse a URL that cannot be written down: tables name the shard of every image.

    Raises:
        ValueError: it has a user or password, or a query with a signature or a token.
    """
    if "://" not in url:
        return
    parts = urlsplit(url)
    if "@" in parts.netloc:
        raise ValueError(
            f"{shown(url)}: a user or password in the URL of a shard would be written into tables "
            "and logs; leave it out, and give it by the environment (~/.netrc, AWS_PROFILE, "
            "HF_TOKEN)"
        )
    if parts.scheme.lower() in ("http", "https") and _SECRET.search(parts.query):
        raise ValueError(
            f"{shown(url)}: a signature or token in the URL of a shard would be written into "
            "tables and logs, and ends before the images are read again; give s3:// or gs:// with "
            "the environment's credentials, or download the shard"
        )
