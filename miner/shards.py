"""Where shards are, and the samples of one shard, whole or refused with a reason.

webdataset expands URLs, groups members by key and runs the stages; the bytes come from our own
reader (`miner/tar.py`), and a judge sees to the law of every shard: each sample is kept whole or
named in a refusal, and what cannot be told is said to be unknown.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import stat
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
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
from miner.errors import MinerError, ResourceError, ShardError
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
    {
        *("jpg", "jpeg", "jpe", "jfif", "pjpeg", "png", "apng", "webp", "gif", "bmp", "dib"),
        *("tif", "tiff", "ppm", "pgm", "pbm", "pnm", "avif", "heic", "heif", "jp2", "j2k", "jxl"),
    }
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
    """Expand braces as webdataset does, without its shell, its chains and its environment."""
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
        raise ValueError(
            f"{pattern}: {error}; braces come in pairs, as in {{0000..0099}}"
        ) from error


def _find(url: str, dataset: str | None, stem_depth: int) -> Iterator[Shard]:
    """The shards of one expanded pattern."""
    is_local = _is_local(url)
    fs, path = _filesystem(url)
    if is_local:
        path = os.path.normpath(path)
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
                yield relative, info["size"] or 0, _modified(self.at(path).url, info)


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
    name = path[path.rfind("/") + 1 :]
    return name[name.rfind(".") + 1 :].lower() if name.rfind(".") > 0 else ""


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
    except MinerError:
        raise
    except Exception as error:
        # Drivers have exception trees of their own, which only they know.
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
            return open(path, "rb"), status.st_size
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

    def __exit__(self, *error: object) -> None:
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

    def __exit__(self, *error: object) -> None:
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
    tree = hashlib.sha256()
    for path in shard.files:
        url, num_bytes, digest = _join(shard.url, path), 0, "no file"
        if _is_file(url):
            with ShardFile(url) as file:
                num_bytes, digest = file.num_bytes, _sha256(file)
        tree.update(_tree_line(path, num_bytes, digest))
    return tree.hexdigest()


def _sha256(file: ShardFile) -> str:
    digest = hashlib.sha256()
    for start in range(0, file.num_bytes, CHUNK_BYTES):
        digest.update(file.read(start, min(CHUNK_BYTES, file.num_bytes - start)))
    return digest.hexdigest()


def _tree_line(path: str, num_bytes: int, digest: str) -> bytes:
    return f"{path}\t{num_bytes}\t{digest}\n".encode(errors="surrogateescape")


def _is_file(url: str) -> bool:
    return not _is_local(url) or os.path.isfile(url)


# ---- samples of one shard


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One image with what its shard says about it."""

    key: str
    member: str
    offset: int
    """Of the image's first byte in the tar, in bytes; 0 for a loose file."""
    data: bytes
    caption: str | None
    url: str | None
    label: str | None
    meta: str
    """JSON text of every other field."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """One sample that is not whole, or a loss that cannot be given a key (key "")."""

    key: str
    member: str
    reason: Reason
    detail: str
    retracts: bool = False
    """A Sample with this key was yielded before and has to be taken back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardReport:
    """The accounts of one shard."""

    complete: bool
    """The shard was read to its end; where not, only `notes` and the sidecar's hash hold."""
    num_samples: int
    """Samples yielded, less those retracted, plus refusals."""
    num_bytes: int
    bytes: dict[str, int]
    """Bytes by kind (see `miner/tar.py`); they sum to `num_bytes`."""
    sha256: str
    """Of the tar; of a tree slice, over lines of path, size and sha256."""
    sidecar_sha256: str | None
    notes: tuple[str, ...]
    """Harmless oddities."""
    damaged: bool


@dataclass(slots=True)
class _Part:
    """A member, by the name that may be shown, and its place in the shard's sequence."""

    member: Member
    name: str
    ordinal: int
    is_unsafe: bool

    @property
    def is_image(self) -> bool:
        return _extension(self.name) in IMAGE_EXTENSIONS


