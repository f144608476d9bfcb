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

from miner.errors import FingerprintError, ResourceError
from pipelines.executors import OnProgress, Work, Worker


@dataclass(frozen=True, slots=True, kw_only=True)
class Deed:
    """A task: its name, what happens at it, and how often that happens before all is well."""

    name: str
    does: str = "well"
    times: int = 10**6
    takes_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """Who did a deed: pid, how many workers that process opened, how many it read ahead."""

    pid: int
    num_opened: int
    num_ahead: int


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
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def stream(
        self, tasks: Iterator[Deed | None], on_progress: OnProgress
    ) -> Generator[tuple[Deed, Told]]:
        ahead: deque[Deed] = deque()
        is_over = False
        while not is_over or ahead:
            while not is_over and len(ahead) < 2:
                try:
                    task = next(tasks)
                except StopIteration:
                    is_over = True
                    break
                if task is None:
                    break
                if task.does.startswith("read ahead "):
                    act(self._folder, task)
                ahead.append(task)
            if ahead:
                deed = ahead.popleft()
                act(self._folder, deed)
                for _ in range(round(deed.takes_s / 0.1)):
                    time.sleep(0.1)
                    on_progress(1)
                yield deed, Told(pid=os.getpid(), num_opened=NUM_OPENED, num_ahead=len(ahead))

    def close(self) -> None:
        (self._folder / f"closed {os.getpid()}").touch()


def act(folder: Path, deed: Deed) -> None:
    """Do what a deed says, so many times."""
    does = deed.does.removeprefix("read ahead ")
    if does == "well":
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
    elif does == "hangs":
        time.sleep(3600)
    elif does == "freezes":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif does == "holds everything":
        # Keeps the interpreter to itself, as a fault in C may.
        ctypes.PyDLL(None).sleep(3600)
    else:
        raise AssertionError(does)
