"""The join on CPU cores: a lossless screen in few bits, survivors re-checked in float64.

Three steps, each over fewer pairs than the one before: products of tiles, of int8 codes where that
pays (`kernels.prepare`); float32 products of what survives; float64 cosines of what survives that.

Shape suffixes: N rows of the first set, M rows of the second, D clip width, E dino width,
A and B rows of the two sides of a tile, P pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from kernels.bounds import float32_floor, unit_rows
from kernels.prepare import Plan, Prepared, make_plan, prepare
from kernels.reference import Pairs, check_rows, cosines
from kernels.screens import Bfloat16Screen, Float32Screen, Int8Screen, Screen, exact_products

DENSE_SHARE = 1 / 256
"""Survivors among the rows and columns they lie in, above which all of these are multiplied."""

NOWHERE = torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64)

MOST_WAITING = 65_536
"""Survivors that wait to be re-checked together."""

REFINE_PAIRS = 1024


@dataclass(slots=True, kw_only=True)
class Statistics:
    """What a join did; filled in while it runs.

    Attributes:
        screen: number format of the first step.
        width: of what was multiplied there.
        num_pairs: pairs in all.
        num_tiles: tiles that were multiplied.
        num_tiles_hit: tiles with a survivor.
        num_survivors: pairs that survived the first step.
        num_rechecked: pairs whose float64 cosine was taken.
        num_candidates: pairs above the threshold.
    """

    screen: str = ""
    width: int = 0
    num_pairs: int = 0
    num_tiles: int = 0
    num_tiles_hit: int = 0
    num_survivors: int = 0
    num_rechecked: int = 0
    num_candidates: int = 0


def candidates(
    clip: tuple[torch.Tensor, torch.Tensor | None],
    dino: tuple[torch.Tensor, torch.Tensor | None],
    *,
    clip_above: float,
    threads: int | None = None,
    screen: str = "auto",
    statistics: Statistics | None = None,
) -> Iterator[Pairs]:
    """All pairs whose CLIP cosine is strictly above a threshold, with both cosines.

    The same contract as `kernels.reference.candidates`, and the same pairs.

    Args:
        clip: ([N, D], [M, D] or None); None joins the first set with itself (i < j).
        dino: ([N, E], [M, E] or None), the same images in the same order.
        clip_above: the threshold.
        threads: cores to use; default: as many as torch is set to.
        screen: `auto`, or a format to insist on, as `kernels.prepare.make_plan` takes it.
        statistics: filled in with what was done.

    Yields:
        The candidates of one band of tiles after the other; bands without any are left out.

    Raises:
        ValueError: a row is zero or not finite, or there is no such screen.
    """
    with exact_products(threads):
        for rows, name in (
            (clip[0], "clip"),
            (clip[1], "clip"),
            (dino[0], "dino"),
            (dino[1], "dino"),
        ):
            if rows is not None:
                check_rows(rows, name)
        plan = make_plan(clip[0], clip[1], clip_above, screen=screen)
        a = prepare(clip[0], plan)
        b = None if clip[1] is None else prepare(clip[1], plan)
    yield from search(
        a, b, dino, plan, clip_above=clip_above, threads=threads, statistics=statistics
    )


def search(
    a: Prepared,
    b: Prepared | None,
    dino: tuple[torch.Tensor, torch.Tensor | None],
    plan: Plan,
    *,
    clip_above: float,
    threads: int | None = None,
    statistics: Statistics | None = None,
    on_tile: Callable[[], None] = lambda: None,
) -> Iterator[Pairs]:
    """`candidates` over rows that were prepared before.

    Args:
        a: the first set.
        b: the second set; None joins the first with itself.
        dino: as in `candidates`.
        plan: what both sets were prepared for.
        clip_above: the threshold.
        threads: cores to use.
        statistics: added to.
        on_tile: called after every tile; bands without a candidate are not heard of otherwise.

    Yields:
        As `candidates` does.
    """
    stats = statistics if statistics is not None else Statistics()
    stats.screen, stats.width = plan.format, plan.width
    stats.num_pairs += len(a) * (len(a) - 1) // 2 if b is None else len(a) * len(b)
    other = a if b is None else b
    e_NE, f_ME = dino[0], dino[0] if dino[1] is None else dino[1]
    survivors = _Survivors(a, other, clip_above, within=b is None, refine=plan.format != "float32")
    screen = _screen(a, other, plan, clip_above)
    for rows, columns in _tiles(len(a), len(other), plan.tile, within=b is None):
        with exact_products(threads):
            i, j = _hits(screen, rows, columns, diagonal=b is None and columns.start < rows.stop)
            stats.num_tiles += 1
            stats.num_tiles_hit += len(i) > 0
            stats.num_survivors += len(i)
            survivors.add(i, j)
            # What one band of tiles left is refined before the next begins.
            refined = survivors.take(all_of_them=columns.stop == len(other))
        on_tile()
        for i, j in refined:
            with exact_products(threads):
                stats.num_rechecked += len(i)
                clip_cos = cosines(a.rows_ND, other.rows_ND, i, j)
                sure = clip_cos > clip_above
                i, j, clip_cos = i[sure], j[sure], clip_cos[sure]
                stats.num_candidates += len(i)
                found = Pairs(i=i, j=j, clip_cos=clip_cos, dino_cos=cosines(e_NE, f_ME, i, j))
            if len(found):
                yield found


def _tiles(
    num_rows: int, num_columns: int, tile: tuple[int, int], *, within: bool
) -> Iterator[tuple[slice, slice]]:
    """Tiles in bands of rows; those of the upper triangle within one set."""
    step, across = tile
    for row in range(0, num_rows, step):
        for column in range(row // across * across if within else 0, num_columns, across):
            yield (
                slice(row, min(row + step, num_rows)),
                slice(column, min(column + across, num_columns)),
            )


def _screen(a: Prepared, b: Prepared, plan: Plan, above: float) -> Screen:
    if plan.format == "int8":
        assert a.codes is not None
        assert b.codes is not None
        return Int8Screen(a.codes, b.codes, above)
    if plan.format == "bfloat16":
        assert a.rounded is not None
        assert b.rounded is not None
        return Bfloat16Screen(a.rounded, b.rounded, above)
    return Float32Screen(a.rows_ND, b.rows_ND, above)


def _hits(
    screen: Screen, rows: slice, columns: slice, *, diagonal: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Places of all products of a tile above its floor; upper triangle on the diagonal."""
    values_AB, floor = screen.tile(rows, columns)
    if diagonal:
        # Every row is like itself; without that most tiles on the diagonal hold nothing.
        values_AB.triu_(rows.start - columns.start + 1)
    if values_AB.amax().item() <= floor:
        return NOWHERE
    hit_A = (values_AB.amax(dim=1) > floor).nonzero()[:, 0]
    # All rows of a tile on the diagonal are hit by themselves; then there is nothing to pick.
    picked = values_AB if len(hit_A) == len(values_AB) else values_AB[hit_A]
    hits = (picked > floor).nonzero()
    i, j = hit_A[hits[:, 0]] + rows.start, hits[:, 1] + columns.start
    if diagonal:
        upper = i < j
        i, j = i[upper], j[upper]
    return i, j


