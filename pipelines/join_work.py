"""The search of a join's blocks as work for an executor."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass

import torch

from miner.block_work import BlockTask, BlockWork, HandOut, in_turn
from miner.errors import ResourceError
from miner.store import Store
from pipelines.executors import Executor, Inline, OnProgress, Work, Worker


@dataclass(frozen=True, kw_only=True)
class SearchBlocks(Work[BlockTask, str]):
    """What a worker has to know to search blocks as the driver would.

    Attributes:
        work: what the blocks have in common.
    """

    work: BlockWork

    def open(self, num_cores: int | None = None) -> SearchWorker:
        """Map the packed rows here.

        Raises:
            StoreError: this node does not see them.
        """
        if num_cores is not None:
            torch.set_num_threads(num_cores)
        return SearchWorker(self.work)


class SearchWorker(Worker[BlockTask, str]):
    """Searches blocks, one after the other, and commits each."""

    def __init__(self, work: BlockWork) -> None:
        self._blocks = work.open()
        self._held = ExitStack()
        self._held.enter_context(Store(work.root).writing())

    def stream(
        self, tasks: Iterator[BlockTask | None], on_progress: OnProgress
    ) -> Generator[tuple[BlockTask, str]]:
        """Search blocks; nothing is in hand when the next is asked for."""
        for task in tasks:
            if task is not None:
                self._blocks.commit(task, on_tile=lambda: on_progress(1))
                yield task, task.name

    def close(self) -> None:
        """Say that nothing more is written."""
        self._blocks.close()
        self._held.close()


def hand_out_by(executor: Executor) -> HandOut:
    """Have an executor's workers search the blocks of a join."""
    if isinstance(executor, Inline):
        return in_turn

    def hand_out(work: BlockWork, tasks: Sequence[BlockTask]) -> Iterator[str]:
        failed = []
        with closing(executor.run(SearchBlocks(work=work), tasks)) as outcomes:
            for outcome in outcomes:
                if outcome.error is None:
                    yield outcome.task.name
                else:
                    failed.append(f"{outcome.task.name}: {outcome.error}")
        if failed:
            raise ResourceError(
                f"{len(failed)} of {len(tasks)} blocks of the join could not be searched; the "
                "others are committed, and the same command goes on from there; blocks that only "
                f"take long want a longer --worker-silence-s ({failed[0]})"
            )

    return hand_out
