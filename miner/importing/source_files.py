"""The files of a source: what they are, and whether they are still what was imported."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from miner.errors import FingerprintError
from miner.importing.sources import Part
from miner.records import Json, file_sha256


class SourceFiles:
    """What the files of a source are, each hashed once."""

    def __init__(self) -> None:
        self._records: dict[Path, Json] = {}

    def record(self, path: Path) -> Json:
        """Name, size, time and sha256 of a file."""
        if path not in self._records:
            status = path.stat()
            self._records[path] = {
                "name": path.name,
                "num_bytes": status.st_size,
                "modified": str(status.st_mtime_ns),
                "sha256": file_sha256(path),
            }
        return self._records[path]

    def check(self, part: Part, recorded: Sequence[Json], shard_id: str) -> None:
        """Refuse a part that is not what was committed of it; other files are passed over.

        Raises:
            FingerprintError: a file of that name has other bytes now.
        """
        by_name = {path.name: path for path in part.files}
        for was in recorded:
            path = by_name.get(was["name"])
            if path is None:
                continue
            status = path.stat()
            if (status.st_size, str(status.st_mtime_ns)) == (was["num_bytes"], was["modified"]):
                continue
            if self.record(path)["sha256"] != was["sha256"]:
                raise FingerprintError(
                    f"{path} has other bytes since {shard_id} was imported from it (sha256 "
                    f"{self.record(path)['sha256'][:12]}, {was['sha256'][:12]} recorded); restore "
                    "it, or give another --dataset or --out"
                )
