"""A block of a join: the pairs between two segments of rows, found, cut and committed.

Shape suffixes: P pairs.
"""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa
import torch

from kernels import cpu
from kernels.pace import is_trusted
from kernels.prepare import Plan, Prepared, make_plan, prepare
from kernels.reference import Pairs
from kernels.screens import exact_products
from miner import schema
from miner.codes import CodeShelf
from miner.config import JoinSettings
from miner.implementations import candidates
from miner.knn import KnnSearch
from miner.packs import Pack, Segment
from miner.pairs import Histogram
from miner.partners import Partners
from miner.records import Json, digest, new_attempt
from miner.store import Store

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Two segments whose pairs are sought; the same one twice for pairs within it.

    Attributes:
        first: a segment of the first pack.
        second: a segment of the second pack, or of the same.
        within: whether both are one segment.
    """

    first: Segment
    second: Segment
    within: bool

    def name(self, settings: JoinSettings, impl: str) -> str:
        """What the block's pairs are committed as: its rows and what is sought among them."""
        sought = digest(
            [
                settings.clip_above,
                settings.dino_below,
                settings.keep_clip_above,
                settings.keep_dino_below,
                settings.max_partners,
                # What may miss pairs does not stand for what may not.
                impl == "knn",
            ]
        )
        return f"{self.first.name}~{self.second.name}~{sought[:8]}"


def blocks_of(first: Pack, second: Pack | None) -> list[Block]:
    """The blocks of a join of one pack with itself, or with a second."""
    if second is not None:
        return [
            Block(first=a, second=b, within=False) for a in first.segments for b in second.segments
        ]
    return [
        Block(first=a, second=b, within=a is b)
        for place, a in enumerate(first.segments)
        for b in first.segments[place:]
    ]


class BlockSearch:
    """Finds the candidates of blocks; what a segment needs for that is made once.

    Attributes:
        on_tile: called after every tile that was multiplied on CPU cores.
    """

    def __init__(
        self,
        vectors: Sequence[tuple[torch.Tensor, torch.Tensor]],
        impl: str,
        clip_above: float,
        shelf: CodeShelf | None = None,
    ) -> None:
        """Choose how to screen.

        Args:
            vectors: of each pack, [N, D] and [N, E]; one joins its rows with themselves.
            impl: the implementation.
            clip_above: a candidate's cosine is strictly above this.
            shelf: where codes lie that several workers share; None keeps them in memory.
        """
        self.first, self.second = vectors[0], vectors[-1]
        self.impl, self.clip_above = impl, clip_above
        self.knn = KnnSearch() if impl == "knn" else None
        self._shelf = shelf
        self._prepared: OrderedDict[str, Prepared] = OrderedDict()
        self._plan: Plan | None = None
        self.on_tile: Callable[[], None] = lambda: None
        if impl == "cpu" and shelf is not None:
            self._plan = shelf.plan(self._make_plan)
            if not is_trusted(self._plan.format):
                log.warning(
                    "this machine adds %s products too coarsely for the join to be exact; it "
                    "multiplies in float32 what other workers screen by codes",
                    self._plan.format,
                )
                self._plan, self._shelf = self._make_plan("float32"), None
        elif impl == "cpu":
            self._plan = self._make_plan()

    def _make_plan(self, screen: str = "auto") -> Plan:
        other_ND = None if self.second is self.first else self.second[0]
        with exact_products(None):
            return make_plan(self.first[0], other_ND, self.clip_above, screen=screen)

    def candidates(self, block: Block, statistics: cpu.Statistics) -> Iterator[Pairs]:
        """Candidates of a block, numbered within its segments; statistics are for `cpu` alone."""
        a = slice(block.first.start, block.first.stop)
        b = slice(block.second.start, block.second.stop)
        dino = (self.first[1][a], None if block.within else self.second[1][b])
        clip = (self.first[0][a], None if block.within else self.second[0][b])
        if self.knn is not None:
            return self.knn.candidates(clip, dino, clip_above=self.clip_above)
        if self._plan is None:
            return candidates(self.impl, clip, dino, clip_above=self.clip_above)
        return cpu.search(
            self._ready(block.first.name, clip[0]),
            None if clip[1] is None else self._ready(block.second.name, clip[1]),
            dino,
            self._plan,
            clip_above=self.clip_above,
            statistics=statistics,
            on_tile=self.on_tile,
        )

    def _ready(self, name: str, rows_ND: torch.Tensor) -> Prepared:
        assert self._plan is not None
        if name in self._prepared:
            self._prepared.move_to_end(name)
        else:
            if self._plan.format == "bfloat16" and len(self._prepared) > 1:
                # As large as the rows themselves; two segments of them are enough for a block.
                self._prepared.popitem(last=False)
            if self._shelf is None:
                with exact_products(None):
                    self._prepared[name] = prepare(rows_ND, self._plan)
            else:
                self._prepared[name] = self._shelf.prepared(name, rows_ND, self._plan)
        return self._prepared[name]


