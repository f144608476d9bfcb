"""A run directory: commits, tables, resume.

A table is written under a name of its own attempt and becomes part of the run only when a commit
record names it. Records are put-if-absent, so of several writers one wins and the others withdraw.
Readers follow records, never globs.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from miner.errors import StoreError
from miner.files import Files, put_own
from miner.records import Json, encode_record
from miner.run_place import RunPlace
from miner.run_records import RunRecords, is_record, is_record_name
from miner.tables import FileEntry, encode_table, vectors_of


class Store(RunPlace):
    """A run directory with its commits, tables and joins; made on first use."""

    def __init__(self, root: Path | str, *, files: Files | None = None) -> None:
        """Take a run, be it there already or not.

        Args:
            root: a folder, or a URL as `s3://bucket/run` or `gs://bucket/run`.
            files: what reads and writes there; default: what the root stands for.
        """
        super().__init__(root, files=files)
        self._records = RunRecords(self.files, str(self.root), in_bucket=not self.is_local)

    # -- writing ----------------------------------------------------------------------------

    def write_table(self, table: pa.Table, folder: str, name: str) -> FileEntry:
        """Write a table whole under `folder/name`; it stays invisible until it is committed."""
        data = encode_table(table)
        self.files.write(f"{folder}/{name}", data)
        sha256 = hashlib.sha256(data).hexdigest()
        return FileEntry(path=f"{folder}/{name}", rows=table.num_rows, sha256=sha256)

    def commit(self, stage: str, shard_id: str, files: list[FileEntry], record: Json) -> bool:
        """Make files part of the run, if no other writer did so first.

        Args:
            stage: `samples`, `vectors/<encoder_id>` or `blocks/<join name>`.
            shard_id: the shard, or the block of a join, whose rows the files hold.
            files: what `write_table` returned.
            record: everything else that is to be remembered.

        Returns:
            True where this call committed; False where the shard was committed already: the
            caller's files are then removed and the winner's stand.
        """
        named = [asdict(file) for file in files]
        self._locks.check()
        data = encode_record({"files": named, **record})
        if put_own(self.files, self.commit_path(stage, shard_id), data):
            return True
        for file in files:
            self.files.delete(file.path)
        return False

    # -- reading ----------------------------------------------------------------------------

    def commit_path(self, stage: str, shard_id: str) -> str:
        """Where the record of a shard's stage lies."""
        return f"commits/{stage}/{shard_id}.json"

    def is_committed(self, stage: str, shard_id: str) -> bool:
        """Whether a stage of a shard is done."""
        return self._records.exists(self.commit_path(stage, shard_id))

    def withdraw(self, stage: str, name: str) -> None:
        """Take back a commit that nothing is built on any more, and remove its files."""
        record = self.record(stage, name)
        self._records.forget(self.commit_path(stage, name))
        self.files.delete(self.commit_path(stage, name))
        for file in record["files"]:
            self.files.delete(file["path"])

    def committed(self, stage: str) -> list[str]:
        """Shard ids that a stage has committed, sorted."""
        names = self.files.names(f"commits/{stage}")
        ids = (name.removesuffix(".json") for name in names if is_record_name(name))
        return sorted(ids)

    def encoder_ids(self) -> list[str]:
        """Encoders that have committed vectors, sorted."""
        return self.files.names("commits/vectors")

    def record(self, stage: str, shard_id: str) -> Json:
        """A commit record, checked against its own hash.

        Raises:
            StoreError: the record is missing, cut or edited.
        """
        return self.read_record(self.commit_path(stage, shard_id))

    def remembering(self) -> AbstractContextManager[None]:
        """Read the commits of whole shards at once, and none of them again within the block.

        Nobody replaces such a commit; one that is made meanwhile is read when it is asked for.
        """
        return self._records.remembering()

    def read_record(self, path: str) -> Json:
        """A record of the run, checked against its own hash.

        Raises:
            StoreError: it is missing, cut or edited.
        """
        return self._records.read(path)

    def replace_record(self, path: str, record: Json) -> None:
        """Write a record, with its hash, in the place of an older one.

        Raises:
            StoreError: this process was taken for dead while it worked (see `Locks.check`).
        """
        self._locks.check()
        self._records.replace(path, record)

    def join_record(self, name: str) -> Json | None:
        """The content of a join's join.json; None where its files are not whole.

        Raises:
            StoreError: join.json is cut or edited.
        """
        path = f"pairs/{name}/join.json"
        if not self.files.exists(path):
            return None
        record = self.read_record(path)
        whole = all(self.is_whole(file) for file in record["files"])
        return record if whole else None

    def is_whole(self, file: Json) -> bool:
        """Whether a file is there with the hash that its record names."""
        try:
            return self.files.sha256(file["path"]) == str(file["sha256"])
        except FileNotFoundError:
            return False

    def table(self, record: Json, prefix: str, columns: list[str] | None = None) -> pa.Table:
        """The table that a record names under a folder (`samples`, `vectors`, ...).

        Raises:
            StoreError: the record names no such file, or its rows are not as recorded.
        """
        for file in record["files"]:
            if file["path"].startswith(f"{prefix}/"):
                table = self.read_table(file["path"], columns)
                if table.num_rows != file["rows"]:
                    raise StoreError(
                        f"{self.place(file['path'])} has {table.num_rows} rows, its commit says "
                        f"{file['rows']}; run `blindpairs verify {self.root}`"
                    )
                return table
        raise StoreError(f"a commit of {self.root} names no file under {prefix}/")

    def read_table(self, path: str, columns: list[str] | None = None) -> pa.Table:
        """A Parquet table of the run.

        Raises:
            StoreError: it is not there, or is no such table.
        """
        try:
            # Not read_table: it would read hive partitions into the path.
            with self.files.open(path) as file:
                return pq.ParquetFile(file).read(columns)
        except (OSError, pa.ArrowException) as error:
            raise StoreError(
                f"{self.place(path)} cannot be read ({error}); run `blindpairs verify {self.root}`"
            ) from error

    def samples(self, shard_id: str) -> pa.Table:
        """The committed samples of a shard."""
        return self.table(self.record("samples", shard_id), "samples")

    def quarantine(self, shard_id: str) -> pa.Table:
        """The committed refusals of a shard."""
        return self.table(self.record("samples", shard_id), "quarantine")

    def reasons(self, shard_id: str) -> Counter[str]:
        """How many samples of a shard were refused, by reason."""
        record = self.record("samples", shard_id)
        if "reasons" not in record:
            return Counter(self.table(record, "quarantine", ["reason"])["reason"].to_pylist())
        return Counter(record["reasons"])

    def vectors(self, encoder_id: str, shard_id: str) -> tuple[list[str], np.ndarray]:
        """The committed vectors of a shard: image_ids [N] and float16 [N, D]."""
        table = self.table(self.record(f"vectors/{encoder_id}", shard_id), "vectors")
        return table["image_id"].to_pylist(), vectors_of(table)

    def vector_ids(self, encoder_id: str, shard_id: str) -> list[str]:
        """The image_ids of a shard's committed vectors, in their order."""
        record = self.record(f"vectors/{encoder_id}", shard_id)
        ids: list[str] = self.table(record, "vectors", ["image_id"])["image_id"].to_pylist()
        return ids

    # -- leftovers --------------------------------------------------------------------------

    def stages(self) -> list[str]:
        """Every stage that has commits: `samples`, vectors of each encoder, blocks of each join."""
        return [
            "samples",
            *(f"vectors/{encoder_id}" for encoder_id in self.encoder_ids()),
            *(f"blocks/{name}" for name in self.files.names("commits/blocks")),
        ]

    def leftovers(self) -> list[str]:
        """Files that no record names: dead attempts, unless somebody writes (see `alone`)."""
        return self._records.leftovers()

    def joins(self) -> list[str]:
        """Names of the finished joins."""
        names = self.files.names("pairs")
        return [name for name in names if self.files.exists(f"pairs/{name}/join.json")]

    def last_join(self) -> str | None:
        """The name of the join that was finished or selected from last."""
        files = [entry for entry in self.files.below("pairs") if is_record(entry.path)]
        if not files:
            return None
        return max(files, key=lambda entry: entry.modified).path.split("/")[1]

    def raw(self, name: str) -> pa.Table:
        """All rows of a join's `raw` parts, in their order.

        Raises:
            StoreError: join.json or a part is missing, cut or edited.
        """
        files = self.read_record(f"pairs/{name}/join.json")["files"]
        parts = [file["path"] for file in files if "/raw/" in file["path"]]
        return pa.concat_tables(self.read_table(part) for part in parts)
