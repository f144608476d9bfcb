"""Where shards are: tars, patterns, folders and URLs to a list of named shards."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from miner.errors import ShardError
from miner.fetch import ShardFile, sha256_of
from miner.filesystems import (
    check_is_utf8,
    contents,
    expand,
    filesystem,
    is_file,
    is_local_url,
    is_tar,
    join_url,
    look_up,
    matches,
    modified,
    path_parts,
    retried,
    walk,
)
from miner.metadata import METADATA_EXTENSIONS
from miner.names import IMAGE_EXTENSIONS, extension_of, safe_name, stem_of, tree_key
from miner.urls import check_has_no_secret

log = logging.getLogger(__name__)

SLICE_FILES = 10_000
"""Files of a folder tree that make one shard, about."""

_COMPRESSED = (".tar.gz", ".tgz", ".tar.zst", ".tar.bz2", ".tar.xz")
_DATASET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_TREE_EXTENSIONS = IMAGE_EXTENSIONS | METADATA_EXTENSIONS


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


def image_id_of(shard: Shard, key: str) -> str:
    """`<dataset>/<shard stem>/<key>`."""
    return f"{shard.dataset}/{shard.stem}/{key}"


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
        check_has_no_secret(pattern)
        for url in expand(pattern):
            for shard in _find(url, dataset, stem_depth):
                found = True
                other = shards.setdefault(shard.shard_id, shard)
                if (other.url, other.files) != (shard.url, shard.files):
                    raise ShardError(
                        f"two shards would both be {shard.shard_id}: {other.url} and {shard.url}; "
                        f"give --stem-depth {stem_depth + 1} to take the folder into the name, or "
                        "run them with a --dataset each"
                    )
        if not found:
            raise ShardError(
                f"{pattern}: nothing found, no tar and no folder of tars or images; "
                "check the path (tars in subfolders need a pattern such as FOLDER/*/*.tar)"
            )
    return sorted(shards.values(), key=lambda shard: shard.shard_id)


def absolute(shard: Shard) -> Shard:
    """The same shard, found from whatever folder a process stands in; its name stays."""
    if not is_local_url(shard.url):
        return shard
    sidecar = None if shard.sidecar is None else os.path.abspath(shard.sidecar)
    return replace(shard, url=os.path.abspath(shard.url), sidecar=sidecar)


def _find(url: str, dataset: str | None, stem_depth: int) -> Iterator[Shard]:
    """The shards of one expanded pattern."""
    is_local = is_local_url(url)
    fs, path = filesystem(url)
    if is_local:
        path = os.path.normpath(path)
    is_glob = any(sign in path for sign in ("*" if url.startswith("http") else "*?["))
    if is_glob and not (is_local and os.path.exists(path)):
        infos = matches(fs, url, path)
        _warn_of_images(url, infos)
    else:
        is_glob, info = False, look_up(fs, url, path)
        infos = {} if info is None else {path: info}
    for found, info in sorted(infos.items()):
        place = _Place(fs, found, is_local, dataset, stem_depth)
        if info["type"] == "directory":
            yield from _find_in_folder(place)
        elif _is_shard(found, place.url):
            yield place.tar(info)
        elif not is_glob:
            raise ShardError(
                f"{place.url} is neither a tar nor a folder; give the folder that holds the images"
            )


def _find_in_folder(folder: _Place) -> Iterator[Shard]:
    """The tars directly in a folder; where it has none, its images as slices of a tree."""
    infos = contents(folder.fs, folder.url, folder.path)
    files = [name for name in sorted(infos) if infos[name]["type"] != "directory"]
    tars = [name for name in files if _is_shard(name, folder.at(name).url)]
    for name in tars:
        yield folder.at(name).tar(infos[name])
    if tars:
        _warn_of_images(folder.url, infos)
    else:
        yield from folder.tree()


def _warn_of_images(url: str, infos: Mapping[str, Mapping[str, Any]]) -> None:
    """Say so where images lie beside tars, or match a pattern, and are left out."""
    shown = (path for path in infos if not os.path.basename(path).startswith("."))
    files = sorted(path for path in shown if infos[path]["type"] != "directory")
    images = [path for path in files if extension_of(path) in IMAGE_EXTENSIONS]
    if images:
        log.warning(
            "%s: %d image files, such as %r, are not read, only tars and folders; move them to a "
            "folder of their own and name that",
            *(url, len(images), images[0]),
        )


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
        check_is_utf8(self.url)
        parts = path_parts(self.url)
        if info.get("size") is None:
            if self.is_local:
                raise ShardError(f"{self.url}: no file that may be read is there; mend the link")
            raise ShardError(
                f"{self.url}: the server does not tell its size, so ranges of it cannot be read; "
                "download it first"
            )
        beside = re.sub(r"\.tar$", ".parquet", self.url, flags=re.IGNORECASE)
        has_sidecar = beside != self.url and look_up(self.fs, beside, self.at(beside).path)
        return Shard(
            dataset=self.dataset or safe_name(parts[-2] if len(parts) > 1 else ""),
            stem=stem_of([*parts[:-1], parts[-1][: -len(".tar")]], self.stem_depth),
            url=self.url,
            num_bytes=info["size"],
            modified=modified(self.url, info),
            sidecar=beside if has_sidecar else None,
        )

    def tree(self) -> Iterator[Shard]:
        """Slices of the images below this folder and of the metadata files beside them."""
        check_is_utf8(self.url)
        files, tars = [], []
        for file in self._files():
            if extension_of(file[0]) in _TREE_EXTENSIONS:
                files.append(file)
            elif file[0].lower().endswith((".tar", *_COMPRESSED)):
                tars.append(file[0])
        files.sort(key=lambda file: (tree_key(file[0]), file[0]))
        if not any(extension_of(path) in IMAGE_EXTENSIONS for path, _, _ in files):
            return
        if tars:
            log.warning(
                "%s: %d tars in this tree of images are not read, such as %r; name them, or their "
                "folder, in a run of their own",
                *(self.url, len(tars), min(tars)),
            )
        parts = path_parts(self.url)
        slices: list[list[tuple[str, int, str]]] = [[]]
        for _, sharing in groupby(files, key=lambda file: tree_key(file[0])):
            if len(slices[-1]) >= SLICE_FILES:
                slices.append([])
            slices[-1].extend(sharing)
        for number, piece in enumerate(slices):
            yield Shard(
                dataset=self.dataset or safe_name(parts[-1] if parts else ""),
                stem=stem_of([*parts, f"{number:05d}"], self.stem_depth),
                url=self.url,
                num_bytes=sum(num_bytes for _, num_bytes, _ in piece),
                modified=max(modified for _, _, modified in piece),
                files=tuple(path for path, _, _ in piece),
            )

    def _files(self) -> Iterator[tuple[str, int, str]]:
        """Relative path, size and modification mark of every file that is not hidden."""
        if self.is_local:
            yield from walk(self.path)
            return
        found = retried(
            self.url, "listing", lambda: self.fs.find(self.path, detail=True, withdirs=False)
        )
        for path, info in found.items():
            relative = path[len(self.path) :].lstrip("/")
            if not any(part.startswith(".") for part in relative.split("/")):
                yield relative, info["size"] or 0, modified(self.at(path).url, info)


def _is_shard(path: str, url: str) -> bool:
    name = path_parts(path)[-1:]
    if not name or name[0].startswith("."):
        return False
    if name[0].lower().endswith(_COMPRESSED):
        raise ShardError(
            f"{url}: compressed tars are not read, since offsets into them mean nothing; "
            "decompress it (images do not shrink any further)"
        )
    return is_tar(path)


def checksum(shard: Shard) -> str:
    """The sha256 that `ShardReport` gives, without looking at samples."""
    if not shard.files:
        with ShardFile(shard.url) as file:
            return sha256_of(file)
    tree = hashlib.sha256()
    for path in shard.files:
        url, num_bytes, digest = join_url(shard.url, path), 0, "no file"
        if is_file(url):
            with ShardFile(url) as file:
                num_bytes, digest = file.num_bytes, sha256_of(file)
        tree.update(tree_line(path, num_bytes, digest))
    return tree.hexdigest()


def tree_line(path: str, num_bytes: int, digest: str) -> bytes:
    """What one file adds to the checksum of a slice of a folder tree."""
    return f"{path}\t{num_bytes}\t{digest}\n".encode(errors="surrogateescape")