class ShardReader:
    """Iterates over one shard, once: a Sample or a Refusal for each of its samples.

    A sample is yielded as soon as it is known to be whole, so memory holds one sample and a hash
    of every key. Only damage that shows up later takes one back (`Refusal.retracts`).
    """

    def __init__(self, shard: Shard, limits: ImageLimits) -> None:
        """Prepare to read.

        Args:
            shard: which one.
            limits: `max_member_bytes` bounds the image that is held.
        """
        self._shard = shard
        self._limits = limits
        self._oddities: Counter[str] = Counter()
        self._first: dict[str, str] = {}
        self._sidecar: Sidecar | None = None
        self._sidecar_sha256: str | None = None
        self._num_samples = 0
        self._is_started = False
        self._is_complete = False
        self._sha256 = ""
        self._bytes = dict.fromkeys(BYTE_KINDS, 0)
        self._reader_notes: list[str] = []
        self._judge = _Judge(self._sample)

    @property
    def report(self) -> ShardReport:
        """The accounts; they are complete once iteration is over."""
        notes = [
            *self._reader_notes,
            *self._judge.notes,
            *(self._sidecar.notes if self._sidecar else []),
        ]
        for what, number in self._oddities.items():
            notes.append(f"{number} x {what}, first {self._first[what]!r}")
        return ShardReport(
            complete=self._is_complete,
            num_samples=self._num_samples,
            num_bytes=self._shard.num_bytes,
            bytes=dict(self._bytes),
            sha256=self._sha256,
            sidecar_sha256=self._sidecar_sha256,
            notes=tuple(notes),
            damaged=self._judge.is_damaged,
        )

    def __iter__(self) -> Iterator[Sample | Refusal]:
        """Read the shard.

        Raises:
            ShardError: it cannot be read, or is not the file that was listed.
            ValueError: it is iterated over for the second time.
        """
        if self._is_started:
            raise ValueError(f"{self._shard.shard_id}: a ShardReader reads once; make another one")
        self._is_started = True
        return self._items()

    def _items(self) -> Iterator[Sample | Refusal]:
        self._load_sidecar()
        stages = DataPipeline(
            self._loose_records if self._shard.files else self._tar_records,
            pipelinefilter(group_by_keys)(keys=lambda pair: pair, lcase=False),
            pipelinefilter(self._judge.judge)(),
        )
        for item in stages:
            retracts = isinstance(item, Refusal) and item.retracts
            self._num_samples += not retracts
            yield item
        self._is_complete = True

    def _load_sidecar(self) -> None:
        if self._shard.sidecar is not None:
            with ShardFile(self._shard.sidecar) as file:
                data = file.read(0, file.num_bytes)
            self._sidecar = Sidecar(data)
            self._sidecar_sha256 = hashlib.sha256(data).hexdigest()

    def _tar_records(self) -> Iterator[dict[str, Any]]:
        """Members as webdataset groups them: `fname` is the pair of key and extension."""
        shard = self._shard
        with ShardFile(shard.url) as file:
            self._check_size(file.num_bytes)
            reader = TarReader(file, file.num_bytes, self._is_wanted)
            run_key, suffixes, budget = "", set[str](), 0
            for ordinal, entry in enumerate(reader):
                if isinstance(entry, Damage):
                    self._judge.lose(entry, ordinal)
                    continue
                named = self._named(entry)
                if named is None:
                    continue
                name, key, suffix = named
                if key != run_key or suffix in suffixes:
                    # webdataset stops at a repeated member; a new group can be judged.
                    yield {}
                    run_key, suffixes, budget = key, set(), self._limits.max_member_bytes
                    budget += 4 * MAX_METADATA_BYTES
                suffixes.add(suffix)
                budget -= len(entry.data or b"")
                if budget < 0:
                    entry = replace(entry, data=None)
                part = _Part(entry, name, ordinal, name != entry.name)
                yield {"fname": (key, suffix), "data": part, "__url__": shard.url}
        self._judge.end_of_tar(reader)
        self._reader_notes = sorted(reader.notes)
        self._sha256, self._bytes = reader.sha256, reader.num_bytes_of
        yield {}

    def _named(self, member: Member) -> tuple[str, str, str] | None:
        """Name, key and extension of a member that belongs to a sample; else a note."""
        if member.kind == "directory":
            return None
        name = _shown(member.name)
        key, suffix = _split(name)
        if not name or (key is None and name != member.name):
            self._judge.refuse_now("", name, Reason.UNSAFE_NAME, _why_unsafe(member.name))
        elif _WEBDATASET_META.match(name) or (suffix or "").startswith("__"):
            self._note("webdataset's own metadata, skipped", name)
        elif key is None:
            self._note("member without an extension, skipped", name)
        else:
            if member.kind == "other":
                self._note("link, device or sparse file", name)
            return name, key, suffix
        return None

    def _is_wanted(self, name: str, num_bytes: int) -> bool:
        extension = _extension(name)
        if extension in IMAGE_EXTENSIONS:
            return num_bytes <= self._limits.max_member_bytes
        return extension in METADATA_EXTENSIONS and num_bytes <= MAX_METADATA_BYTES

    def _loose_records(self) -> Iterator[dict[str, Any]]:
        """Files of a tree slice as webdataset groups them."""
        tree, ordinal = hashlib.sha256(), 0
        for stem, sharing in groupby(self._shard.files, key=_tree_key):
            members = []
            for path in sharing:
                member, digest = self._loose_member(path)
                tree.update(_tree_line(path, member.num_bytes, digest))
                self._bytes["data"] += member.num_bytes
                members.append(member)
            images = [m for m in members if _extension(m.name) in IMAGE_EXTENSIONS]
            texts = [m for m in members if _extension(m.name) in METADATA_EXTENSIONS]
            if not images:
                self._note("metadata file without an image", _shown(texts[0].name))
            for image in images:
                key = _shown(stem if len(images) == 1 else image.name)
                for member in (image, *texts):
                    name = _shown(member.name)
                    part = _Part(member, name, ordinal := ordinal + 1, name != member.name)
                    fname = (key, name[len(stem) + 1 :])
                    yield {"fname": fname, "data": part, "__url__": self._shard.url}
                yield {}
        self._check_size(self._bytes["data"])
        self._sha256 = tree.hexdigest()

    def _loose_member(self, path: str) -> tuple[Member, str]:
        """One file of a tree, read where it is wanted, and its sha256."""
        url = _join(self._shard.url, path)
        if not _is_file(url):
            return Member(name=path, kind="other", offset=0, num_bytes=0), "no file"
        with ShardFile(url) as file:
            if not self._is_wanted(path, file.num_bytes):
                member = Member(name=path, kind="file", offset=0, num_bytes=file.num_bytes)
                return member, _sha256(file)
            data = file.read(0, file.num_bytes)
        member = Member(name=path, kind="file", offset=0, num_bytes=len(data), data=data)
        return member, hashlib.sha256(data).hexdigest()

    def _check_size(self, num_bytes: int) -> None:
        if num_bytes != self._shard.num_bytes:
            raise ShardError(
                f"shard {self._shard.url}: {num_bytes} bytes where {self._shard.num_bytes} were "
                "listed; it is being written, so wait and run the same command again"
            )

    def _note(self, what: str, name: str) -> None:
        self._oddities[what] += 1
        self._first.setdefault(what, name[:200])

    def _sample(self, key: str, image: _Part, parts: Sequence[_Part]) -> Sample:
        """A whole sample, with its metadata."""
        stem = _tree_key(image.name)
        texts: dict[str, bytes | None] = {}
        others = []
        for part in parts:
            extension = _extension(part.name)
            if part is image:
                continue
            if part.member.kind != "file" or extension not in METADATA_EXTENSIONS:
                others.append(part.name[len(key) + 1 :])
            elif _tree_key(part.name) == stem:
                texts[extension] = part.member.data
            elif _tree_key(part.name) == key:
                texts.setdefault(extension, part.member.data)
            else:
                others.append(part.name[len(key) + 1 :])
        label = None
        if self._shard.files and "/" in image.name:
            label = image.name.split("/")[-2]
        assert image.member.data is not None
        said = read_metadata(
            texts,
            self._sidecar.row(key) if self._sidecar else None,
            other_members=others,
            label=label,
        )
        return Sample(
            key=key,
            member=image.name,
            offset=image.member.offset,
            data=image.member.data,
            caption=said.caption,
            url=said.url,
            label=said.label,
            meta=said.meta,
        )


