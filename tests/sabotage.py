"""An executor whose workers are ended at given moments of an embedding, each of them once.

The moments are those at which something might be lost or done twice: before a shard is read, while
its images are decoded, when its tables lie there without a commit, when they are committed and
nobody was told, and when the driver is about to be told.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from miner.files import Bytes, LocalFiles
from miner.store import Store
from pipelines.embed_work import EmbedShards, EmbedWorker, ShardReport, ShardTask
from pipelines.executors import Executor, OnProgress, Outcome, Work, Worker

MOMENTS = (
    "before it is read",
    "while it is decoded",
    "when it is written",
    "when it is committed",
    "before it is told",
)

WAYS = ("is killed", "exits", "leaves", "hangs")


@dataclass(frozen=True, slots=True, kw_only=True)
class Deed:
    """What happens at a shard, once: when, and how the worker ends."""

    moment: str
    way: str = "is killed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """What happens at which shard, and where a deed leaves its mark."""

    deeds: dict[str, Deed]
    marks: Path

    def at(self, shard_id: str, moment: str) -> None:
        """Do what is to be done to a shard now, if it was not done yet."""
        deed = self.deeds.get(shard_id)
        if deed is None or deed.moment != moment:
            return
        try:
            (self.marks / f"{shard_id} {moment}").touch(exist_ok=False)
        except FileExistsError:
            return
        if deed.way == "is killed":
            os.kill(os.getpid(), signal.SIGKILL)
        elif deed.way == "exits":
            os._exit(1)
        elif deed.way == "leaves":
            sys.exit(0)
        elif deed.way == "hangs":
            time.sleep(600)


class Treacherous(LocalFiles):
    """A folder in which commits are the moments of a plot."""

    def __init__(self, root: Path, plot: Plot) -> None:
        super().__init__(root)
        self._plot = plot

    def put(self, path: str, data: Bytes) -> bool:
        """See `Files`."""
        shard_id = Path(path).name.removesuffix(".json")
        is_samples = path.startswith("commits/samples/")
        if is_samples:
            self._plot.at(shard_id, "when it is written")
        done = super().put(path, data)
        if is_samples:
            self._plot.at(shard_id, "when it is committed")
        return done


@dataclass(frozen=True, kw_only=True)
class Sabotaged(Work[ShardTask, ShardReport]):
    """An embedding in which a plot is carried out."""

    work: EmbedShards
    plot: Plot

    def open(self, num_cores: int | None = None) -> SabotagedWorker:
        """Get ready, with the plot in mind."""
        worker = self.work.open(num_cores)
        root = Path(self.work.root)
        worker._store = Store(root, files=Treacherous(root, self.plot))
        return SabotagedWorker(worker, self.plot)


class SabotagedWorker(Worker[ShardTask, ShardReport]):
    """Embeds shards until it is ended."""

    def __init__(self, worker: EmbedWorker, plot: Plot) -> None:
        self._worker, self._plot = worker, plot

    def stream(
        self, tasks: Iterator[ShardTask | None], on_progress: OnProgress
    ) -> Generator[tuple[ShardTask, ShardReport]]:
        """Embed shards as ever, but for the plot."""
        in_hand: list[str] = []

        def taken() -> Iterator[ShardTask | None]:
            for task in tasks:
                if task is not None:
                    self._plot.at(task.name, "before it is read")
                    in_hand.append(task.name)
                yield task

        def progressed(number: int) -> None:
            on_progress(number)
            self._plot.at(in_hand[0], "while it is decoded")

        for task, report in self._worker.stream(taken(), progressed):
            self._plot.at(task.name, "before it is told")
            in_hand.remove(task.name)
            yield task, report

    def close(self) -> None:
        """Give back what is held."""
        self._worker.close()


class Saboteur(Executor):
    """Another executor, with a plot for its embeddings."""

    def __init__(self, executor: Executor, plot: Plot) -> None:
        self._executor, self._plot = executor, plot

    def run(
        self,
        work: Work[Any, Any],
        tasks: Iterable[Any],
        *,
        in_turn: bool = False,
        on_progress: OnProgress = lambda _: None,
    ) -> Generator[Outcome[Any, Any]]:
        """See `Executor.run`."""
        assert isinstance(work, EmbedShards)
        sabotaged = Sabotaged(work=work, plot=self._plot)
        return self._executor.run(sabotaged, tasks, in_turn=in_turn, on_progress=on_progress)

    def close(self) -> None:
        """See `Executor.close`."""
        self._executor.close()
