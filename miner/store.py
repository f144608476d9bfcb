"""A run directory: commits, tables, resume.

A table is written under a name of its own attempt and becomes part of the run only when a commit
record names it. Records are put-if-absent, so of several writers one wins and the others withdraw.
Readers follow records, never globs.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock

from miner import schema
from miner.errors import FingerprintError, StoreError
from miner.records import (
    Json,
    differences,
    file_sha256,
    flush_to_disk,
    put_record,
    read_json,
    read_record,
    replace_json,
)

FOLDERS = ("samples", "quarantine", "vectors", "blocks", "packed", "commits", "pairs")
"""Folders of a run in which nothing lies that no record names, once a command has ended well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """A file that a commit record names: path relative to the run, rows, sha256 (hex)."""

    path: str
    rows: int
    sha256: str


class Store:
    """The run directory at `root`; made on first use.

    Attributes:
        root: the folder; every path in a record is relative to it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    # -- locks ------------------------------------------------------------------------------

    def lock(self, name: str = "run") -> FileLock:
        """A lock for what is replaced and not put once: `run` for run.json, or a join's name."""
        return FileLock(self._lock_path(f"{name}.lock"))

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Held by everyone who writes, so that nobody takes an attempt at work for a dead one."""
        with self._lock_path("writers").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            yield

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """Whether nobody writes; while the block runs, nobody begins to."""
        with self._lock_path("writers").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True

    def _lock_path(self, name: str) -> Path:
        folder = self.root / ".locks"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / name

    # -- run.json ---------------------------------------------------------------------------

    @property
    def run_path(self) -> Path:
        """Where the run describes itself."""
        return self.root / "run.json"

    def exists(self) -> bool:
        """Whether the folder holds a run."""
        return self.run_path.exists()

    def run(self) -> Json:
        """The content of run.json.

        Raises:
            StoreError: the folder holds no run, or run.json is damaged.
        """
        if not self.exists():
            raise StoreError(
                f"{self.root} holds no run (there is no run.json); "
                "give the folder that `blindpairs mine --out` wrote"
            )
        return read_json(self.run_path)

    def update_run(self, reading: Json, shards: Json, command: Json) -> None:
        """Log a command and the shards it was given; make the run if it is new.

        Raises:
            FingerprintError: the run was made with other reading settings.
        """
        # With this folder a walk over images knows the run for what it is.
        (self.root / "commits").mkdir(parents=True, exist_ok=True)
        with self.writing(), self.lock():
            if self.exists():
                run = self.run()
                if changed := differences(run["reading"], reading):
                    raise FingerprintError(
                        f"{self.root} was read with other settings ({'; '.join(changed)}); "
                        "give the same ones, or another --out"
                    )
            else:
                run = {"format": 1, "reading": reading, "shards": {}, "commands": []}
            run["shards"].update(shards)
            run["commands"].append(command)
            replace_json(self.run_path, run)

    def log_command(self, command: Json) -> None:
        """Log a command that reads no shards."""
        run = self.run()
        self.update_run(run["reading"], {}, command)

    # -- writing ----------------------------------------------------------------------------

    def write_table(self, table: pa.Table, folder: str, name: str) -> FileEntry:
        """Write a table whole under `folder/name`; it stays invisible until it is committed."""
        path = self.root / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{name}.unfinished")
        is_vectors = "vector" in table.column_names
        pq.write_table(
            table,
            unfinished,
            compression="none" if is_vectors else "zstd",
            use_dictionary=not is_vectors,
            column_encoding={"vector.list.element": "PLAIN"} if is_vectors else None,
        )
        flush_to_disk(unfinished)
        sha256 = file_sha256(unfinished)
        unfinished.rename(path)
        flush_to_disk(path.parent)
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
        if put_record(self.commit_path(stage, shard_id), {"files": named, **record}):
            return True
        for file in files:
            (self.root / file.path).unlink(missing_ok=True)
        return False

    # -- reading ----------------------------------------------------------------------------

    def commit_path(self, stage: str, shard_id: str) -> Path:
        """Where the record of a shard's stage lies."""
        return self.root / "commits" / stage / f"{shard_id}.json"

    def withdraw(self, stage: str, name: str) -> None:
        """Take back a commit that nothing is built on any more, and remove its files."""
        record = self.record(stage, name)
        self.commit_path(stage, name).unlink()
        for file in record["files"]:
            (self.root / file["path"]).unlink(missing_ok=True)

    def committed(self, stage: str) -> list[str]:
        """Shard ids that a stage has committed, sorted."""
        folder = self.root / "commits" / stage
        return sorted(path.name.removesuffix(".json") for path in folder.glob("[!.]*.json"))

    def encoder_ids(self) -> list[str]:
        """Encoders that have committed vectors, sorted."""
        folder = self.root / "commits" / "vectors"
        return sorted(path.name for path in folder.iterdir()) if folder.exists() else []

    def record(self, stage: str, shard_id: str) -> Json:
        """A commit record, checked against its own hash.

        Raises:
            StoreError: the record is missing, cut or edited.
        """
        return read_record(self.commit_path(stage, shard_id))

    def join_record(self, folder: Path) -> Json | None:
        """The content of a join's join.json; None where its files are not whole.

        Raises:
            StoreError: join.json is cut or edited.
        """
        if not (folder / "join.json").exists():
            return None
        record = read_record(folder / "join.json")
        whole = all(self.is_whole(file) for file in record["files"])
        return record if whole else None

    def is_whole(self, file: Json) -> bool:
        """Whether a file is there with the hash that its record names."""
        path = self.root / file["path"]
        return path.exists() and file_sha256(path) == str(file["sha256"])

    def table(self, record: Json, prefix: str, columns: list[str] | None = None) -> pa.Table:
        """The table that a record names under a folder (`samples`, `vectors`, ...).

        Raises:
            StoreError: the record names no such file, or its rows are not as recorded.
        """
        for file in record["files"]:
            if file["path"].startswith(f"{prefix}/"):
                path = self.root / file["path"]
                try:
                    # Not read_table: it would read hive partitions into the path.
                    table = pq.ParquetFile(path).read(columns)
                except (OSError, pa.ArrowException) as error:
                    raise StoreError(
                        f"{path} cannot be read ({error}); run `blindpairs verify {self.root}`"
                    ) from error
                if table.num_rows != file["rows"]:
                    raise StoreError(
                        f"{path} has {table.num_rows} rows, its commit says {file['rows']}; "
                        f"run `blindpairs verify {self.root}`"
                    )
                return table
        raise StoreError(f"a commit of {self.root} names no file under {prefix}/")

    def samples(self, shard_id: str) -> pa.Table:
        """The committed samples of a shard."""
        return self.table(self.record("samples", shard_id), "samples")

    def quarantine(self, shard_id: str) -> pa.Table:
        """The committed refusals of a shard."""
        return self.table(self.record("samples", shard_id), "quarantine")

    def vectors(self, encoder_id: str, shard_id: str) -> tuple[list[str], np.ndarray]:
        """The committed vectors of a shard: image_ids [N] and float16 [N, D]."""
        table = self.table(self.record(f"vectors/{encoder_id}", shard_id), "vectors")
        column = table["vector"].combine_chunks()
        dim = table.schema.field("vector").type.list_size
        vectors_ND = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, dim)
        return table["image_id"].to_pylist(), vectors_ND

    def vector_ids(self, encoder_id: str, shard_id: str) -> list[str]:
        """The image_ids of a shard's committed vectors, in their order."""
        record = self.record(f"vectors/{encoder_id}", shard_id)
        ids: list[str] = self.table(record, "vectors", ["image_id"])["image_id"].to_pylist()
        return ids

    # -- leftovers --------------------------------------------------------------------------

    def named(self) -> set[str]:
        """Relative paths of all files that a record names."""
        records = [
            self.record(stage, shard_id)
            for stage in self.stages()
            for shard_id in self.committed(stage)
        ]
        records += [read_record(folder / "join.json") for folder in self.joins()]
        files = [file for record in records for file in record["files"]]
        files += [record["selection"]["file"] for record in records if "selection" in record]
        return {file["path"] for file in files}

    def stages(self) -> list[str]:
        """Every stage that has commits: `samples`, vectors of each encoder, blocks of each join."""
        blocks = sorted(path.name for path in (self.root / "commits" / "blocks").glob("*"))
        return [
            "samples",
            *(f"vectors/{encoder_id}" for encoder_id in self.encoder_ids()),
            *(f"blocks/{name}" for name in blocks),
        ]

    def leftovers(self) -> list[Path]:
        """Files that no record names: dead attempts, unless somebody writes (see `alone`)."""
        there = sorted(self.root.glob(".*.unfinished"))
        for folder in FOLDERS:
            there += sorted(path for path in (self.root / folder).rglob("*") if path.is_file())
        # Read after the files were listed, so that what is committed meanwhile is named.
        named = self.named()
        return [path for path in there if self._is_leftover(path, named)]

    def _is_leftover(self, path: Path, named: set[str]) -> bool:
        parts = path.relative_to(self.root).parts
        if path.name.endswith(".unfinished"):
            return True
        is_record = parts[0] == "commits" or parts[2:] == ("join.json",)
        is_report = parts[0] == "pairs" and parts[2:3] == ("report",)
        return not is_record and not is_report and "/".join(parts) not in named

    def joins(self) -> Iterator[Path]:
        """Folders of the finished joins."""
        yield from (path.parent for path in sorted((self.root / "pairs").glob("*/join.json")))


def read_parts(folder: Path) -> pa.Table:
    """All rows of a join's `raw` parts, in their order.

    Raises:
        StoreError: join.json is missing, cut or edited.
    """
    names = [Path(file["path"]) for file in read_record(folder / "join.json")["files"]]
    parts = [folder / "raw" / name.name for name in names if name.parent.name == "raw"]
    return pa.concat_tables(pq.ParquetFile(part).read() for part in parts)


def table_of(rows: list[Json], table_schema: pa.Schema) -> pa.Table:
    """Rows (dicts) as a table of a schema."""
    return pa.Table.from_pylist(rows, schema=table_schema)


def vector_table(image_ids: list[str], vectors_ND: np.ndarray) -> pa.Table:
    """Image ids [N] and vectors [N, D] as the table that the store keeps (float16)."""
    num_rows, dim = vectors_ND.shape
    flat = pa.array(np.ascontiguousarray(vectors_ND, dtype=np.float16).reshape(-1))
    target = schema.vectors(dim)
    vectors = pa.FixedSizeListArray.from_arrays(flat, type=target.field("vector").type)
    assert len(vectors) == num_rows
    return pa.Table.from_arrays([pa.array(image_ids, pa.string()), vectors], schema=target)
