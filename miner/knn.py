"""Candidates by nearest neighbours (faiss): may miss pairs, and says how many.

Every row asks an index for its nearest rows; what lies above the threshold there is re-checked in
float64 as in every join. A pair is missed where neither row's list holds the other: more than k
rows were nearer (the row is saturated), or the other row lies in a cell that was not probed.

Shape suffixes: N rows of the first set, M of the second, D clip width, E dino width, B rows of a
block, K neighbours of a row.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import Field

from kernels import cpu
from kernels.bounds import float32_floor
from kernels.reference import Pairs, cosines, norms
from miner.config import Settings

Sets = tuple[torch.Tensor, torch.Tensor | None]

FLAT_ROWS = 100_000
"""Up to here all rows are compared: exact but for k, and a matter of minutes on two cores."""

NPROBE = 32
"""Twice the cells that lost none of 1,024 neighbours at cosine 0.95 to 0.99 among 100,000 random
rows of width 768 in 1,264 cells; random rows are those that cells help least."""

TRAIN_ROWS = 64
"""Rows for each cell that an IVF index is trained on; faiss asks for 39 at least."""

SAMPLE_ROWS = 1000
"""Rows whose partners are found exactly, to measure the recall."""

GPU_LIMIT = 2048
"""Most neighbours, and most probed cells, that a faiss GPU index selects."""

BLOCK_ROWS = 4096
EXACT_ROWS = 65_536


class KnnSettings(Settings):
    """How neighbours are looked up."""

    k: int = Field(default=64, gt=0)
    """Neighbours looked at for each row, the row itself not counted."""

    nlist: int | None = Field(default=None, ge=0)
    """Cells of the index; 0 is a flat one. Default: 0 up to 100,000 rows, then 4 square roots."""

    nprobe: int | None = Field(default=None, gt=0)
    """Cells searched for each row; default: 32."""

    device: Literal["auto", "cpu"] = "auto"
    """Where the index lies; auto is the GPU where faiss sees one."""

    def plan(self, num_rows: int, *, num_gpus: int) -> tuple[str, int, int]:
        """Device, nlist (0: flat) and nprobe for a number of rows and of GPUs that faiss sees.

        Raises:
            ValueError: nprobe, nlist and the rows do not fit, or k or nprobe are beyond a GPU.
        """
        device = "cuda" if self.device == "auto" and num_gpus else "cpu"
        nlist = int(4 * math.sqrt(num_rows)) if num_rows > FLAT_ROWS else 0
        nlist = nlist if self.nlist is None else self.nlist
        nprobe = self.nprobe or min(NPROBE, nlist)
        if not nprobe <= nlist <= num_rows:
            raise ValueError(
                f"nprobe is {nprobe}, nlist is {nlist} (0: flat) and there are {num_rows} rows; "
                "lower them until none is above the next"
            )
        # Within one set a row finds itself, so a list is one longer than k.
        if device == "cuda" and max(self.k + 1, nprobe) > GPU_LIMIT:
            raise ValueError(
                f"k is {self.k} and nprobe {nprobe}; a GPU index allows k < {GPU_LIMIT} and "
                f"nprobe <= {GPU_LIMIT}: lower them or use device cpu"
            )
        return device, nlist, nprobe


@dataclass(frozen=True, slots=True, kw_only=True)
class KnnReport:
    """What was searched, and how much of it was found; `asdict` makes it plain.

    Attributes:
        index: `flat` or `ivf`; nlist and nprobe are 0 if flat.
        device: `cpu` or `cuda`.
        num_saturated: rows whose last neighbour still lies above the threshold (less what float32
            may err), so that they may have more partners.
        recall: share found of the pairs that have a sampled row; None where there is no such pair.
        recall_sample_rows: rows whose partners were found exactly.
        recall_pairs: pairs above the threshold that have such a row.
    """

    index: str
    nlist: int
    nprobe: int
    k: int
    device: str
    num_saturated: int
    recall: float | None
    recall_sample_rows: int
    recall_pairs: int


class KnnSearch:
    """A search for candidates that afterwards reports how good it was.

    Args:
        settings: how neighbours are looked up.
        threads: CPU threads of faiss and torch, except while the caller has a block in hand; None
            leaves them.
    """

    def __init__(self, settings: KnnSettings | None = None, *, threads: int | None = None) -> None:
        if threads is not None and threads < 1:
            raise ValueError(f"threads is {threads}; it has to be at least 1, or None")
        self._settings, self._threads = settings or KnnSettings(), threads
        self._report: KnnReport | None = None

    def candidates(self, clip: Sets, dino: Sets, *, clip_above: float) -> Iterator[Pairs]:
        """Pairs whose CLIP cosine is strictly above a threshold, with both cosines.

        Arguments, yields and errors are those of `kernels.reference.candidates` and the errors of
        `KnnSettings.plan`, but pairs may be missing. Memory: the index (M x D float32), blocks,
        and 8 bytes for each pair found before its later row's block.
        """
        self._report = None
        with _cpu_threads(self._threads):
            lookup = _Lookup(clip, dino, clip_above, self._settings)
        for start in range(0, len(clip[0]), BLOCK_ROWS):
            with _cpu_threads(self._threads):
                pairs = lookup.block(start)
            if len(pairs):
                yield pairs
        self._report = lookup.report()

    def report(self) -> KnnReport:
        """What the last search says about itself.

        Raises:
            RuntimeError: its candidates were not read to the end.
        """
        if self._report is None:
            raise RuntimeError("the report is not complete; read all candidates() before it")
        return self._report


def candidates(clip: Sets, dino: Sets, *, clip_above: float) -> Iterator[Pairs]:
    """`KnnSearch.candidates` by the default settings, for those who need no report."""
    return KnnSearch().candidates(clip, dino, clip_above=clip_above)


class _Lookup:
    """One search. A pair's key is its later row (across two sets: i) times M plus the other."""

    def __init__(self, clip: Sets, dino: Sets, clip_above: float, settings: KnnSettings) -> None:
        self.within, self.clip_above, self.k = clip[1] is None, clip_above, settings.k
        self.a_ND, self.b_MD = clip[0], clip[0] if clip[1] is None else clip[1]
        self.e_NE, self.f_ME = dino[0], dino[0] if dino[1] is None else dino[1]
        for rows in (self.e_NE,) if self.within else (self.e_NE, self.f_ME):
            norms(rows, "dino")
        self.norms_N = norms(self.a_ND, "clip")
        norms_M = self.norms_N if self.within else norms(self.b_MD, "clip")
        self.plan = settings.plan(len(self.b_MD), num_gpus=_faiss().get_num_gpus())
        self.sample = _sample(len(self.a_ND), SAMPLE_ROWS)
        self.exact_keys = self._exact_keys()
        self.index = _build(self.b_MD, norms_M, *self.plan)
        self.waiting: dict[int, list[torch.Tensor]] = defaultdict(list)
        self.num_saturated = self.num_found = 0

    def _keys(self, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
        if self.within:
            i, j = torch.maximum(i, j)[i != j], torch.minimum(i, j)[i != j]
        return i * len(self.b_MD) + j

    def _exact_keys(self) -> torch.Tensor:
        """Keys of all pairs above the threshold that have a sampled row."""
        keys = [torch.empty(0, dtype=torch.int64)]
        sampled = self.a_ND[self.sample]
        for start in range(0, len(self.b_MD), EXACT_ROWS):
            part = self.b_MD[start : start + EXACT_ROWS]
            # DINO has no say in the recall of candidates.
            dino = torch.ones(len(sampled), 1), torch.ones(len(part), 1)
            found = cpu.candidates((sampled, part), dino, clip_above=self.clip_above)
            keys += [self._keys(self.sample[pairs.i], pairs.j + start) for pairs in found]
        unique: torch.Tensor = torch.unique(torch.cat(keys))
        return unique

    def block(self, start: int) -> Pairs:
        """The pairs whose later row is in a block; to be called for one block after the other."""
        near = self._near_keys(start)
        blocks = near // len(self.b_MD) // BLOCK_ROWS
        for later in torch.unique(blocks).tolist():
            self.waiting[later].append(near[blocks == later])
        keys = torch.unique(torch.cat([near[:0], *self.waiting.pop(start // BLOCK_ROWS, [])]))
        i, j = keys // len(self.b_MD), keys % len(self.b_MD)
        i, j = (j, i) if self.within else (i, j)
        clip_cos = cosines(self.a_ND, self.b_MD, i, j)
        sure = clip_cos > self.clip_above
        self.num_found += int(torch.isin(keys[sure], self.exact_keys).sum())
        i, j, clip_cos = i[sure], j[sure], clip_cos[sure]
        return Pairs(i=i, j=j, clip_cos=clip_cos, dino_cos=cosines(self.e_NE, self.f_ME, i, j))

    def _near_keys(self, start: int) -> torch.Tensor:
        """Keys of all pairs above the threshold, by float32, in the lists of a block of rows."""
        num_neighbours = min(self.k + self.within, len(self.b_MD))
        if num_neighbours == 0:
            return torch.empty(0, dtype=torch.int64)
        queries = _unit(self.a_ND, self.norms_N, slice(start, start + BLOCK_ROWS))
        scores_BK, ids_BK = map(torch.from_numpy, self.index.search(queries, num_neighbours))
        # Empty places, where the probed cells hold too few rows, score lower than any cosine.
        hits_BK = scores_BK > float32_floor(self.clip_above, queries.shape[1])
        if num_neighbours < len(self.b_MD):
            self.num_saturated += int(hits_BK[:, -1].sum())
        return self._keys(hits_BK.nonzero()[:, 0] + start, ids_BK[hits_BK])

    def report(self) -> KnnReport:
        device, nlist, nprobe = self.plan
        return KnnReport(
            index="ivf" if nlist else "flat",
            nlist=nlist,
            nprobe=nprobe,
            k=self.k,
            device=device,
            num_saturated=self.num_saturated,
            recall=self.num_found / len(self.exact_keys) if len(self.exact_keys) else None,
            recall_sample_rows=len(self.sample),
            recall_pairs=len(self.exact_keys),
        )


def _unit(rows: torch.Tensor, lengths: torch.Tensor, which: slice | torch.Tensor) -> Any:
    return (rows[which].double() / lengths[which].unsqueeze(1)).float().numpy()


def _sample(num_rows: int, size: int) -> torch.Tensor:
    # Seeded, so that the same rows give the same pairs and the same report.
    order = torch.randperm(num_rows, generator=torch.Generator().manual_seed(0))
    return order[:size].sort().values


def _build(rows: torch.Tensor, lengths: torch.Tensor, device: str, nlist: int, nprobe: int) -> Any:
    faiss, dim = _faiss(), rows.shape[1]
    index = faiss.IndexFlatIP(dim)
    if nlist:
        cells = faiss.IndexIVFFlat(index, dim, nlist, faiss.METRIC_INNER_PRODUCT)
        index = _placed(cells, device)
        index.nprobe = nprobe
        # With fewer rows than it likes, faiss would print a warning.
        index.cp.min_points_per_centroid = 1
        index.train(_unit(rows, lengths, _sample(len(rows), TRAIN_ROWS * nlist)))
    else:
        # Room for all rows at once: while growing, faiss would hold some of them twice.
        index.codes.resize(4 * rows.numel())
        index.codes.clear()
    for start in range(0, len(rows), BLOCK_ROWS):
        index.add(_unit(rows, lengths, slice(start, start + BLOCK_ROWS)))
    # A flat index is filled first, for then it takes no more of a GPU than it needs.
    return index if nlist else _placed(index, device)


def _placed(index: Any, device: str) -> Any:
    faiss = _faiss()
    if device == "cpu":
        return index
    return faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index)


def _faiss() -> Any:
    # Slow to import, and of no use to the other joins.
    import faiss

    return faiss


@contextmanager
def _cpu_threads(threads: int | None) -> Iterator[None]:
    faiss = _faiss()
    # The two may share one OpenMP runtime, or have one each.
    before = faiss.omp_get_max_threads(), torch.get_num_threads()
    if threads is not None:
        faiss.omp_set_num_threads(threads)
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        if threads is not None:
            faiss.omp_set_num_threads(before[0])
            torch.set_num_threads(before[1])