def _split(name: str) -> tuple[str | None, str]:
    """Key and extension by webdataset's rule; no key for hidden files, which it takes for one."""
    if name.rsplit("/", 1)[-1].startswith("."):
        return None, ""
    key, suffix = base_plus_ext(name)
    return key, (suffix or "").lower()


def _shown(name: str) -> str:
    """A name as it may be shown and stored: unsafe characters escaped, cut where too long."""
    if not _UNSAFE.search(name) and len(name) <= MAX_NAME_CHARS:
        return name
    escaped = _UNSAFE.sub(lambda match: match[0].encode("unicode_escape").decode(), name)
    if len(escaped) <= MAX_NAME_CHARS:
        return escaped
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:16]
    return f"{escaped[:200]}~{digest}.{_extension(escaped[-20:])}"


def _why_unsafe(name: str) -> str:
    if not name:
        return "the name is empty"
    if len(name) > MAX_NAME_CHARS:
        return f"the name has {len(name)} characters, limit {MAX_NAME_CHARS}"
    return "the name has control characters or is not UTF-8"


# ---- the law of a shard


@dataclass(slots=True)
class _Loss:
    """A damaged region, and the groups beside it that may have lost a member in it."""

    damage: Damage
    ordinal: int
    name: str
    key: str | None
    suffix: str
    neighbours: list[str] = field(default_factory=list)
    is_settled: bool = False