def known_groups(store: Store, stage: str, side: int) -> list[tuple[str, ...]]:
    """Groups of shards that blocks of an earlier join, or of a killed one, were made of.

    They come in the order that they had then, since a block's name has its two sides in order:
    within one run the k-th group is the second side of k blocks.
    """
    groups: dict[tuple[str, ...], None] = {}
    as_second: Counter[tuple[str, ...]] = Counter()
    for name in store.committed(stage):
        shards = store.record(stage, name)["shards"]
        groups[tuple(shards[side])] = None
        as_second[tuple(shards[1])] += 1
    return sorted(groups, key=as_second.__getitem__)


def withdraw_others(store: Store, stage: str, names: Collection[str]) -> None:
    """Take back the blocks of a stage that are not among these."""
    for name in set(store.committed(stage)) - set(names):
        store.withdraw(stage, name)


def is_committed(store: Store, stage: str, name: str) -> bool:
    """Whether a block was committed and is whole; one that is damaged is taken back."""
    if not store.is_committed(stage, name):
        return False
    whole = all(store.is_whole(file) for file in store.record(stage, name)["files"])
    if not whole:
        store.withdraw(stage, name)
    return whole


def commit_block(
    store: Store,
    stage: str,
    name: str,
    block: Block,
    search: BlockSearch,
    *,
    settings: JoinSettings,
) -> None:
    """Find a block's pairs and commit them.

    Args:
        store: the run directory.
        stage: `blocks/<join name>`.
        name: what the block is committed as.
        block: which.
        search: finds its candidates.
        settings: what is sought.
    """
    num_rows = block.first.stop - block.first.start
    num_others = None if block.within else block.second.stop - block.second.start
    partners = Partners(settings, num_rows, num_others)
    histogram = Histogram()
    num_candidates = 0
    statistics = cpu.Statistics()
    for found in search.candidates(block, statistics):
        sure = found.where(found.clip_cos > settings.clip_above)
        num_candidates += len(sure)
        histogram.add("candidates", sure.clip_cos, sure.dino_cos)
        partners.add(found.where(found.dino_cos < settings.keep_dino_below))
    held = partners.held()
    dropped = partners.dropped(held)
    rows = np.flatnonzero(dropped)
    entry = store.write_table(_table(held), stage, f"{name}.{new_attempt()}.parquet")
    record: Json = {
        "shards": [list(block.first.shards), list(block.second.shards)],
        "num_candidates": num_candidates,
        "num_found": partners.num_pairs,
        "num_kept": len(held),
        "dropped": {"rows": rows.tolist(), "partners": dropped[rows].tolist()},
        "histogram": histogram.counts(),
        "statistics": asdict(statistics),
        "knn": None if search.knn is None else asdict(search.knn.report()),
    }
    store.commit(stage, name, [entry], record)


def read_block(store: Store, stage: str, name: str) -> tuple[Pairs, Json]:
    """The pairs of a committed block, numbered within its segments, and its record."""
    record = store.record(stage, name)
    table = store.table(record, "blocks")
    columns = [torch.from_numpy(table[column].to_numpy().copy()) for column in schema.BLOCK.names]
    return Pairs(i=columns[0], j=columns[1], clip_cos=columns[2], dino_cos=columns[3]), record


def _table(pairs: Pairs) -> pa.Table:
    columns = (pairs.i, pairs.j, pairs.clip_cos, pairs.dino_cos)
    arrays = [pa.array(column.numpy()) for column in columns]
    return pa.Table.from_arrays(arrays, schema=schema.BLOCK)
