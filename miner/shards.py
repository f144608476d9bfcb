"""Where shards are, and the samples of one shard, whole or refused with a reason.

webdataset expands URLs, groups members by key and runs the stages; the bytes come from our own
reader (`miner/tar.py`), and a judge sees to the law of every shard: each sample is kept whole or
named in a refusal, and what cannot be told is said to be unknown.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import re
import stat
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import PurePosixPath
from types import TracebackType
from typing import Any, Literal, Self, TypeVar
from urllib.parse import urlsplit

import aiohttp
import fsspec
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential
from webdataset import DataPipeline
from webdataset.filters import pipelinefilter
from webdataset.shardlists import expand_urls
from webdataset.tariterators import base_plus_ext, group_by_keys

from miner.config import ImageLimits
from miner.errors import ResourceError, ShardError
from miner.metadata import (
    MAX_METADATA_BYTES,
    METADATA_EXTENSIONS,
    Sidecar,
    read_metadata,
)
from miner.schema import Reason
from miner.tar import BYTE_KINDS, CHUNK_BYTES, Damage, Member, TarReader

logger = logging.getLogger(__name__)

T = TypeVar("T")

IMAGE_EXTENSIONS = frozenset(
    "jpg jpeg jpe jfif pjpeg png apng webp gif bmp dib tif tiff ppm pgm pbm pnm "
    "avif heic heif jp2 j2k jxl".split()
)
SLICE_FILES = 10_000
"""Files of a folder tree that make one shard, about."""
MAX_NAME_CHARS = 4096
"""Longest member name that is taken as one, in characters."""
READAHEAD_BYTES = 8 * 2**20
MAX_ATTEMPTS = 4
RETRY_WAIT_S = 0.25
"""Wait before the first retry of a remote read, in seconds; it doubles each time."""

_PROTOCOLS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"} | dict.fromkeys(
    ("file", "hf", "http", "https", "memory"), ""
)
"""Schemes that are opened, each with the extra that its driver comes in."""
_MODIFIED = (
    *("ETag", "etag", "Last-Modified", "LastModified", "last_modified", "mtime", "updated"),
    *("blob_id", "created"),
)
_COMPRESSED = (".tar.gz", ".tgz", ".tar.zst", ".tar.bz2", ".tar.xz")
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_DATASET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_WEBDATASET_META = re.compile(r"__[^/]*__($|/)")


# ---- where shards are


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One tar, or a slice of a folder tree."""

    dataset: str
    stem: str
    url: str
    """Of the tar, or of the tree's root folder."""
    num_bytes: int
    modified: str
    """Modification time in ns, or the etag or date of a remote object."""
    files: tuple[str, ...] = ()
    """Relative paths, for a slice of a folder tree; empty for a tar."""
    sidecar: str | None = None
    """URL of the Parquet table beside a tar."""

    @property
    def shard_id(self) -> str:
        """`<dataset>.<stem>`, unique within a run."""
        return f"{self.dataset}.{self.stem}"


def list_shards(
    patterns: Sequence[str], *, dataset: str | None = None, stem_depth: int = 1
) -> list[Shard]:
    """Find the shards that some tars, patterns, folders and URLs stand for.

    Args:
        patterns: each a tar, a brace or glob pattern, a folder of tars, a folder tree of images,
            local or behind s3://, gs://, hf://, https:// or memory://.
        dataset: name of the corpus; default: the name of the folder that holds the tar or the tree.
        stem_depth: how many trailing parts of a shard's path name it.

    Returns:
        The shards, sorted by shard_id, each once.

    Raises:
        ValueError: an argument or a pattern is not allowed.
        ShardError: nothing was found, it is no shard, or two shards would have the same name.
        ResourceError: the driver for a URL's scheme is not installed.
    """
    if stem_depth < 1:
        raise ValueError(f"stem_depth is {stem_depth}; it counts path parts, from 1")
    if dataset is not None and not _DATASET.fullmatch(dataset):
        raise ValueError(
            f"dataset is {dataset!r}; it may have letters, digits, '.', '_' and '-', "
            "a letter or digit first"
        )
    shards: dict[str, Shard] = {}
    for pattern in patterns:
        found = False
        for url in _expand(pattern):
            for shard in _find(url, dataset, stem_depth):
                found = True
                other = shards.setdefault(shard.shard_id, shard)
                if (other.url, other.files) != (shard.url, shard.files):
                    raise ShardError(
                        f"two shards would both be {shard.shard_id}: {other.url} and {shard.url}; "
                        "give --stem-depth 2 to take the folder into the name, or run them with "
                        "a --dataset each"
                    )
        if not found:
            raise ShardError(
                f"{pattern}: nothing found, no tar and no folder of tars or images; "
                "check the path (tars in subfolders need a pattern such as FOLDER/*/*.tar)"
            )
    return sorted(shards.values(), key=lambda shard: shard.shard_id)