@dataclass(slots=True)
class _Fate:
    """What became of a key: `held` ones have no image and are refused at the end."""

    extensions: frozenset[str]
    state: Literal["kept", "held", "refused"]


class _Judge:
    """Says of every group whether it is whole, and names whatever is lost.

    Damage is settled with the group that its header names; else with the groups beside it that lack
    an image or other members that this shard's samples usually have; else it has a row of its own.
    """

    def __init__(self, make: Callable[[str, _Part, Sequence[_Part]], Sample]) -> None:
        self.is_damaged = False
        self.notes: list[str] = []
        self._make = make
        self._fates: dict[bytes, _Fate] = {}
        self._usual: Counter[frozenset[str]] = Counter()
        self._held: dict[str, Refusal] = {}
        self._losses: list[_Loss] = []
        self._rows: list[Refusal] = []
        self._last_ordinal = -1
        self._tar: TarReader | None = None
        self._end_is_explained = False
        self._new: list[_Loss] = []
        self._recent: list[_Loss] = []
        self._waiting: dict[str, list[_Loss]] = {}

    def lose(self, damage: Damage, ordinal: int) -> None:
        """Take note of a damaged region, at its place among the members."""
        self.is_damaged = True
        name = _shown(damage.name or "")
        key, suffix = _split(name)
        self._new.append(_Loss(damage, ordinal, name, key, suffix))

    def refuse_now(self, key: str, member: str, reason: Reason, detail: str) -> None:
        """A row for a member that belongs to no group."""
        self._rows.append(Refusal(key=key, member=member, reason=reason, detail=detail))

    def end_of_tar(self, reader: TarReader) -> None:
        """The members are over; one more group at most is still to be judged."""
        self._tar = reader
        self.is_damaged |= not reader.has_end or reader.trailing is not None

    def judge(self, groups: Iterable[dict[str, Any]]) -> Iterator[Sample | Refusal]:
        """A pipeline stage: groups in, samples and refusals out."""
        for group in groups:
            key, _ = group.pop("__key__"), group.pop("__url__")
            yield from self._arrivals()
            yield from self._weigh(key, list(group.values()), frozenset(group))
        yield from self._arrivals()
        yield from self._settle()
        yield from self._held.values()
        yield from self._last_words()

    def _arrivals(self) -> Iterator[Refusal]:
        """Rows that wait, and new damage that names a group which was judged already."""
        yield from self._rows
        self._rows.clear()
        for loss in self._new:
            if loss.key is None:
                continue
            fate = self._fates.get(_hash(loss.key))
            if fate is None:
                self._waiting.setdefault(loss.key, []).append(loss)
            elif loss.suffix in fate.extensions:
                # That group lacks no such member: it is the name that is damaged.
                loss.key = None
            else:
                loss.is_settled = True
                yield from self._refuse(loss.key, loss.name, *_because(loss))
        self._recent += self._new
        self._losses += self._new
        self._new = []

    def _weigh(
        self, key: str, parts: list[_Part], extensions: frozenset[str]
    ) -> Iterator[Sample | Refusal]:
        fault = self._fault_of(key, parts, extensions)
        images = [part for part in parts if part.is_image]
        fate = self._fates.get(_hash(key))
        if fate is not None and (fault is None or fault[0] is not Reason.TRUNCATED_SHARD):
            member = (images or parts)[0].name
            if images and fate.state != "held":
                detail = "an earlier sample of this shard has the same key"
                yield _row(key, member, Reason.DUPLICATE_KEY, detail)
                return
            detail = "members of this key lie apart, or come twice"
            yield from self._refuse(key, member, Reason.SCATTERED_KEY, detail)
            return
        if fate is None:
            fate = self._fates[_hash(key)] = _Fate(extensions, "refused")
        if fault is None and (fault := self._cut_short(extensions, parts)) is None:
            fate.state = "kept"
            self._usual[extensions] += 1
            yield self._make(key, images[0], parts)
            return
        reason, detail, member = fault
        if reason is Reason.NO_IMAGE:
            # The image may still come, apart from the rest, or be what a bad header hides.
            fate.state, self._held[key] = "held", _row(key, member, reason, detail)
        else:
            yield _row(key, member, reason, detail)

    def _fault_of(
        self, key: str, parts: list[_Part], extensions: frozenset[str]
    ) -> tuple[Reason, str, str] | None:
        """Why a group is not whole: reason, detail and member."""
        beside = [loss for loss in self._recent if loss.ordinal > self._last_ordinal]
        self._last_ordinal = parts[-1].ordinal
        self._recent = [loss for loss in beside if loss.ordinal > self._last_ordinal]
        for loss in beside:
            loss.neighbours.append(key)
        mine = []
        for loss in self._waiting.pop(key, ()):
            if loss.suffix in extensions:
                loss.key = None
            else:
                loss.is_settled = True
                mine.append(loss)
        for part in parts:
            if part.member.cut:
                self._end_is_explained = True
                detail = f"the tar ends inside this member of {part.member.num_bytes} bytes"
                return Reason.TRUNCATED_SHARD, detail, part.name
            if part.member.suspect:
                for loss in beside:
                    loss.is_settled |= loss.key is None
                detail = "the extension header that may rename this member is unreadable"
                return Reason.DAMAGED_HEADER, detail, part.name
        if mine:
            return *_because(mine[0]), mine[0].name
        return _fault_of_members(parts)

    def _cut_short(
        self, extensions: frozenset[str], parts: list[_Part]
    ) -> tuple[Reason, str, str] | None:
        """Whether the last group lacks members because the tar ends, or seems to."""
        if self._tar is None or not self._lacks_members(extensions):
            return None
        missing = ", ".join(sorted(self._usual.most_common(1)[0][0] - extensions))
        detail = f"the shard's last sample, without the usual {missing}"
        if not self._tar.has_end:
            self._end_is_explained = True
            return Reason.TRUNCATED_SHARD, detail, parts[-1].name
        if self._tar.trailing is not None:
            return Reason.TRAILING_BYTES, detail, parts[-1].name
        # Zeros over a tar's end make a shorter tar that is whole: this is the only trace.
        self.notes.append(f"{parts[-1].name}: {detail}")
        return None

    def _lacks_members(self, extensions: frozenset[str]) -> bool:
        return bool(self._usual) and extensions < self._usual.most_common(1)[0][0]

    def _settle(self) -> Iterator[Refusal]:
        """Damage that no group answered for: its neighbours' loss, or a row of its own."""
        for loss in self._losses:
            if not loss.is_settled:
                for key in loss.neighbours:
                    fate = self._fates[_hash(key)]
                    is_whole = fate.state == "kept" and not self._lacks_members(fate.extensions)
                    if fate.state != "refused" and not is_whole:
                        loss.is_settled = True
                        yield from self._refuse(key, loss.name, *_because(loss))
                if loss.key is not None:
                    loss.is_settled = True
                    yield from self._refuse(loss.key, loss.name, *_because(loss))
            if not loss.is_settled:
                yield _row("", loss.name, *_because(loss))
            elif not loss.damage.is_one_member:
                start, end = loss.damage.start, loss.damage.end
                detail = f"bytes {start} to {end} may hold more than the one member that is missed"
                yield _row("", loss.name, Reason.DAMAGED_HEADER, detail)

    def _refuse(self, key: str, member: str, reason: Reason, detail: str) -> Iterator[Refusal]:
        """Refuse a key, whatever became of it before, with one row in all."""
        fate = self._fates.setdefault(_hash(key), _Fate(frozenset(), "held"))
        if fate.state == "held":
            self._held[key] = _row(key, member, reason, detail)
        elif fate.state == "kept":
            fate.state = "refused"
            yield Refusal(key=key, member=member, reason=reason, detail=detail, retracts=True)

    def _last_words(self) -> Iterator[Refusal]:
        """What cannot be known, because the tar has no end or more than one."""
        if self._tar is None:
            return
        if not self._tar.has_end and not self._end_is_explained:
            yield _row(
                "",
                "",
                Reason.TRUNCATED_SHARD,
                f"no end-of-archive mark; an unknown number of samples after byte "
                f"{self._tar.num_bytes} is missing",
            )
        if self._tar.trailing is not None:
            yield _row(
                "",
                "",
                Reason.TRAILING_BYTES,
                f"the end-of-archive mark is followed by other bytes from {self._tar.trailing} on; "
                "they were not read",
            )


