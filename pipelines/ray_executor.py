"""Work on a Ray cluster: core actors that the driver hands tasks to, watches and replaces.

Ray itself retries nothing: what a lost actor had in hand is the driver's to hand out again, in an
order that it knows. An actor is asked for signs of life, so that one that hangs is found too.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Generator, Iterable, Iterator
from typing import Any, Generic

import ray

from miner.config import ExecutorSettings
from miner.errors import MinerError
from pipelines.attempts import Attempts
from pipelines.executors import Executor, OnProgress, Outcome, ReportT, TaskT, Work
from pipelines.ray_actor import Reply
from pipelines.ray_cluster import Cluster
from pipelines.ray_crew import IN_HAND, TICK_S, Crew, Member

log = logging.getLogger(__name__)

MOST_REASON_CHARS = 400
"""What is told of Ray's account of an actor's end, at most."""


class RayExecutor(Executor):
    """Has work done by actors; connects to a cluster when there is a first task."""

    def __init__(self, settings: ExecutorSettings, device: str) -> None:
        """Prepare; nothing is connected yet.

        Args:
            settings: how many workers, and how patient to be with them.
            device: `auto`, `cpu` or `cuda`.

        Raises:
            ValueError: a GPU is named by its number.
        """
        if ":" in device:
            raise ValueError(
                f"--device {device}: with --executor ray, Ray gives each worker a GPU of its own; "
                "give --device cuda"
            )
        self._settings, self._device = settings, device
        self._cluster: Cluster | None = None

    def run(
        self,
        work: Work[TaskT, ReportT],
        tasks: Iterable[TaskT],
        *,
        in_turn: bool = False,
        on_progress: OnProgress = lambda _: None,
    ) -> Generator[Outcome[TaskT, ReportT]]:
        """Have tasks done by actors; see `Executor.run`.

        Raises:
            ResourceError: no cluster can be reached, or for too long there was no worker.
            MinerError: a worker cannot be opened with these settings.
        """
        attempts: Attempts[TaskT, ReportT] = Attempts(tasks, in_turn=in_turn)
        attempts.look_ahead(1)
        if attempts.is_done:
            return
        if self._cluster is None:
            self._cluster = Cluster(self._settings, self._device)
        crew = Crew(self._cluster, work, self._settings)
        is_well = False
        try:
            yield from _Running(crew, attempts, on_progress).outcomes()
            is_well = True
        finally:
            crew.close(gently=is_well)

    def close(self) -> None:
        """Disconnect; a cluster that was started here ends."""
        if self._cluster is not None:
            self._cluster.close()
            self._cluster = None


class _Running(Generic[TaskT, ReportT]):
    """One run of work: tasks go out to the crew, and outcomes come in."""

    def __init__(
        self,
        crew: Crew[TaskT, ReportT],
        attempts: Attempts[TaskT, ReportT],
        on_progress: OnProgress,
    ) -> None:
        self._crew, self._attempts, self._on_progress = crew, attempts, on_progress

    def outcomes(self) -> Iterator[Outcome[TaskT, ReportT]]:
        """What becomes of every task."""
        crew, attempts = self._crew, self._attempts
        while True:
            crew.note_absence()
            for member in [member for member in crew.members if crew.is_silent(member)]:
                yield from self._lose_silent(member)
            attempts.look_ahead(IN_HAND * (len(crew.members) + 1))
            if attempts.is_done:
                return
            num_busy = sum(bool(member.in_hand) for member in crew.members)
            crew.hire(num_busy + attempts.num_waiting)
            self._hand_out()
            crew.ask()
            for member, call in self._answered():
                yield from self._take(member, call)

    def _hand_out(self) -> None:
        """Give tasks to those that have room for one, the idlest first."""
        for num_in_hand in range(IN_HAND):
            for member in self._crew.members:
                if member.is_ready and len(member.in_hand) == num_in_hand:
                    attempt = self._attempts.hand_out(list(member.in_hand.values()))
                    if attempt is not None:
                        if num_in_hand == 0:
                            member.sign_s = time.monotonic()
                        member.in_hand[member.actor.do.remote(attempt.task)] = attempt

    def _answered(self) -> list[tuple[Member[TaskT], Any]]:
        """Calls that came back, or failed."""
        calls = {call: member for member in self._crew.members for call in member.calls()}
        done, _ = ray.wait(list(calls), num_returns=1, timeout=TICK_S)
        if done:
            done, _ = ray.wait(list(calls), num_returns=len(calls), timeout=0)
        return [(calls[call], call) for call in done]

    def _take(self, member: Member[TaskT], call: Any) -> Iterator[Outcome[TaskT, ReportT]]:
        """Take what a call came back with."""
        if member not in self._crew.members or call not in set(member.calls()):
            # Another call has told already that this member is lost.
            return
        try:
            found = ray.get(call)
        except ray.exceptions.RayTaskError as error:
            raise MinerError(
                f"a Ray actor's own code failed ({_reason_of(error)}), which is no shard's fault; "
                "see that every node has the driver's version of blindpairs, or report it"
            ) from error
        except ray.exceptions.RayError as error:
            yield from self._lose(member, error)
            return
        if call == member.asking:
            member.asking = None
            self._show(member, found)
        elif call == member.placing:
            self._crew.placed(member, found.node_id)
        elif call == member.opening:
            yield from self._opened(member, found)
        else:
            yield from self._done(member, call, found)

    def _show(self, member: Member[TaskT], num_steps: int) -> None:
        """Pass progress on, and remember when there was some."""
        if num_steps > member.num_steps:
            self._on_progress(num_steps - member.num_steps)
            member.num_steps, member.sign_s = num_steps, time.monotonic()

    def _opened(
        self, member: Member[TaskT], reply: Reply[ReportT]
    ) -> Iterator[Outcome[TaskT, ReportT]]:
        if reply.error is not None and not self._crew.was_ready:
            raise reply.error
        if reply.failure:
            # Where others got ready it is this one's node, not the settings.
            yield from self._fail(member, reply.failure)
        else:
            self._crew.ready(member)

    def _done(
        self, member: Member[TaskT], call: Any, reply: Reply[ReportT]
    ) -> Iterator[Outcome[TaskT, ReportT]]:
        if reply.error is not None:
            raise reply.error
        if reply.failure:
            yield from self._fail(member, reply.failure)
            return
        assert reply.report is not None
        self._show(member, reply.num_steps)
        member.sign_s = time.monotonic()
        yield self._attempts.settle(member.in_hand.pop(call), reply.report, member.name)

    def _lose(
        self, member: Member[TaskT], error: BaseException
    ) -> Iterator[Outcome[TaskT, ReportT]]:
        """A member does not answer any more."""
        why = _reason_of(error)
        if isinstance(error, ray.exceptions.ActorUnavailableError) or self._crew.was_removed(
            member, error
        ):
            log.warning("a Ray worker was taken away; its tasks are tried elsewhere: %s", why)
            self._crew.dismiss(member)
            yield from self._attempts.lose(list(member.in_hand.values()), why, removed=True)
        else:
            yield from self._fail(member, f"its worker died: {why}")

    def _lose_silent(self, member: Member[TaskT]) -> Iterator[Outcome[TaskT, ReportT]]:
        since_s = member.sign_s if member.is_ready else member.placed_s
        silent_s = time.monotonic() - since_s
        yield from self._fail(member, f"its worker showed no progress for {silent_s:.0f} s")

    def _fail(self, member: Member[TaskT], why: str) -> Iterator[Outcome[TaskT, ReportT]]:
        """A member has failed and is replaced."""
        in_hand = list(member.in_hand.values())
        self._crew.dismiss(member)
        if not member.is_ready:
            self._crew.false_start(why)
        else:
            names = " and ".join(attempt.task.name for attempt in in_hand) or "nothing"
            log.warning("a Ray worker with %s in hand is replaced: %s", names, why)
        yield from self._attempts.lose(in_hand, why, removed=False)


def _reason_of(error: BaseException) -> str:
    """What is worth knowing of Ray's account of an actor's end."""
    told = " ".join(str(error).split())
    place = re.search(r"pid: (\d+).*? ip: (\S+)", told)
    cause = re.search(r"The actor (?:is dead|died) because .*", told)
    reason = (cause[0] if cause else told).partition(" Some common causes")[0][:MOST_REASON_CHARS]
    return reason + (f" (process {place[1]} on {place[2]})" if place else "")