def _expand(pattern: str) -> list[str]:
    """webdataset's brace expansion, without its shell, its chains and its environment."""
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
    if "://" not in pattern and os.path.exists(pattern):
        return [pattern]
    try:
        return [str(url) for url in expand_urls(pattern)]
    except ValueError as error:
        raise ValueError(f"{pattern}: {error}; braces come in pairs, as in {{0000..0099}}") from error


def _find(url: str, dataset: str | None, stem_depth: int) -> Iterator[Shard]:
    """The shards of one expanded pattern."""
    is_local = _is_local(url)
    fs, path = _filesystem(url)
    is_glob = any(sign in path for sign in ("*" if url.startswith("http") else "*?["))
    if is_glob and not (is_local and os.path.exists(path)):
        infos = _retried(url, "listing", lambda: fs.glob(path, detail=True))
    else:
        is_glob, info = False, _info(fs, url, path)
        infos = {} if info is None else {path: info}
    for found, info in sorted(infos.items()):
        place = _Place(fs, found, is_local, dataset, stem_depth)
        if info["type"] == "directory":
            yield from _find_in_folder(place)
        elif _is_tar(found, place.url):
            yield place.tar(info)
        elif not is_glob:
            raise ShardError(
                f"{place.url} is neither a tar nor a folder; give the folder that holds the images"
            )


def _find_in_folder(folder: _Place) -> Iterator[Shard]:
    """The tars directly in a folder; where it has none, its images as slices of a tree."""
    listing = _retried(folder.url, "listing", lambda: folder.fs.ls(folder.path, detail=True))
    infos = {info["name"].rstrip("/"): info for info in listing if info["type"] == "file"}
    tars = [name for name in sorted(infos) if _is_tar(name, name)]
    for name in tars:
        yield folder.at(name).tar(infos[name])
    if not tars:
        yield from folder.tree()


@dataclass(frozen=True, slots=True)
class _Place:
    """A path on a filesystem, with how its shards are to be named."""

    fs: Any
    path: str
    is_local: bool
    dataset: str | None
    stem_depth: int

    @property
    def url(self) -> str:
        return self.path if self.is_local else str(self.fs.unstrip_protocol(self.path))

    def at(self, path: str) -> _Place:
        return _Place(self.fs, path, self.is_local, self.dataset, self.stem_depth)

    def tar(self, info: Mapping[str, Any]) -> Shard:
        parts = _path_parts(self.url)
        if info.get("size") is None:
            raise ShardError(
                f"{self.url}: the server does not tell its size, so ranges of it cannot be read; "
                "download it first"
            )
        beside = re.sub(r"\.tar$", ".parquet", self.url)
        has_sidecar = beside != self.url and _info(self.fs, beside, self.at(beside).path)
        return Shard(
            dataset=self.dataset or _safe(parts[-2] if len(parts) > 1 else ""),
            stem=_stem([*parts[:-1], parts[-1][: -len(".tar")]], self.stem_depth),
            url=self.url,
            num_bytes=info["size"],
            modified=_modified(self.url, info),
            sidecar=beside if has_sidecar else None,
        )

    def tree(self) -> Iterator[Shard]:
        """Slices of the images below this folder and of the metadata files beside them."""
        files = sorted(
            (file for file in self._files() if _extension(file[0]) in _TREE_EXTENSIONS),
            key=lambda file: (_tree_key(file[0]), file[0]),
        )
        if not any(_extension(path) in IMAGE_EXTENSIONS for path, _, _ in files):
            return
        parts = _path_parts(self.url)
        slices: list[list[tuple[str, int, str]]] = [[]]
        for _, sharing in groupby(files, key=lambda file: _tree_key(file[0])):
            if len(slices[-1]) >= SLICE_FILES:
                slices.append([])
            slices[-1].extend(sharing)
        for number, piece in enumerate(slices):
            yield Shard(
                dataset=self.dataset or _safe(parts[-1] if parts else ""),
                stem=f"{_stem(parts, self.stem_depth)}-{number:05d}",
                url=self.url,
                num_bytes=sum(num_bytes for _, num_bytes, _ in piece),
                modified=max(modified for _, _, modified in piece),
                files=tuple(path for path, _, _ in piece),
            )

    def _files(self) -> Iterator[tuple[str, int, str]]:
        """Relative path, size and modification mark of every file that is not hidden."""
        if self.is_local:
            yield from _walk(self.path)
            return
        found = _retried(
            self.url, "listing", lambda: self.fs.find(self.path, detail=True, withdirs=False)
        )
        for path, info in found.items():
            relative = path[len(self.path) :].lstrip("/")
            if not any(part.startswith(".") for part in relative.split("/")):
                yield relative, info["size"] or 0, _modified(path, info)