def _fault_of_members(parts: list[_Part]) -> tuple[Reason, str, str] | None:
    """Why a group whose members were all read is no sample."""
    images = [part for part in parts if part.is_image]
    others = [part for part in parts if part.member.kind == "other"]
    first = (images or parts)[0]
    for part in parts:
        if part.is_unsafe:
            return Reason.UNSAFE_NAME, _why_unsafe(part.member.name), part.name
    if len(images) > 1:
        names = ", ".join(part.name for part in images[:5])
        return Reason.SEVERAL_IMAGES, f"{len(images)} images: {names}", first.name
    if others and (not images or images[0] in others):
        return Reason.NOT_A_FILE, "a link, a device or a sparse file", others[0].name
    if not images:
        return Reason.NO_IMAGE, f"{len(parts)} members, none an image", first.name
    if first.member.data is None:
        detail = f"{first.member.num_bytes} bytes, above max_member_bytes"
        return Reason.TOO_MANY_BYTES, detail, first.name
    return None


def _because(loss: _Loss) -> tuple[Reason, str]:
    return Reason.DAMAGED_HEADER, loss.damage.detail


def _row(key: str, member: str, reason: Reason, detail: str) -> Refusal:
    return Refusal(key=key, member=member, reason=reason, detail=detail)


def _hash(key: str) -> bytes:
    return hashlib.blake2b(key.encode(), digest_size=12).digest()
