"""What lies at a path or a URL: its filesystem, patterns, look-ups and listings, with retries."""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar
from urllib.parse import urlsplit

import aiohttp
import fsspec
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential
from webdataset.shardlists import expand_urls

from miner.bucket_listing import BucketListing
from miner.errors import MinerError, ResourceError, ShardError
from miner.objects import SCHEMES
from miner.urls import without_secrets

T = TypeVar("T")

MAX_ATTEMPTS = 4
RETRY_WAIT_S = 0.25
"""Wait before the first retry of a remote read, in seconds; it doubles each time."""

_PROTOCOLS = (*SCHEMES, "file", "hf", "http", "https", "memory")
_MODIFIED = (
    *("ETag", "etag", "Last-Modified", "LastModified", "last_modified", "mtime", "updated"),
    *("blob_id", "created"),
)


def expand(pattern: str) -> list[str]:
    """Expand braces as webdataset does, without its shell, its chains and its environment.

    Raises:
        ValueError: the pattern is empty, its braces have no pairs, or it asks for one of these.
        ShardError: it is not UTF-8.
    """
    for refused, why in (
        ("pipe:", "would run a shell"),
        ("|", "would run a shell"),
        ("::", "chains URLs"),
        ("${", "reads the environment"),
    ):
        if refused in pattern:
            raise ValueError(f"{pattern}: {refused!r} {why}, which is not supported; give URLs")
    if not pattern:
        raise ValueError("a shard pattern is empty; give a tar, a folder, a pattern or a URL")
    check_is_utf8(pattern)
    if "://" not in pattern and os.path.exists(pattern):
        return [pattern]
    try:
        return [str(url) for url in expand_urls(pattern)]
    except ValueError as error:
        raise ValueError(
            f"{pattern}: {error}; braces come in pairs, as in {{0000..0099}}"
        ) from error


def check_is_utf8(url: str) -> None:
    """Refuse what no table can hold.

    Raises:
        ShardError: the path is not UTF-8.
    """
    try:
        url.encode()
    except UnicodeEncodeError as error:
        raise ShardError(f"{url!r}: the path is not UTF-8; rename it") from error


def filesystem(url: str) -> tuple[Any, str]:
    """The fsspec filesystem and the path on it that a URL means."""
    scheme = url.split("://", 1)[0] if "://" in url else "file"
    if scheme not in _PROTOCOLS:
        raise ValueError(f"{url}: scheme {scheme}:// is not one of {', '.join(_PROTOCOLS)}")
    if scheme in SCHEMES:
        return BucketListing(scheme), url.partition("://")[2].rstrip("/")
    try:
        fs, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise ResourceError(
            f'{url}: the driver for {scheme}:// is missing; pip install "blindpairs"'
        ) from error
    return fs, path


def retried(url: str, what: str, action: Callable[[], T]) -> T:
    """Do something on a filesystem; the one border where its exceptions become ours."""
    attempts = 1 if is_local_url(url) else MAX_ATTEMPTS
    try:
        return Retrying(
            stop=stop_after_attempt(attempts),
            wait=wait_exponential(multiplier=RETRY_WAIT_S, max=8),
            retry=retry_if_exception(_is_transient),
            reraise=True,
        )(action)
    except MinerError:
        raise
    except Exception as error:
        # Drivers have exception trees of their own, which only they know.
        raise ShardError(
            without_secrets(f"{url}: {what} failed ({type(error).__name__}: {error})")
            + "; check that it is there and may be read, then run the same command again"
        ) from error


def _is_transient(error: BaseException) -> bool:
    if isinstance(error, aiohttp.ClientResponseError):
        return error.status >= 500 or error.status == 429
    lasting = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
    return isinstance(error, OSError | aiohttp.ClientError) and not isinstance(error, lasting)