Places = tuple[torch.Tensor, torch.Tensor]


class _Survivors:
    """Pairs that survived the screen, refined in float32: alone where few, densely where many."""

    def __init__(
        self, a: Prepared, b: Prepared, above: float, *, within: bool, refine: bool
    ) -> None:
        self.a, self.b, self.within, self.refine = a, b, within, refine
        self.floor = float32_floor(above, a.rows_ND.shape[1])
        self.waiting: list[Places] = []
        self.num_waiting = 0
        self.refined: list[Places] = []

    def add(self, i: torch.Tensor, j: torch.Tensor) -> None:
        """Add the places of a tile's survivors."""
        if len(i) == 0:
            return
        i, j = self.a.given(i), self.b.given(j)
        if not self.refine:
            self.refined.append((i, j))
        elif len(i) <= REFINE_PAIRS or not self._refine_densely(i, j):
            self.waiting.append((i, j))
            self.num_waiting += len(i)

    def take(self, *, all_of_them: bool) -> list[Places]:
        """The refined pairs; those that wait are refined when they are many, or on demand."""
        if self.num_waiting and (all_of_them or self.num_waiting >= MOST_WAITING):
            i, j = (torch.cat(side) for side in zip(*self.waiting, strict=True))
            self.waiting, self.num_waiting = [], 0
            products = torch.empty(len(i))
            for start in range(0, len(i), REFINE_PAIRS):
                stop = start + REFINE_PAIRS
                a = unit_rows(self.a.rows_ND[i[start:stop]])
                b = unit_rows(self.b.rows_ND[j[start:stop]])
                products[start:stop] = a.mul_(b).sum(dim=1)
            self._keep(i, j, products)
        refined, self.refined = self.refined, []
        return refined

    def _refine_densely(self, i: torch.Tensor, j: torch.Tensor) -> bool:
        rows, row_of = torch.unique(i, return_inverse=True)
        columns, column_of = torch.unique(j, return_inverse=True)
        if len(i) <= DENSE_SHARE * len(rows) * len(columns):
            return False
        products = unit_rows(self.a.rows_ND[rows]) @ unit_rows(self.b.rows_ND[columns]).T
        self._keep(i, j, products[row_of, column_of])
        return True

    def _keep(self, i: torch.Tensor, j: torch.Tensor, products: torch.Tensor) -> None:
        kept = products > self.floor
        i, j = i[kept], j[kept]
        if self.within:
            # A layout may have turned a pair round.
            i, j = torch.minimum(i, j), torch.maximum(i, j)
        self.refined.append((i, j))
