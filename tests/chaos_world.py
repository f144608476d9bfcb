"""A small corpus and the commands that mine it, in processes of their own that faults may hit."""

from __future__ import annotations

import os
import resource
import signal
import time
from dataclasses import dataclass, replace
from functools import cache
from multiprocessing.process import BaseProcess
from pathlib import Path

from miner.audit import verify
from miner.files import LocalFiles
from miner.store import Store
from tests.failing import FailingFiles, How
from tests.small import write_corpus, write_weights
from tests.warm import WarmProcess

FINISHED_S = 180.0
"""Nothing here takes so long, in seconds; what does, hangs."""

WELL = 0
PARTIAL = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """What goes wrong with a command's storage.

    Attributes:
        most_bytes: no file may be larger; 0 for any size.
        k: the k-th operation on the run's files fails; 0 for none.
        how: it fails, as in `tests.failing`.
    """

    most_bytes: int = 0
    k: int = 0
    how: How = "EIO"


def command(words: list[str], environment: dict[str, str], errors: str, trouble: Trouble) -> None:
    """One whole command, in a process of its own."""
    import torch

    import miner.run_place
    from tests.mine_small import main

    os.environ.update(environment)
    torch.set_num_threads(1)
    with Path(errors).open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if trouble.most_bytes:
        # Files that would be larger are refused by the system.
        resource.setrlimit(resource.RLIMIT_FSIZE, (trouble.most_bytes, trouble.most_bytes))
    if trouble.k:
        # One storage for all that the command opens on the run.
        files = cache(lambda root: FailingFiles(LocalFiles(root), trouble.k, trouble.how))
        assert "LocalFiles" in vars(miner.run_place)
        vars(miner.run_place)["LocalFiles"] = files
    main(words)


NO_TROUBLE = Trouble()


@dataclass(frozen=True, kw_only=True)
class World:
    """A corpus, and what comes of it.

    Attributes:
        folder: of everything.
        options: the command's words, but for `--out`.
        truth: the parts of `raw` and the selection of a run that nobody disturbed, by path.
        commits: the names of its commit records.
        environment: of the commands.
    """

    folder: Path
    options: tuple[str, ...]
    truth: dict[str, bytes]
    commits: frozenset[str]
    environment: dict[str, str]

    @classmethod
    def make(cls, folder: Path, *, num_shards: int = 6, images: int = 8) -> World:
        """Write a corpus and mine it undisturbed, in one process.

        Args:
            folder: where to.
            num_shards: of the corpus.
            images: to a shard; one of eight is broken.
        """
        write_corpus(folder / "corpus", num_shards=num_shards, images=images)
        clip, dino = write_weights(folder / "weights")
        options = (
            *("mine", str(folder / "corpus"), "--max-bad-fraction", "0.5", "--batch-size", "4"),
            *("--clip", "small-clip", "--clip-weights", str(clip), "--clip-above", "0.9"),
            *("--dino", "small-dino", "--dino-weights", str(dino), "--dino-below", "0.8"),
            *("--decoders", "thread"),
        )
        calm = cls(folder=folder, options=options, truth={}, commits=frozenset(), environment={})
        undisturbed = folder / "undisturbed"
        calm.finish(undisturbed)
        return replace(calm, truth=tables(undisturbed), commits=frozenset(committed(undisturbed)))

    def on_ray(self, address: str) -> World:
        """The same, but that the commands have two workers of a Ray cluster do their work."""
        on_ray = ("--executor", "ray", "--num-workers", "2", "--cores-per-worker", "1")
        environment = {"RAY_ADDRESS": address}
        return replace(self, options=(*self.options, *on_ray), environment=environment)

    def start(self, run: Path, trouble: Trouble = NO_TROUBLE) -> BaseProcess:
        """Begin the command on a run."""
        words = [*self.options, "--out", str(run)]
        run.parent.mkdir(parents=True, exist_ok=True)
        errors = str(run.with_suffix(".err"))
        process = WarmProcess(target=command, args=(words, self.environment, errors, trouble))
        process.start()
        return process

    def finish(self, run: Path) -> int:
        """The command, to its end; on Ray again where a shard was given up, it has to end well."""
        for _ in range(3 if "ray" in self.options else 1):
            process = self.start(run)
            process.join(FINISHED_S)
            told = run.with_suffix(".err").read_text()
            assert process.exitcode is not None, f"{run}: hangs; it said {told}"
            if process.exitcode == WELL:
                return process.exitcode
            assert process.exitcode == PARTIAL, f"{run}: exit {process.exitcode}; it said {told}"
        raise AssertionError(f"{run}: a shard is given up again and again; it said {told}")

    def check(self, run: Path) -> None:
        """The run is what it would be had nobody disturbed it."""
        assert "Traceback" not in (told := run.with_suffix(".err").read_text()), told
        assert committed(run).keys() == self.commits
        assert tables(run) == self.truth
        assert verify(Store(run)) == []
        assert Store(run).leftovers() == []

    def finish_and_check(self, run: Path) -> None:
        """Go on with the run as it was left, to its end, and check it."""
        before = committed(run)
        self.finish(run)
        after = committed(run)
        assert {name: after[name] for name in before} == before, "a commit was written again"
        self.check(run)


def tables(run: Path) -> dict[str, bytes]:
    """The parts of `raw` and the selection of every join, by path."""
    paths = [*run.glob("pairs/*/raw/*.parquet"), *run.glob("pairs/*/selected.parquet")]
    return {path.relative_to(run).as_posix(): path.read_bytes() for path in paths}


def committed(run: Path) -> dict[str, bytes]:
    """Every commit record by its path."""
    records = sorted((run / "commits").rglob("[!.]*.json")) if run.exists() else []
    return {path.relative_to(run / "commits").as_posix(): path.read_bytes() for path in records}


def wait_for_commits(process: BaseProcess, run: Path, number: int) -> None:
    """Wait until a run has so many commits, or its command is over."""
    end_s = time.monotonic() + FINISHED_S
    while process.is_alive() and len(committed(run)) < number:
        assert time.monotonic() < end_s, f"{run}: hangs at {len(committed(run))} commits"
        time.sleep(0.005)


def workers_of(run: Path) -> list[int]:
    """Ray workers that are at work on a run: those that hold its lock of writers."""
    lock = str((run / ".locks" / "writers").resolve())
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if process.joinpath("cmdline").read_bytes().startswith(b"ray::") and any(
                os.readlink(descriptor) == lock for descriptor in (process / "fd").iterdir()
            ):
                found.append(int(process.name))
        except OSError:
            # It ended meanwhile, or is somebody else's.
            continue
    return found


def wait_for_workers(process: BaseProcess, run: Path) -> list[int]:
    """Wait until there are workers at work on a run, or its command is over."""
    end_s = time.monotonic() + FINISHED_S
    while process.is_alive() and not (workers := workers_of(run)):
        assert time.monotonic() < end_s, f"{run}: no worker comes"
        time.sleep(0.02)
    return workers if process.is_alive() else []


def flip(data: bytes, place: int, bits: int) -> bytes:
    """The same bytes, with other bits at one place."""
    return data[:place] + bytes([data[place] ^ bits]) + data[place + 1 :]


def kill(pid: int | None) -> None:
    """End a process as an impatient system does."""
    assert pid is not None
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
