"""The records of a run: read, checked against their hashes, and remembered while that is right."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from miner.bundles import read_records
from miner.errors import StoreError
from miner.files import Entry, Files
from miner.records import Json, decode_record, encode_record

FOLDERS = ("samples", "quarantine", "vectors", "blocks", "packed", "commits", "pairs")
"""Folders of a run in which nothing lies that no record names, once a command has ended well."""


class RunRecords:
    """Records by their paths in a run."""

    def __init__(self, files: Files, root: str, *, in_bucket: bool) -> None:
        """Take a run's files.

        Args:
            files: of the run.
            root: where it lies, for people.
            in_bucket: whether each file that is read is a request.
        """
        self._files, self._root, self._in_bucket = files, root, in_bucket
        self._named: dict[tuple[str, str], set[str]] = {}
        self._remembered: dict[str, bytes] = {}

    @contextmanager
    def remembering(self) -> Iterator[None]:
        """Read the commits of whole shards at once, and none of them again within the block."""
        before = self._remembered
        there = self._files.below("commits/samples") + self._files.below("commits/vectors")
        # Those with a `~` are parts, which may be taken back.
        records = [e for e in there if is_record(e.path) and "~" not in e.path.split("/")[-1]]
        found = self._read_many(records)
        self._remembered = {e.path: data for e, data in zip(records, found, strict=True)}
        try:
            yield
        finally:
            self._remembered = before

    def exists(self, path: str) -> bool:
        """Whether there is such a record."""
        return path in self._remembered or self._files.exists(path)

    def forget(self, path: str) -> None:
        """A record is taken back."""
        self._remembered.pop(path, None)

    def read(self, path: str) -> Json:
        """A record.

        Raises:
            StoreError: it is missing, cut or edited.
        """
        place = f"{self._root}/{path}"
        try:
            data = self._remembered.get(path) or self._files.read(path)
        except OSError as error:
            raise StoreError(
                f"{place} cannot be read ({error}); restore it or remove it"
            ) from error
        return decode_record(data, place)

    def replace(self, path: str, record: Json) -> None:
        """Write a record, with its hash, in the place of an older one."""
        self._files.write(path, encode_record(record))

    def named(self) -> set[str]:
        """Relative paths of all files that a record names."""
        records = [entry for entry in self._files.below("commits") if is_record(entry.path)]
        records += [entry for entry in self._files.below("pairs") if is_record(entry.path)]
        # A record is put once, so what it names is remembered as long as it is the same.
        unread = [entry for entry in records if (entry.path, entry.version) not in self._named]
        for entry, data in zip(unread, self._read_many(unread), strict=True):
            record = decode_record(data, f"{self._root}/{entry.path}")
            files = [*record["files"]]
            files += [record["selection"]["file"]] if "selection" in record else []
            self._named[entry.path, entry.version] = {file["path"] for file in files}
        return set().union(*(self._named[entry.path, entry.version] for entry in records))

    def leftovers(self) -> list[str]:
        """Files that no record names."""
        there = [name for name in self._files.names("") if name.endswith(".unfinished")]
        there += [entry.path for folder in FOLDERS for entry in self._files.below(folder)]
        # What people decided is named by no record and never left over.
        review = self._files.below("review")
        there += [entry.path for entry in review if entry.path.endswith(".unfinished")]
        # Read after the files were listed, so that what is committed meanwhile is named.
        named = self.named()
        return [path for path in there if _is_leftover(path, named)]

    def _read_many(self, entries: Sequence[Entry]) -> Iterator[bytes]:
        """The bytes of many records, in their order."""
        if self._in_bucket:
            return read_records(self._files, entries)
        return self._files.read_many(entry.path for entry in entries)


def is_record(path: str) -> bool:
    """Whether what lies at a path of the run is a record, by its place."""
    folder, *below = path.split("/")
    if folder == "commits":
        return is_record_name(below[-1])
    return folder == "pairs" and below[1:] == ["join.json"]


def is_record_name(name: str) -> bool:
    """Whether a file among the commits is a record, by its name."""
    return name.endswith(".json") and not name.startswith(".")


def _is_leftover(path: str, named: set[str]) -> bool:
    if path.endswith(".unfinished"):
        return True
    is_report = path.startswith("pairs/") and path.split("/")[2] == "report"
    return not is_record(path) and not is_report and path not in named
