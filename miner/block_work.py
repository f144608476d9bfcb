"""The search of a join's blocks, as work that any process may do which sees the same folders.

What is handed to a worker is small: names and places. Blocks are committed one by one, in whatever
order and by whomever, and a block holds the same pairs whoever searched it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from miner.blocks import Block, BlockSearch, is_committed
from miner.codes import CodeShelf
from miner.pack_copies import Copy, put_copies
from miner.packed_vectors import PackedVectors
from miner.store import Store

Commit = Callable[[Store, str, str, Block, BlockSearch], None]
"""Searches a block and commits what it found: store, stage, the block's name, block, search."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockTask:
    """One block that is to be searched.

    Attributes:
        name: what it is committed as.
        block: which.
    """

    name: str
    block: Block


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockWork:
    """What all blocks of a join have in common.

    Attributes:
        root: of the run directory.
        stage: of the blocks' commits.
        packs: the rows, one pack or two.
        impl: the implementation.
        clip_above: a candidate's cosine is strictly above this.
        commit: what is done with a block; a function of a module, so that it may travel.
        join: the name of the join whose packs they are; None where one process does all the work,
            and keeps to itself what it needs for that.
        scratch: a local folder of each node's, for rows of a run in a bucket; None: the usual one.
    """

    root: Path | str
    stage: str
    packs: tuple[PackedVectors, ...]
    impl: str
    clip_above: float
    commit: Commit
    join: str | None = None
    scratch: Path | None = None

    def open(self) -> BlockWorker:
        """Map the rows, and choose how they are screened.

        Raises:
            StoreError: the packed rows are not where they should be.
        """
        return BlockWorker(self)


class BlockWorker:
    """Searches blocks, one after the other."""

    def __init__(self, work: BlockWork) -> None:
        self._work, self._store = work, Store(work.root)
        packs, shelf = work.packs, None
        with ExitStack() as held:
            if work.join is not None:
                copies = [Copy(self._store, work.join, pack, work.scratch) for pack in packs]
                for copy in copies:
                    held.callback(copy.close)
                packs = tuple(copy.pack for copy in copies)
                shelf = CodeShelf(packs[0].folder / "codes")
            vectors = [pack.open() for pack in packs]
            self._search = BlockSearch(vectors, work.impl, work.clip_above, shelf)
            self._held = held.pop_all()

    def commit(self, task: BlockTask, on_tile: Callable[[], None] = lambda: None) -> None:
        """Search a block and commit what was found; `on_tile` is a sign of life meanwhile."""
        work = self._work
        self._search.on_tile = on_tile
        work.commit(self._store, work.stage, task.name, task.block, self._search)

    def close(self) -> None:
        """Remove what was fetched for this worker alone."""
        self._held.close()


HandOut = Callable[[BlockWork, Sequence[BlockTask]], Iterator[object]]
"""Has blocks searched, and says something whenever one was committed."""


def in_turn(work: BlockWork, tasks: Sequence[BlockTask]) -> Iterator[str]:
    """Search blocks here, one after the other; without any, nothing is opened."""
    if not tasks:
        return
    with closing(work.open()) as worker:
        for task in tasks:
            worker.commit(task)
            yield task.name


Progress = Callable[[int, int], None]
"""Called with the number of blocks that are done, and of all."""


def search_blocks(
    store: Store, work: BlockWork, tasks: Sequence[BlockTask], hand_out: HandOut, progress: Progress
) -> None:
    """Have all blocks searched that are not committed whole."""
    todo = [task for task in tasks if not is_committed(store, work.stage, task.name)]
    if todo and work.join is not None:
        put_copies(store, work.join, work.packs)
        # Chooses how to screen, for all who share the folder.
        work.open().close()
    done = len(tasks) - len(todo)
    progress(done, len(tasks))
    for _ in hand_out(work, todo):
        done += 1
        progress(done, len(tasks))
