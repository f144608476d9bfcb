"""What an actor does, among Ray's own metrics; its dashboard and Prometheus find them there."""

from __future__ import annotations

from ray.util.metrics import Counter


class ActorMetrics:
    """Counters of one actor; Ray adds up those of all."""

    def __init__(self, work: str) -> None:
        """Register the counters.

        Args:
            work: what the actor does, as a tag.
        """
        tags = {"work": work}
        self._steps = Counter(
            "blindpairs_steps",
            "Steps that workers have told of: images, blocks.",
            tag_keys=("work",),
        )
        self._tasks = Counter(
            "blindpairs_tasks", "Tasks that workers have done: shards, blocks.", tag_keys=("work",)
        )
        for counter in (self._steps, self._tasks):
            counter.set_default_tags(tags)

    def step(self, number: int) -> None:
        """So many further steps were done."""
        if number > 0:
            self._steps.inc(number)

    def task(self) -> None:
        """A task was done."""
        self._tasks.inc()
