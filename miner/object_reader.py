"""One object of a bucket, read by offset: its shards and tables.

A read whose connection breaks goes on behind the bytes that came, and all bytes are of one version
of the object.
"""

from __future__ import annotations

import time
from io import RawIOBase
from typing import TYPE_CHECKING

from miner.errors import ShardError
from miner.objects import explained, open_bucket

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer
    from obstore import GetOptions, ObjectMeta
    from obstore.store import GCSStore, S3Store

MAX_FAILURES = 3
RETRY_WAIT_S = 0.2
"""A read whose connection breaks goes on behind the bytes that came, until it breaks so often in
turn without a byte; the first wait is so long, in seconds, and doubles each time."""


class ObjectReader:
    """One object, read by offset.

    Where a connection breaks, a read goes on behind the bytes that came. All bytes are of one
    version of the object: where it is replaced meanwhile, reading fails.
    """

    def __init__(self, bucket: S3Store | GCSStore, path: str, url: str) -> None:
        """Look an object up.

        Args:
            bucket: where it is.
            path: of the object in the bucket.
            url: what to call it.

        Raises:
            ShardError: it cannot be looked up.
            FileNotFoundError: it is not there.
        """
        import obstore

        self._bucket, self._path, self.url = bucket, path, url
        with explained(url, ShardError):
            self.meta: ObjectMeta = obstore.head(bucket, path)

    @property
    def num_bytes(self) -> int:
        """The object's size."""
        return self.meta["size"]

    def read(self, offset: int, num_bytes: int) -> bytes:
        """The bytes from an offset, fewer where the object ends.

        Raises:
            ShardError: they cannot be had, or the object was replaced since it was opened.
        """
        wanted = max(0, min(num_bytes, self.num_bytes - offset))
        data = bytearray()
        failures = 0
        while len(data) < wanted:
            before = len(data)
            try:
                self._stream(offset + before, offset + wanted, data)
            except _Changed:
                raise
            except ShardError:
                failures = 0 if len(data) > before else failures + 1
                if failures > MAX_FAILURES:
                    raise
                time.sleep(RETRY_WAIT_S * 2**failures)
        return bytes(data)

    def _stream(self, start: int, stop: int, data: bytearray) -> None:
        """Add what comes of a range, until it ends or breaks."""
        import obstore
        from obstore.exceptions import PreconditionError

        options: GetOptions = {"range": (start, stop)}
        if self.meta["e_tag"]:
            options["if_match"] = self.meta["e_tag"]
        try:
            with explained(self.url, ShardError):
                for chunk in obstore.get(self._bucket, self._path, options=options).stream(2**16):
                    data += chunk
        except (PreconditionError, FileNotFoundError) as error:
            raise _Changed(
                f"{self.url} was changed while it was read; restore it and run the same "
                "command again"
            ) from error


def open_object(url: str) -> ObjectReader:
    """An object by its URL; see `ObjectReader`."""
    scheme, _, place = url.partition("://")
    bucket, _, path = place.partition("/")
    return ObjectReader(open_bucket(f"{scheme}://{bucket}"), path, url)


class _Changed(ShardError):
    """An object is another one than when it was opened."""


class ObjectFile(RawIOBase):
    """An object as a file."""

    def __init__(self, reader: ObjectReader) -> None:
        """Begin at the front.

        Args:
            reader: of the object.
        """
        self._reader, self._offset = reader, 0

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """The offset of the next byte."""
        return self._offset

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to an offset, counted from the front, from here (1) or from the end (2)."""
        self._offset = offset + (0, self._offset, self._reader.num_bytes)[whence]
        return self._offset

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill a buffer, as far as there are bytes; their number."""
        view = memoryview(buffer).cast("B")
        data = self._reader.read(self._offset, len(view))
        view[: len(data)] = data
        self._offset += len(data)
        return len(data)
