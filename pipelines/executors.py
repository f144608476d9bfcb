"""Who does the work of a run: this process, or actors on a Ray cluster; one small protocol.

    work.open() -> worker            where the work is done, once for each worker
    worker.stream(tasks) -> reports  lazily: the next task while the one before it is done

A `Work` is settings: it is pickled and travels to whoever does it. A worker commits what it does to
the run directory itself, so that only small reports come back: counts, seconds, the text of errors.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from types import TracebackType
from typing import TYPE_CHECKING, Generic, Protocol, Self, TypeVar

if TYPE_CHECKING:
    from miner.config import ExecutorSettings

OnProgress = Callable[[int], None]
"""Told of so many further steps (images, tiles); who gives no sign of life for long, hangs."""


class Task(Protocol):
    """A part of some work that is done, and may be done again, on its own; it is pickled."""

    @property
    def name(self) -> str:
        """What messages call it; no other task of the same work has this name."""


TaskT = TypeVar("TaskT", bound=Task)
ReportT = TypeVar("ReportT")


class Worker(ABC, Generic[TaskT, ReportT]):
    """Somebody who is ready to do tasks: models are loaded, files are open."""

    @abstractmethod
    def stream(
        self, tasks: Iterator[TaskT | None], on_progress: OnProgress
    ) -> Generator[tuple[TaskT, ReportT]]:
        """Do tasks, and commit each.

        Args:
            tasks: those to do. A None among them says that there is none yet: finish what is in
                hand, yield it, and ask again. With nothing in hand the question waits for a task,
                so that an answer of None is never followed by a busy loop.
            on_progress: called now and then, with the steps that were done since.

        Yields:
            Each task once, with its report, when it is committed.
        """

    def close(self) -> None:
        """Give back what is held; the stream was closed before."""


class Work(ABC, Generic[TaskT, ReportT]):
    """How some kind of task is done. It is pickled: settings, no live objects."""

    @abstractmethod
    def open(self, num_cores: int | None = None) -> Worker[TaskT, ReportT]:
        """Get ready to do tasks, in the process and the thread in which they will be done.

        Args:
            num_cores: which the worker may use; None: all that are there.

        Raises:
            MinerError: something is missing here; the whole run ends with this error.
            ValueError: likewise, of settings.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome(Generic[TaskT, ReportT]):
    """What became of a task.

    Attributes:
        task: which.
        report: of whoever did it; None where nobody could.
        error: why nobody could: what became of every attempt.
        num_attempts: how often it was tried, the last time included.
        worker: who did it, where there may be several.
    """

    task: TaskT
    report: ReportT | None = None
    error: str | None = None
    num_attempts: int = 1
    worker: str | None = None


class Executor(ABC):
    """Somebody who has work done. Use as a context manager; leaving it ends all workers."""

    @abstractmethod
    def run(
        self,
        work: Work[TaskT, ReportT],
        tasks: Iterable[TaskT],
        *,
        in_turn: bool = False,
        on_progress: OnProgress = lambda _: None,
    ) -> Generator[Outcome[TaskT, ReportT]]:
        """Have tasks done; with no task, no worker is opened. Closing it early stops the workers.

        Args:
            work: how they are done.
            tasks: taken when somebody is about to be ready for them; iterated over in the calling
                thread.
            in_turn: where true, a task is taken only when the outcome of the one before it was
                yielded, and the next one asked for.
            on_progress: called in the calling thread, with the steps that were done since.

        Yields:
            One outcome for each task, in the order in which they are done.

        Raises:
            MinerError: a worker cannot be opened, or found that the whole run cannot go on.
            ValueError: likewise, of settings.
        """

    def close(self) -> None:  # noqa: B027, who has nothing to end need not say so
        """End whatever is still there."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Inline(Executor):
    """Does the work in this process; what a worker raises is raised here."""

    def run(
        self,
        work: Work[TaskT, ReportT],
        tasks: Iterable[TaskT],
        *,
        in_turn: bool = False,
        on_progress: OnProgress = lambda _: None,
    ) -> Generator[Outcome[TaskT, ReportT]]:
        """Have tasks done, in their order; see `Executor.run`."""
        upcoming = iter(tasks)
        first = next(upcoming, None)
        if first is None:
            return
        source = _InTurn(chain([first], upcoming)) if in_turn else chain([first], upcoming)
        with (
            closing(work.open()) as worker,
            closing(worker.stream(source, on_progress)) as stream,
        ):
            for task, report in stream:
                if isinstance(source, _InTurn):
                    source.is_waiting = False
                yield Outcome(task=task, report=report)


class _InTurn(Iterator[TaskT | None], Generic[TaskT]):
    """Tasks, and None while the last one that was taken is not reported."""

    def __init__(self, tasks: Iterator[TaskT]) -> None:
        self._tasks = tasks
        self.is_waiting = False

    def __next__(self) -> TaskT | None:
        if self.is_waiting:
            return None
        task = next(self._tasks)
        self.is_waiting = True
        return task


def open_executor(settings: ExecutorSettings, device: str = "cpu") -> Executor:
    """The executor that settings name; Ray is imported, and a cluster sought, only for `ray`.

    Args:
        settings: which, and how many workers.
        device: on which the work computes: `auto`, `cpu` or `cuda`.

    Raises:
        ValueError: a GPU is named by its number, which Ray decides.
        ResourceError: no cluster can be reached or started.
    """
    if settings.executor == "inline":
        return Inline()
    from pipelines.ray_executor import RayExecutor

    return RayExecutor(settings, device)