_TREE_EXTENSIONS = IMAGE_EXTENSIONS | METADATA_EXTENSIONS


def _walk(root: str) -> Iterator[tuple[str, int, str]]:
    """Files below a local folder; linked folders are entered, each real folder once."""

    def fail(error: OSError) -> None:
        raise ShardError(f"{error.filename}: {error.strerror}; make it readable") from error

    seen: set[str] = set()
    for folder, subfolders, names in os.walk(root, onerror=fail, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
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


def _filesystem(url: str) -> tuple[Any, str]:
    """The fsspec filesystem and the path on it that a URL means."""
    scheme = url.split("://", 1)[0] if "://" in url else "file"
    if scheme not in _PROTOCOLS:
        raise ValueError(f"{url}: scheme {scheme}:// is not one of {', '.join(_PROTOCOLS)}")
    try:
        fs, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        extra = _PROTOCOLS[scheme]
        wanted = f"blindpairs[{extra}]" if extra else "blindpairs"
        raise ResourceError(
            f'{url}: the driver for {scheme}:// is missing; pip install "{wanted}"'
        ) from error
    return fs, path


def _info(fs: Any, url: str, path: str) -> Mapping[str, Any] | None:
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

    return _retried(url, "looking it up", look)


def _is_local(url: str) -> bool:
    return "://" not in url or url.startswith("file://")


def _is_tar(path: str, url: str) -> bool:
    name = _path_parts(path)[-1:]
    if not name or name[0].startswith("."):
        return False
    if name[0].lower().endswith(_COMPRESSED):
        raise ShardError(
            f"{url}: compressed tars are not read, since offsets into them mean nothing; "
            "decompress it (images do not shrink any further)"
        )
    return name[0].endswith(".tar")


def _path_parts(url: str) -> list[str]:
    """Host and path of a URL, or a path, in parts; without a query."""
    if "://" in url:
        parts = urlsplit(url)
        url = f"{parts.netloc}/{parts.path}"
    return [part for part in url.split("/") if part]


def _modified(url: str, info: Mapping[str, Any]) -> str:
    if _is_local(url):
        return str(os.stat(url).st_mtime_ns)
    return next((str(info[name]) for name in _MODIFIED if info.get(name)), "")


def _stem(parts: Sequence[str], depth: int) -> str:
    return ".".join(_safe(part) for part in parts[-depth:]) or "root"


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "-", name).lstrip("-._") or "shards"


def _extension(path: str) -> str:
    return PurePosixPath(path).suffix[1:].lower()


def _tree_key(path: str) -> str:
    """The relative path up to its last dot."""
    return path.rsplit(".", 1)[0]


# ---- bytes by offset


def _is_transient(error: BaseException) -> bool:
    if isinstance(error, aiohttp.ClientResponseError):
        return error.status >= 500 or error.status == 429
    lasting = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
    return isinstance(error, OSError | aiohttp.ClientError) and not isinstance(error, lasting)