def look_up(fs: Any, url: str, path: str) -> Mapping[str, Any] | None:
    """What the filesystem says about a path; None where there is nothing."""

    def look() -> Mapping[str, Any] | None:
        try:
            info: Mapping[str, Any] = fs.info(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except aiohttp.ClientResponseError as error:
            # Public buckets answer 403 for what does not exist.
            if error.status in (403, 404, 410):
                return None
            raise
        return info

    return retried(url, "looking it up", look)


def matches(fs: Any, url: str, path: str) -> Mapping[str, Mapping[str, Any]]:
    """What a pattern matches, by path; local links are followed, but for `**` into folders."""

    def match() -> Mapping[str, Mapping[str, Any]]:
        if not is_local_url(url):
            found: Mapping[str, Mapping[str, Any]] = fs.glob(path, detail=True)
            return found
        # The filesystem's own globs do not enter linked folders; Python's do, loops and all.
        return {name: _followed(name) for name in (fs.glob if "**" in path else glob.glob)(path)}

    return retried(url, "listing", match)


def contents(fs: Any, url: str, path: str) -> Mapping[str, Mapping[str, Any]]:
    """What lies directly in a folder, by path; local links are followed."""

    def look() -> Mapping[str, Mapping[str, Any]]:
        if not is_local_url(url):
            return {info["name"].rstrip("/"): info for info in fs.ls(path, detail=True)}
        return {name: _followed(name) for name in (os.path.join(path, n) for n in os.listdir(path))}

    return retried(url, "listing", look)


def _followed(path: str) -> Mapping[str, Any]:
    """Type and size of a local path, or of what it links to; a link to nothing has no size."""
    try:
        status = os.stat(path)
    except OSError:
        return {"type": "file", "size": None}
    return {"type": "directory" if stat.S_ISDIR(status.st_mode) else "file", "size": status.st_size}


def walk(root: str) -> Iterator[tuple[str, int, str]]:
    """Files below a local folder; linked folders are entered, each real folder once.

    Run directories are left out, so that a run inside the tree of its images is no part of it.

    Raises:
        ShardError: a folder cannot be read, or the root is a run directory itself.
    """

    def fail(error: OSError) -> None:
        raise ShardError(f"{error.filename}: {error.strerror}; make it readable") from error

    seen: set[str] = set()
    for folder, subfolders, names in os.walk(root, onerror=fail, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        if "run.json" in names and not {"commits", ".locks"}.isdisjoint(subfolders):
            if folder == root:
                raise ShardError(
                    f"{root} is a run directory, so its images cannot be told from the run's own; "
                    "give the folder of the images, and an --out that is another folder"
                )
            subfolders.clear()
            continue
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in names:
            if not name.startswith("."):
                path = os.path.join(folder, name)
                try:
                    status = os.stat(path)
                    size = status.st_size if stat.S_ISREG(status.st_mode) else 0
                except OSError:
                    # A link to nothing is refused, with its name, when the slice is read.
                    status, size = os.lstat(path), 0
                yield os.path.relpath(path, root), size, str(status.st_mtime_ns)


def is_local_url(url: str) -> bool:
    """Whether it is a path, or a URL that means one."""
    return "://" not in url or url.startswith("file://")


def is_file(url: str) -> bool:
    """Whether it may be opened as a file; of a remote one that is taken for granted."""
    return not is_local_url(url) or os.path.isfile(url)


def is_tar(url: str) -> bool:
    """Whether the name, in any case, is a tar's."""
    return bool(path_parts(url)) and path_parts(url)[-1].lower().endswith(".tar")


def path_parts(url: str) -> list[str]:
    """Host and path of a URL, or a path, in parts; without a query."""
    if "://" in url:
        parts = urlsplit(url)
        url = f"{parts.netloc}/{parts.path}"
    return [part for part in url.split("/") if part]


def join_url(folder: str, member: str) -> str:
    """URL of a file in a folder tree, never outside it."""
    if member.startswith("/") or ".." in member.split("/") or not member:
        raise ShardError(f"{folder}: member {member!r} leads out of the folder; the row is forged")
    return f"{folder.rstrip('/')}/{member}"


def modified(url: str, info: Mapping[str, Any]) -> str:
    """Modification time in ns of a local file, or the etag or date of a remote object."""
    if is_local_url(url):
        return str(os.stat(url).st_mtime_ns)
    return next((str(info[name]) for name in _MODIFIED if info.get(name)), "")
