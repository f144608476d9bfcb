"""Where a run lies, who is at work on it, and its run.json: what was asked of it so far."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from pathlib import Path

from miner.errors import FingerprintError, StoreError
from miner.files import Files, LocalFiles
from miner.locks import LocalLocks, Locks
from miner.objects import is_object_url
from miner.records import Json, decode_json, differences, digest, encode_json

SCRATCH = Path("~/.cache/blindpairs/scratch")
"""Where joins map vectors into memory whose runs lie in buckets."""


class RunPlace:
    """A run directory, or its URL; made on first use.

    Attributes:
        root: its folder, or its URL; every path in a record is relative to it.
        files: what reads and writes there.
        scratch: a local folder for what a join maps into memory.
    """

    def __init__(self, root: Path | str, *, files: Files | None = None) -> None:
        """Take a run, be it there already or not.

        Args:
            root: a folder, or a URL as `s3://bucket/run` or `gs://bucket/run`.
            files: what reads and writes there; default: what the root stands for.
        """
        # Absolute, since workers stand in other folders.
        self.root = str(root).rstrip("/") if is_object_url(root) else Path(os.path.abspath(root))
        if isinstance(self.root, Path):
            self.files: Files = files or LocalFiles(self.root)
            self._locks: Locks = LocalLocks(self.root)
            self.scratch = self.root / "packed"
        else:
            # Not at the top: who works on a local folder does not wait for it.
            from miner.leases import LeaseLocks
            from miner.object_files import ObjectFiles

            self.files = files or ObjectFiles(self.root)
            self._locks = LeaseLocks(self.files)
            self.scratch = SCRATCH.expanduser() / self.identity

    @property
    def is_local(self) -> bool:
        """Whether it is a folder, which every process that works on it sees."""
        return isinstance(self.root, Path)

    @property
    def name(self) -> str:
        """The last part of the run's folder."""
        return self.files.address.rstrip("/").rpartition("/")[2]

    @property
    def identity(self) -> str:
        """A hash of where the run lies, as a name."""
        return digest(self.files.address)[:16]

    def place(self, path: str) -> str:
        """Where a file of the run lies, for people."""
        return f"{self.root}/{path}"

    # -- locks ------------------------------------------------------------------------------

    def lock(self, name: str) -> AbstractContextManager[object]:
        """A lock for what is replaced and not put once: a join's name."""
        return self._locks.lock(name)

    def writing(self) -> AbstractContextManager[None]:
        """Held by everyone who writes, so that nobody takes an attempt at work for a dead one."""
        return self._locks.writing()

    def alone(self) -> AbstractContextManager[bool]:
        """Whether nobody writes; while the block runs, nobody begins to."""
        return self._locks.alone()

    def is_written(self) -> bool:
        """Whether some command writes to the run at this moment."""
        return self._locks.is_written()

    # -- run.json ---------------------------------------------------------------------------

    def exists(self) -> bool:
        """Whether there is a run."""
        return self.files.exists("run.json")

    def run(self) -> Json:
        """The content of run.json.

        Raises:
            StoreError: there is no run, or run.json is damaged.
        """
        try:
            data = self.files.read("run.json")
        except FileNotFoundError as error:
            raise StoreError(
                f"{self.root} holds no run (there is no run.json); "
                "give the folder that `blindpairs mine --out` wrote"
            ) from error
        return decode_json(data, self.place("run.json"))

    def update_run(self, reading: Json, shards: Json, command: Json) -> None:
        """Log a command and the shards it was given; make the run if it is new.

        Raises:
            FingerprintError: the run was made with other reading settings.
        """

        def change(data: bytes | None) -> bytes:
            run: Json = {"format": 1, "reading": reading, "shards": {}, "commands": []}
            if data is not None:
                run = decode_json(data, self.place("run.json"))
            if changed := differences(run["reading"], reading):
                raise FingerprintError(
                    f"{self.root} was read with other settings ({'; '.join(changed)}); "
                    "give the same ones, or another --out"
                )
            run["shards"].update(shards)
            run["commands"].append(command)
            return encode_json(run)

        with self.writing():
            self.files.update("run.json", change)

    def log_command(self, command: Json) -> None:
        """Log a command that reads no shards."""
        run = self.run()
        self.update_run(run["reading"], {}, command)
