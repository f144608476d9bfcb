"""What lies in buckets, as fsspec wants it told, so that patterns and folders work on them."""

from __future__ import annotations

from typing import Any

import fsspec
import obstore

from miner.errors import ShardError
from miner.objects import explained, open_bucket


class BucketListing(fsspec.AbstractFileSystem):  # type: ignore[misc]
    """Listings and look-ups in all buckets of one scheme; nothing is remembered.

    Paths are `bucket/key`, as fsspec has them.
    """

    cachable = False

    def __init__(self, scheme: str) -> None:
        """Take a scheme, as `s3`."""
        super().__init__()
        self.protocol = self._scheme = scheme

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return path.rpartition("://")[2].rstrip("/")

    def unstrip_protocol(self, name: str) -> str:
        """The URL of a path."""
        return f"{self._scheme}://{self._strip_protocol(name)}"

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """What lies at a path: an object, or a folder that has some.

        Raises:
            FileNotFoundError: nothing.
            ShardError: it cannot be looked up.
        """
        url = self.unstrip_protocol(path)
        bucket, key = self._split(path)
        with explained(url, ShardError):
            if key:
                try:
                    return self._told(bucket, obstore.head(self._bucket(bucket), key))
                except FileNotFoundError:
                    # A folder, maybe.
                    pass
            found = obstore.list(self._bucket(bucket), prefix=key or None, chunk_size=1)
            if next(iter(found), None):
                return {"name": self._strip_protocol(path), "size": 0, "type": "directory"}
        raise FileNotFoundError(url)

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        """What lies directly in a folder.

        Raises:
            FileNotFoundError: nothing.
            ShardError: it cannot be listed.
        """
        url = self.unstrip_protocol(path)
        bucket, key = self._split(path)
        with explained(url, ShardError):
            found = obstore.list_with_delimiter(self._bucket(bucket), prefix=key or None)
        folders = [
            {"name": f"{bucket}/{name}", "size": 0, "type": "directory"}
            for name in found["common_prefixes"]
        ]
        entries = [*folders, *(self._told(bucket, meta) for meta in found["objects"])]
        if not entries:
            raise FileNotFoundError(url)
        return entries if detail else [entry["name"] for entry in entries]

    def _split(self, path: str) -> tuple[str, str]:
        bucket, _, key = self._strip_protocol(path).partition("/")
        return bucket, key

    def _bucket(self, name: str) -> Any:
        return open_bucket(f"{self._scheme}://{name}")

    @staticmethod
    def _told(bucket: str, meta: obstore.ObjectMeta) -> dict[str, Any]:
        told = {"name": f"{bucket}/{meta['path']}", "size": meta["size"], "type": "file"}
        return told | {"etag": meta["e_tag"] or str(meta["last_modified"])}
