"""The actors of a run on Ray: hired, watched, replaced and dismissed."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Generic

import ray

from miner.config import ExecutorSettings
from miner.errors import ResourceError
from pipelines.attempts import Attempt
from pipelines.executors import ReportT, TaskT, Work
from pipelines.ray_actor import CLOSE_S, Actor
from pipelines.ray_cluster import Cluster

log = logging.getLogger(__name__)

TICK_S = 0.5
"""How long the driver waits at once, in seconds; signals are seen in between."""

IN_HAND = 2
"""Tasks that an actor has at once: the one it is at, and the next, which is read ahead."""

LOOK_S = 5.0
"""How often the cluster is looked at for room, in seconds."""

ASK_S = 1.0
"""How often an actor is asked for a sign of life, in seconds."""

MOST_FALSE_STARTS = 5
"""So many actors in a row may end before they are ready ..."""

PAUSE_S = 60.0
"""... and where others are at work, the next one is hired so many seconds later."""

NODE_DEATH = ("node has died", "node is dead", "node was terminated", "node is terminated")


@dataclass(kw_only=True, eq=False)
class Member(Generic[TaskT]):
    """An actor, as the driver knows it.

    Attributes:
        name: what people call it.
        actor: Ray's handle.
        opening: the call that tells when its worker is ready; None once it is.
        asking: the call for a sign of life that is on its way.
        asked_s: when that was made.
        placing: the call that tells where it runs; None once that is known.
        node_id: the node on which it runs; empty before.
        placed_s: since when, as far as is known.
        num_steps: of which it told so far.
        sign_s: when it last showed progress.
        in_hand: what it is at, by the calls, in the order of these.
    """

    name: str
    actor: Any
    opening: Any
    asking: Any = None
    asked_s: float = 0.0
    placing: Any = None
    node_id: str = ""
    placed_s: float = 0.0
    num_steps: int = 0
    sign_s: float = 0.0
    in_hand: dict[Any, Attempt[TaskT]] = field(default_factory=dict)

    @property
    def is_ready(self) -> bool:
        """Whether its worker is open."""
        return self.opening is None

    def calls(self) -> Iterator[Any]:
        """All calls that are not answered yet."""
        yield from (call for call in (self.opening, self.asking, self.placing) if call is not None)
        yield from self.in_hand


class Crew(Generic[TaskT, ReportT]):
    """All actors of one run of work.

    Attributes:
        members: those that live, as far as is known.
        was_ready: whether any worker ever was.
    """

    def __init__(
        self, cluster: Cluster, work: Work[TaskT, ReportT], settings: ExecutorSettings
    ) -> None:
        self.members: list[Member[TaskT]] = []
        self._cluster, self._settings = cluster, settings
        self._work = work
        self._looked_s = -LOOK_S
        self._room = self._num_more = 0
        self._num_hired = 0
        self.was_ready = False
        self._num_false_starts = 0
        self._pause_until_s = 0.0
        self._alone_since_s = self._round_s = time.monotonic()

    def hire(self, num_wanted: int) -> None:
        """Have as many actors as are wanted and have room, and one more where others may free it.

        As many as `--num-workers` says are asked for at once, also where no node is there for them.

        Raises:
            ResourceError: for too long no worker has become ready.
        """
        now_s = time.monotonic()
        if now_s - self._looked_s >= LOOK_S:
            self._looked_s = now_s
            self._look()
        most = self._settings.num_workers or self._room
        for member in [m for m in self.members if not m.node_id][::-1]:
            if len(self.members) > most:
                self.dismiss(member)
        while len(self.members) < min(most, num_wanted) and self._may_hire(now_s):
            self._hire_one(now_s)
        self._check_start(now_s)

    def _look(self) -> None:
        """See what the cluster has room for."""
        if self._cluster.update_needs():
            # They were asked for with too few cores.
            for member in [member for member in self.members if not member.is_ready]:
                self.dismiss(member)
        # One beyond those that are placed, so that a cluster that can grow does.
        beyond = 0 if self._cluster.is_ours else 1
        room = self._cluster.room()
        if room + beyond != self._room and self._room:
            log.warning("the cluster has room for %d workers now", room)
        self._room = room + beyond
        num_unplaced = sum(not member.node_id for member in self.members)
        self._num_more = self._cluster.free() + beyond - num_unplaced

    def _may_hire(self, now_s: float) -> bool:
        """Whether one more has room; beyond that one alone may wait, for each buys a node."""
        if now_s < self._pause_until_s and any(member.is_ready for member in self.members):
            return False
        return self._settings.num_workers is not None or self._num_more > 0

    def _hire_one(self, now_s: float) -> None:
        needs = self._cluster.needs
        remote: Any = ray.remote(Actor)
        actor = remote.options(
            num_cpus=needs.num_cores,
            num_gpus=needs.num_gpus,
            max_restarts=0,
            max_task_retries=0,
            # Its calls wait for their tasks; others ask how it is meanwhile.
            max_concurrency=IN_HAND + 4,
        ).remote(self._work, needs.num_cores)
        self._num_hired += 1
        self._num_more -= 1
        self.members.append(
            Member(
                name=f"actor {self._num_hired}",
                actor=actor,
                opening=actor.open.remote(),
                placing=actor.where.remote(),
            )
        )

    def _check_start(self, now_s: float) -> None:
        """Refuse to wait for ever for a first worker, or for one that hangs before it is ready."""
        limit_s = self._settings.worker_start_s
        if any(member.is_ready for member in self.members) or not self.members:
            self._alone_since_s = now_s
        elif now_s - self._alone_since_s > limit_s:
            raise ResourceError(
                f"no Ray worker was ready within {limit_s:g} s: each needs {self._cluster.needs}, "
                f"the cluster has {self._cluster.describe()}; add such nodes, free what others "
                "use, or give other --cores-per-worker, --device or a longer --worker-start-s"
            )

    def note_absence(self) -> None:
        """Begin a round; time for which the driver itself was away speaks against nobody."""
        now_s = time.monotonic()
        away_s = now_s - self._round_s - 2 * TICK_S
        self._round_s = now_s
        if away_s > 0:
            self._alone_since_s += away_s
            for member in self.members:
                member.sign_s += away_s
                member.placed_s += away_s

    def is_silent(self, member: Member[TaskT]) -> bool:
        """Whether a member has shown no progress for too long."""
        if not member.is_ready:
            return member.node_id != "" and self._is_late(member.placed_s, "worker_start_s")
        return bool(member.in_hand) and self._is_late(member.sign_s, "worker_silence_s")

    def _is_late(self, since_s: float, limit: str) -> bool:
        return time.monotonic() - since_s > float(getattr(self._settings, limit))

    def ask(self) -> None:
        """Ask those that are at work for a sign of life."""
        now_s = time.monotonic()
        for member in self.members:
            if member.is_ready and member.asking is None and now_s - member.asked_s > ASK_S:
                member.asking, member.asked_s = member.actor.num_steps.remote(), now_s

    def placed(self, member: Member[TaskT], node_id: str) -> None:
        """A member runs on some node."""
        member.placing, member.node_id, member.placed_s = None, node_id, time.monotonic()

    def ready(self, member: Member[TaskT]) -> None:
        """A member's worker is open."""
        self.was_ready = True
        self._num_false_starts = 0
        member.opening, member.sign_s = None, time.monotonic()

    def false_start(self, why: str) -> None:
        """A member ended before it was ready.

        Raises:
            ResourceError: so did too many before it, and nobody else is at work.
        """
        self._num_false_starts += 1
        log.warning("a Ray worker ended before it was ready: %s", why)
        if self._num_false_starts < MOST_FALSE_STARTS:
            return
        self._pause_until_s = time.monotonic() + PAUSE_S
        if not any(member.is_ready for member in self.members):
            raise ResourceError(
                f"{MOST_FALSE_STARTS} Ray workers in a row ended before they were ready; of the "
                f"last one: {why}; see Ray's logs on that node"
            )

    def was_removed(self, member: Member[TaskT], error: BaseException) -> bool:
        """Whether a lost member's machine was taken away, so that nothing else killed it."""
        if isinstance(error, ray.exceptions.RayActorError) and error.preempted:
            return True
        if any(words in str(error) for words in NODE_DEATH):
            return True
        return member.node_id != "" and member.node_id not in self._cluster.nodes()

    def dismiss(self, member: Member[TaskT]) -> None:
        """End a member at once, whatever it is at."""
        self.members.remove(member)
        self._num_more += 1
        ray.kill(member.actor, no_restart=True)

    def close(self, *, gently: bool) -> None:
        """End all members; gently, they are asked first to close what they hold."""
        ready = [member for member in self.members if member.is_ready]
        if gently and ready:
            closing = [member.actor.close.remote() for member in ready]
            ray.wait(closing, num_returns=len(closing), timeout=CLOSE_S)
        for member in list(self.members):
            self.dismiss(member)
