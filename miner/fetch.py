"""The bytes of shards and of single images, local or remote, by offset."""

from __future__ import annotations

import hashlib
import os
import stat
from collections import OrderedDict
from io import BufferedReader
from typing import Any, Self

from miner.errors import ShardError
from miner.filesystems import filesystem, is_local_url, is_tar, join_url, retried
from miner.object_reader import ObjectFile, open_object
from miner.objects import is_object_url
from miner.tar import CHUNK_BYTES

READAHEAD_BYTES = 8 * 2**20


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
        self._is_local = is_local_url(url)
        self._file, self.num_bytes = retried(url, "opening", lambda: self._open(in_order))

    def _open(self, in_order: bool) -> tuple[Any, int]:
        fs, path = filesystem(self.url)
        if self._is_local:
            status = os.stat(path)
            # Opening a named pipe would wait for ever.
            if not stat.S_ISREG(status.st_mode):
                raise OSError("not a regular file")
            return open(path, "rb"), status.st_size
        if is_object_url(self.url):
            file = ObjectFile(open_object(self.url))
            size = file.seek(0, os.SEEK_END)
            return BufferedReader(file, READAHEAD_BYTES) if in_order else file, size
        cache = "readahead" if in_order else "none"
        size = fs.info(path)["size"]
        return fs.open(path, "rb", block_size=READAHEAD_BYTES, cache_type=cache), size

    def read(self, offset: int, num_bytes: int) -> bytes:
        """Exactly that many bytes from an offset.

        Raises:
            ShardError: the file has not so many, or fewer came.
        """
        # Some servers do not tell a size.
        end = offset + num_bytes
        if self.num_bytes is not None and not 0 <= offset <= end <= self.num_bytes:
            raise ShardError(
                f"{self.url}: there are no {num_bytes} bytes at offset {offset}, the file has "
                f"{self.num_bytes}; restore the file that was mined"
            )

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
        return retried(self.url, "reading", attempt)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class ImageFetcher:
    """Reads single images by what `samples` records; keeps the last few shards open."""

    def __init__(self, max_open: int = 8, *, in_order: bool = False) -> None:
        """Open nothing yet.

        Args:
            max_open: files that are kept open.
            in_order: most of a shard will be read, from front to back, so reading ahead pays.
        """
        self._max_open, self._in_order = max_open, in_order
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
        if is_tree(url):
            url = join_url(url, member)
        if url in self._open:
            self._open.move_to_end(url)
        else:
            self._open[url] = ShardFile(url, in_order=self._in_order)
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


def is_tree(url: str) -> bool:
    """Whether a shard is of a folder tree; one may be called birds.tar, too."""
    return not is_tar(url) or (is_local_url(url) and os.path.isdir(url))


def read_image_bytes(url: str, member: str, offset: int, num_bytes: int) -> bytes:
    """The bytes of one image, by what `samples` records; see `ImageFetcher.read`."""
    with ImageFetcher(max_open=1) as fetcher:
        return fetcher.read(url, member, offset, num_bytes)


def sha256_of(file: ShardFile) -> str:
    """Hex digest of a whole file."""
    digest = hashlib.sha256()
    for start in range(0, file.num_bytes, CHUNK_BYTES):
        digest.update(file.read(start, min(CHUNK_BYTES, file.num_bytes - start)))
    return digest.hexdigest()
