"""Work that goes wrong at certain tasks, in whatever way a task names."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

from miner.errors import FingerprintError, ResourceError, StoreError
from pipelines.executors import OnProgress, Work, Worker


@dataclass(frozen=True, slots=True, kw_only=True)
class Deed:
    """A task: its name, what happens at it, and how often that happens before all is well."""

    name: str
    does: str = "well"
    times: int = 10**6
    takes_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Told:
    """Who did a deed: pid, how many workers that process opened, how many it read ahead."""

    pid: int
    num_opened: int
    num_ahead: int
    more: str = ""


STEP_S = 0.1

NUM_OPENED = 0


@dataclass(frozen=True, kw_only=True)
class Misbehaving(Work[Deed, Told]):
    """Attributes: folder for marks; what happens when a worker is opened, and how often."""

    folder: Path
    opens: str = "well"
    times: int = 10**6

    def open(self, num_cores: int | None = None) -> Misbehaver:
        global NUM_OPENED
        NUM_OPENED += 1
        act(self.folder, Deed(name="open", does=self.opens, times=self.times))
        return Misbehaver(self.folder)


class Misbehaver(Worker[Deed, Told]):
    """Reads one task ahead, as an embedding does: before each task, and between its steps."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ahead: deque[Deed] = deque()
        self._is_over = False

    def stream(
        self, tasks: Iterator[Deed | None], on_progress: OnProgress
    ) -> Generator[tuple[Deed, Told]]:
        while not self._is_over or self._ahead:
            self._look(tasks, 2)
            if not self._ahead:
                continue
            deed = self._ahead.popleft()
            act(self._folder, deed)
            for _ in range(round(deed.takes_s / STEP_S)):
                time.sleep(STEP_S)
                on_progress(1)
                self._look(tasks, 1)
            num_ahead = len(self._ahead)
            more = "x" * 10**5 if deed.does == "tells much" else ""
            yield deed, Told(os.getpid(), NUM_OPENED, num_ahead, more)

    def _look(self, tasks: Iterator[Deed | None], most: int) -> None:
        while not self._is_over and len(self._ahead) < most:
            try:
                task = next(tasks)
            except StopIteration:
                self._is_over = True
                return
            if task is None:
                return
            if task.does.startswith("read ahead "):
                act(self._folder, task)
            self._ahead.append(task)

    def close(self) -> None:
        (self._folder / f"closed {os.getpid()}").touch()


def act(folder: Path, deed: Deed) -> None:
    """Do what a deed says, so many times."""
    does = deed.does.removeprefix("read ahead ")
    if does in ("well", "tells much"):
        return
    marks = len(list(folder.glob(f"{deed.name}.*")))
    if marks >= deed.times:
        return
    (folder / f"{deed.name}.{marks}").write_text(str(os.getpid()))
    if does == "leaves":
        sys.exit(0)
    elif does == "exits":
        os._exit(1)
    elif does == "exits well":
        os._exit(0)
    elif does == "is killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif does == "faults":
        ctypes.string_at(0)
    elif does == "raises":
        raise RuntimeError("a mistake at this task")
    elif does == "refuses":
        raise FingerprintError("the run is another one")
    elif does == "lacks":
        raise ResourceError("there is no such thing here")
    elif does == "lacks the second time":
        if marks == 1:
            raise ResourceError("there is no such thing here")
    elif does == "cannot reach":
        raise StoreError("the storage cannot be reached")
    elif does == "hangs":
        time.sleep(3600)
    elif does == "freezes":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif does == "holds everything":
        # Keeps the interpreter to itself, as a fault in C may.
        ctypes.PyDLL(None).sleep(3600)
    else:
        raise AssertionError(does)
