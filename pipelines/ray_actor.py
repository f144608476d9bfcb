"""What one Ray actor does: opens a worker, and has it do the calls' tasks, one stream over all.

    call do(task)  -->  queue  -->  worker.stream, in a thread of its own  -->  the call's report

Calls overlap, so that a task is read while the one before it is done.
"""

from __future__ import annotations

import os
import pickle
import queue
import threading
import traceback
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Generic

from miner.errors import EngineError, FingerprintError, MinerError, ParityError
from pipelines.executors import ReportT, TaskT, Work
from pipelines.ray_metrics import ActorMetrics

CLOSE_S = 10.0
"""How long a worker may take to close, in seconds."""

MOST_REPORT_BYTES = 2**16
"""What a report may take, pickled; Ray keeps larger things in its object store."""

GRAVE_WHEN_OPENING = (MinerError, ValueError)
"""Errors with which the whole run ends: the first worker cannot be opened by these settings ..."""

GRAVE = (FingerprintError, EngineError, ParityError)
"""... or one finds that the run or an engine is another one. Storage may fail one node alone."""

MOST_ERROR_CHARS = 1000
"""What is told of an error, at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply(Generic[ReportT]):
    """What a call comes back with.

    Attributes:
        report: where the task is done.
        num_steps: of which the worker has told until then.
        failure: else what the worker raised, as text; it does nothing any more.
        error: the same as an exception, where the whole run is to end with it.
    """

    report: ReportT | None = None
    num_steps: int = 0
    failure: str = ""
    error: Exception | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where an actor lives: the id of its node, in Ray's hexadecimal, and its process."""

    node_id: str
    pid: int


class Actor(Generic[TaskT, ReportT]):
    """Does tasks with one worker. Its methods are called from several threads at once."""

    def __init__(self, work: Work[TaskT, ReportT], num_cores: int | None) -> None:
        self._work, self._num_cores = work, num_cores
        self._tasks: queue.SimpleQueue[TaskT | None] = queue.SimpleQueue()
        self._change = threading.Lock()
        self._in_hand: dict[str, Future[Reply[ReportT]]] = {}
        self._opened: Future[Reply[ReportT]] = Future()
        self._end: Reply[ReportT] | None = None
        self._num_steps = 0
        self._metrics = ActorMetrics(type(work).__name__)
        self._thread = threading.Thread(target=self._live, name="worker", daemon=True)
        self._thread.start()

    def where(self) -> Place:
        """Where it lives; in an actor of Ray alone."""
        from ray import get_runtime_context

        return Place(node_id=get_runtime_context().get_node_id(), pid=os.getpid())

    def open(self) -> Reply[ReportT]:
        """Wait until the worker is ready, or is not going to be."""
        return self._opened.result()

    def do(self, task: TaskT) -> Reply[ReportT]:
        """Do a task; returns when it is committed."""
        reply: Future[Reply[ReportT]] = Future()
        with self._change:
            if self._end is not None:
                return self._end
            self._in_hand[task.name] = reply
            self._tasks.put(task)
        return reply.result()

    def num_steps(self) -> int:
        """How many steps the worker has told of since it was opened; a sign of life."""
        return self._num_steps

    def close(self) -> None:
        """End the worker; its tasks were all reported."""
        self._tasks.put(None)
        self._thread.join(CLOSE_S)

    def _live(self) -> None:
        grave: tuple[type[Exception], ...] = GRAVE_WHEN_OPENING
        try:
            with closing(self._work.open(self._num_cores)) as worker:
                grave = GRAVE
                self._opened.set_result(Reply())
                with closing(worker.stream(self._arriving(), self._step)) as stream:
                    for task, report in stream:
                        self._settle(task, report)
            self._finish(Reply(failure="the worker ended before its tasks did"))
        except BaseException as error:
            # Also sys.exit, which would end this thread in silence.
            self._finish(_reply_of(error, grave))

    def _arriving(self) -> Iterator[TaskT | None]:
        """Tasks; None where others are in hand and no further one is there."""
        while True:
            try:
                task = self._tasks.get(block=not self._in_hand)
            except queue.Empty:
                yield None
                continue
            if task is None:
                return
            yield task

    def _step(self, number: int) -> None:
        self._num_steps += number
        self._metrics.step(number)

    def _settle(self, task: TaskT, report: ReportT) -> None:
        num_bytes = len(pickle.dumps(report))
        assert num_bytes <= MOST_REPORT_BYTES, f"report of {task.name} has {num_bytes} bytes"
        self._metrics.task()
        with self._change:
            self._in_hand.pop(task.name).set_result(Reply(report=report, num_steps=self._num_steps))

    def _finish(self, reply: Reply[ReportT]) -> None:
        with self._change:
            self._end = reply
            for waiting in self._in_hand.values():
                waiting.set_result(reply)
            self._in_hand.clear()
        if not self._opened.done():
            self._opened.set_result(reply)


def _reply_of(error: BaseException, grave: tuple[type[Exception], ...]) -> Reply[Any]:
    if isinstance(error, grave):
        return Reply(failure=str(error), error=error)
    if isinstance(error, SystemExit):
        return Reply(failure=f"the worker called sys.exit({error.code!r})")
    told = " ".join("".join(traceback.format_exception_only(error)).split())[:MOST_ERROR_CHARS]
    where = traceback.extract_tb(error.__traceback__)[-1:]
    return Reply(
        failure=f"the worker raised {told}"
        + "".join(f" ({frame.filename}, line {frame.lineno})" for frame in where)
    )
