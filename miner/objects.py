"""Buckets on S3 and Google Cloud Storage: how to reach them, and what goes wrong there.

Endpoint and credentials come from the usual environment: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY,
AWS_SESSION_TOKEN, AWS_REGION and AWS_ENDPOINT_URL (for MinIO and its like), or
GOOGLE_APPLICATION_CREDENTIALS; or from the role of the machine. Every request has an end: it is
tried again, with growing pauses, for a minute at most.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from miner.errors import ResourceError, ShardError, StoreError

if TYPE_CHECKING:
    from obstore.store import (
        ClientConfig,
        GCSStore,
        RetryConfig,
        S3CredentialProvider,
        S3Store,
    )

SCHEMES = ("s3", "s3a", "gs", "gcs")

_SETTINGS = ("AWS_", "GOOGLE_", "HTTP", "NO_PROXY", "http", "no_proxy")
"""How variables begin on which it depends how a bucket is reached."""

_ANSWERED = {"AWS_ACCESS_KEY_ID", "AWS_SKIP_SIGNATURE"}
"""Variables that say with what a bucket is opened, so that no profile is looked for."""

MAX_RETRIES = 6
RETRY_FOR_S = 60
"""A request is tried again so often, and for so long at most, in seconds."""

STALLED_S = 30
"""A connection on which nothing comes for so long is given up and made anew, in seconds."""

ROLE_SERVERS = ("169.254.169.254", "169.254.170.2", "/latest/", "metadata.google.internal")
"""What is asked for a machine's role where the environment has no credentials."""

NO_BUCKET = "create it, or see to the URL"
"""What to do where a bucket is not there."""


def is_object_url(url: object) -> bool:
    """Whether it is the URL of an object, or of a folder of objects."""
    return isinstance(url, str) and url.partition("://")[0] in SCHEMES and "://" in url


def open_bucket(url: str) -> S3Store | GCSStore:
    """A bucket, or a folder in one; nothing is asked of it yet.

    Args:
        url: as `s3://bucket/folder`.

    Raises:
        ResourceError: it names no bucket, or the environment's settings contradict each other.
    """
    if not urlsplit(url).netloc:
        raise ResourceError(f"{url} names no bucket; give a URL like s3://bucket/folder")
    settings = ((name, os.environ[name]) for name in os.environ if name.startswith(_SETTINGS))
    return _open_bucket(url, tuple(sorted(settings)))


@lru_cache(maxsize=64)
def _open_bucket(url: str, settings: tuple[tuple[str, str], ...]) -> S3Store | GCSStore:
    """The same bucket for the same environment, so that connections are used again."""
    import obstore.exceptions
    from obstore.store import GCSStore, S3Store

    given = dict(settings)
    endpoint = given.get("AWS_ENDPOINT_URL_S3") or given.get("AWS_ENDPOINT_URL") or ""
    client: ClientConfig = {
        "connect_timeout": "5s",
        "read_timeout": f"{STALLED_S}s",
        "timeout": "10m",
        # Only where the user's own endpoint is not encrypted either.
        "allow_http": endpoint.startswith("http://"),
    }
    retry: RetryConfig = {
        "max_retries": MAX_RETRIES,
        "retry_timeout": timedelta(seconds=RETRY_FOR_S),
        "backoff": {
            "init_backoff": timedelta(milliseconds=200),
            "max_backoff": timedelta(seconds=8),
            "base": 2,
        },
    }
    try:
        if url.startswith(("gs://", "gcs://")):
            url = f"gs://{url.partition('://')[2]}"
            return GCSStore.from_url(url, client_options=client, retry_config=retry)
        return S3Store.from_url(
            url,
            client_options=client,
            retry_config=retry,
            credential_provider=None if _ANSWERED & given.keys() else _profile(),
        )
    except (obstore.exceptions.BaseError, ValueError) as error:
        raise ResourceError(
            f"{url} cannot be opened ({_first_line(error)}); see to the URL and the variables "
            f"{_variables(url)}"
        ) from error


def _profile() -> S3CredentialProvider | None:
    """Credentials from ~/.aws or a sign-on, where boto3 is installed and finds some."""
    try:
        import boto3
    except ImportError:
        return None
    from obstore.auth.boto3 import Boto3CredentialProvider

    session = boto3.Session()
    return Boto3CredentialProvider(session) if session.get_credentials() else None


@contextmanager
def explained(url: str, raised: type[ShardError] | type[StoreError]) -> Iterator[None]:
    """The one border where errors of object storage become ours.

    What is an answer, and no error, passes: FileNotFoundError, AlreadyExistsError and
    PreconditionError.

    Args:
        url: what is asked for.
        raised: the error's type.
    """
    import obstore.exceptions as said

    try:
        yield
    except FileNotFoundError as error:
        if not _names_no_bucket(error):
            raise FileNotFoundError(f"{url} is not there") from error
        raise raised(f"{url}: there is no such bucket; {NO_BUCKET}") from error
    except (said.AlreadyExistsError, said.PreconditionError):
        raise
    except (said.PermissionDeniedError, said.UnauthenticatedError) as error:
        raise raised(
            f"{url}: access is denied ({_first_line(error)}); give credentials that may read and "
            f"write there in {_variables(url)}"
        ) from error
    except (said.BaseError, TimeoutError) as error:
        if _names_no_bucket(error):
            raise raised(f"{url}: there is no such bucket; {NO_BUCKET}") from error
        raise raised(f"{url}: {_first_line(error)}; {_advice(url, str(error))}") from error


def _names_no_bucket(error: Exception) -> bool:
    return "NoSuchBucket" in str(error) or "bucket does not exist" in str(error)


def _advice(url: str, text: str) -> str:
    if any(place in text for place in ROLE_SERVERS):
        return f"there are no credentials: set {_variables(url)}, or give the machine a role"
    if "InvalidAccessKeyId" in text or "SignatureDoesNotMatch" in text:
        return f"the credentials are wrong: see to {_variables(url)}"
    if "501 Not Implemented" in text:
        return "the storage knows no conditional requests: use S3, Google Cloud Storage or MinIO"
    return (
        f"see whether the storage can be reached (and {_variables(url)}), then run the same "
        "command again"
    )


def _variables(url: str) -> str:
    if url.startswith(("gs://", "gcs://")):
        return "GOOGLE_APPLICATION_CREDENTIALS"
    return "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION and AWS_ENDPOINT_URL"


def _first_line(error: Exception) -> str:
    """What an error says, without the tree of its causes."""
    text = str(error).partition("\n")[0].strip()
    return text.partition(" - HTTP error")[0] or type(error).__name__
