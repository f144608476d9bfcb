"""Tasks that may have to be tried more than once, and who is to blame when a worker is lost.

A worker has up to two tasks in hand. Where it fails, the one that it took first has failed once;
the other may be as guilty, having been read ahead. Both are then tried alone, after all others, so
that what kills its worker is known for certain and drags no other task along. A worker that was
taken away, because its machine was, speaks against no task.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic

from miner.errors import ResourceError
from pipelines.executors import Outcome, ReportT, TaskT

MOST_FAILURES = 3
"""A task is given up when it has failed so often ..."""

MOST_REMOVALS = 30
"""... or when the machine was taken away so often while it was in hand."""

MOST_IN_A_ROW = 12
"""So many workers may fail, none with a success in between, at tasks that nobody had tried."""


@dataclass(kw_only=True, eq=False)
class Attempt(Generic[TaskT]):
    """A task on its way to be done.

    Attributes:
        task: which.
        failures: what became of the workers that failed at it.
        num_removals: how often its worker was taken away.
        is_alone: whether nothing else may be in hand beside it.
    """

    task: TaskT
    failures: list[str] = field(default_factory=list)
    num_removals: int = 0
    is_alone: bool = False

    @property
    def num_attempts(self) -> int:
        """How often it was tried in vain."""
        return len(self.failures) + self.num_removals

    @property
    def is_hopeless(self) -> bool:
        """Whether it is not worth another attempt."""
        return len(self.failures) >= MOST_FAILURES or self.num_removals >= MOST_REMOVALS

    @property
    def verdict(self) -> str:
        """Why it is given up."""
        failed = "; ".join(f"{place}. {why}" for place, why in enumerate(self.failures, 1))
        removed = f"its worker was taken away {self.num_removals} times"
        if len(self.failures) < MOST_FAILURES:
            return f"given up: {removed}" + (f", and failed before: {failed}" if failed else "")
        return f"given up after {len(self.failures)} attempts: {failed}"


class Attempts(Generic[TaskT, ReportT]):
    """Tasks that wait for a worker: those never tried, then those to be tried alone."""

    def __init__(self, tasks: Iterable[TaskT], *, in_turn: bool) -> None:
        """Prepare to take tasks.

        Args:
            tasks: all of them, taken lazily.
            in_turn: whether one is taken only when all those before it are settled.
        """
        self._tasks: Iterator[TaskT] = iter(tasks)
        self._fresh: deque[Attempt[TaskT]] = deque()
        self._suspects: deque[Attempt[TaskT]] = deque()
        self._in_turn = in_turn
        self._is_over = False
        self._num_out = 0
        self._num_in_a_row = 0

    @property
    def num_waiting(self) -> int:
        """Those that could be handed out now, as far as they were looked at."""
        return len(self._fresh) + len(self._suspects)

    @property
    def is_done(self) -> bool:
        """Whether every task is settled; tasks that nobody looked for yet count too."""
        return self._is_over and self.num_waiting + self._num_out == 0

    def look_ahead(self, number: int) -> None:
        """Take tasks until so many wait; in turn only one, and only where none is unsettled."""
        if self._in_turn:
            number = 0 if self._num_out + self.num_waiting else 1
        while len(self._fresh) < number and not self._is_over:
            task = next(self._tasks, None)
            if task is None:
                self._is_over = True
            else:
                self._fresh.append(Attempt(task=task))

    def hand_out(self, in_hand: Sequence[Attempt[TaskT]]) -> Attempt[TaskT] | None:
        """The next attempt for a worker that has some in hand; None where none suits it."""
        if any(attempt.is_alone for attempt in in_hand):
            return None
        waiting = self._fresh or (None if in_hand else self._suspects)
        if not waiting:
            return None
        self._num_out += 1
        return waiting.popleft()

    def settle(
        self, attempt: Attempt[TaskT], report: ReportT, worker: str | None = None
    ) -> Outcome[TaskT, ReportT]:
        """An attempt has succeeded, by some worker."""
        self._num_out -= 1
        self._num_in_a_row = 0
        num_attempts = attempt.num_attempts + 1
        return Outcome(task=attempt.task, report=report, num_attempts=num_attempts, worker=worker)

    def lose(
        self, in_hand: Sequence[Attempt[TaskT]], why: str, *, removed: bool
    ) -> list[Outcome[TaskT, ReportT]]:
        """A worker is lost, with what it had in hand; outcomes of what is given up now.

        Args:
            in_hand: in the order in which it was handed out.
            why: what became of the worker.
            removed: whether it was taken away, so that no task is to blame.

        Raises:
            ResourceError: nothing succeeds any more.
        """
        self._num_out -= len(in_hand)
        if not removed and in_hand:
            self._check_hope(in_hand[0], why)
        for place, attempt in enumerate(in_hand):
            attempt.num_removals += removed
            if not removed:
                attempt.is_alone = True
                attempt.failures += [why] if place == 0 else []
        again = [attempt for attempt in in_hand if not attempt.is_hopeless]
        self._fresh.extendleft(a for a in reversed(again) if not a.is_alone)
        self._suspects.extend(a for a in again if a.is_alone)
        return [
            Outcome(task=a.task, error=a.verdict, num_attempts=a.num_attempts)
            for a in in_hand
            if a.is_hopeless
        ]

    def _check_hope(self, first: Attempt[TaskT], why: str) -> None:
        """Refuse to go through all tasks where it is no task that kills the workers."""
        self._num_in_a_row += not first.is_alone
        if self._num_in_a_row >= MOST_IN_A_ROW:
            raise ResourceError(
                f"{self._num_in_a_row} workers in a row failed, each at another task, and none "
                f"succeeded in between; the last one, at {first.task.name}: {why}; see to the "
                "machines, then run again"
            )