def _retried(url: str, what: str, action: Callable[[], T]) -> T:
    """Do something on a filesystem; the one border where its exceptions become ours."""
    attempts = 1 if _is_local(url) else MAX_ATTEMPTS
    try:
        return Retrying(
            stop=stop_after_attempt(attempts),
            wait=wait_exponential(multiplier=RETRY_WAIT_S, max=8),
            retry=retry_if_exception(_is_transient),
            reraise=True,
        )(action)
    except (OSError, ValueError, asyncio.TimeoutError, aiohttp.ClientError) as error:
        raise ShardError(
            f"{url}: {what} failed ({type(error).__name__}: {error}); check that it is there and "
            "may be read, then run the same command again"
        ) from error


class ShardFile:
    """One file of a shard, local or remote, by offset."""

    def __init__(self, url: str, *, in_order: bool = True) -> None:
        """Open a file.

        Args:
            url: of the file.
            in_order: it will be read from front to back, so reading ahead pays.

        Raises:
            ShardError: it cannot be opened, or is no regular file.
        """
        self.url = url
        self._is_local = _is_local(url)
        self._file, self.num_bytes = _retried(url, "opening", lambda: self._open(in_order))

    def _open(self, in_order: bool) -> tuple[Any, int]:
        fs, path = _filesystem(self.url)
        if self._is_local:
            status = os.stat(path)
            # Opening a named pipe would wait for ever.
            if not stat.S_ISREG(status.st_mode):
                raise OSError("not a regular file")
            return open(path, "rb"), status.st_size  # noqa: SIM115
        cache = "readahead" if in_order else "none"
        size = fs.info(path)["size"]
        return fs.open(path, "rb", block_size=READAHEAD_BYTES, cache_type=cache), size

    def read(self, offset: int, num_bytes: int) -> bytes:
        """Exactly that many bytes from an offset.

        Raises:
            ShardError: fewer came, or none.
        """

        def attempt() -> bytes:
            self._file.seek(offset)
            data: bytes = self._file.read(num_bytes)
            if len(data) != num_bytes:
                raise OSError(f"{len(data)} of {num_bytes} bytes came at offset {offset}")
            return data

        if self._is_local:
            self._file.seek(offset)
            data: bytes = self._file.read(num_bytes)
            if len(data) == num_bytes:
                return data
        return _retried(self.url, "reading", attempt)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class ImageFetcher:
    """Reads single images by what `samples` records; keeps the last few shards open."""

    def __init__(self, max_open: int = 8) -> None:
        self._max_open = max_open
        self._open: OrderedDict[str, ShardFile] = OrderedDict()

    def read(self, url: str, member: str, offset: int, num_bytes: int) -> bytes:
        """The bytes of one image.

        Args:
            url: of the tar, or of the folder tree.
            member: the image's relative path in a tree.
            offset: of the image's first byte, in bytes.
            num_bytes: of the image.

        Raises:
            ShardError: the file is gone, too short, or the member would lead out of the folder.
        """
        if not _path_parts(url)[-1:] or not _path_parts(url)[-1].endswith(".tar"):
            url = _join(url, member)
        if url in self._open:
            self._open.move_to_end(url)
        else:
            self._open[url] = ShardFile(url, in_order=False)
            if len(self._open) > self._max_open:
                self._open.popitem(last=False)[1].close()
        return self._open[url].read(offset, num_bytes)

    def close(self) -> None:
        """Close all files."""
        while self._open:
            self._open.popitem()[1].close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def read_image_bytes(url: str, member: str, offset: int, num_bytes: int) -> bytes:
    """The bytes of one image, by what `samples` records; see `ImageFetcher.read`."""
    with ImageFetcher(max_open=1) as fetcher:
        return fetcher.read(url, member, offset, num_bytes)


def _join(folder: str, member: str) -> str:
    """URL of a file in a folder tree, never outside it."""
    if member.startswith("/") or ".." in member.split("/") or not member:
        raise ShardError(f"{folder}: member {member!r} leads out of the folder; the row is forged")
    return f"{folder.rstrip('/')}/{member}"


def checksum(shard: Shard) -> str:
    """The sha256 that `ShardReport` gives, without looking at samples."""
    if not shard.files:
        with ShardFile(shard.url) as file:
            return _sha256(file)
    digest = hashlib.sha256()
    for path in shard.files:
        digest.update(_tree_line(path, *_size_and_sha256(_join(shard.url, path))))
    return digest.hexdigest()
