"""Products of tiles of rows, looked at as integers: where may a pair above the threshold be?

A tile's product is screened by an integer maximum. Positive floats order as the integers of their
bits do, and an integer maximum over a tile costs a fraction of a comparison.

Shape suffixes: N rows, D row width, A and B rows of the two sides of a tile.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch

from kernels.bounds import BLOCK_ROWS, Rounded, bfloat16_floor, float32_floor, unit_rows
from kernels.codes import Codes, code_floors

Tile = tuple[torch.Tensor, float]
"""[A, B] products, of a dtype in which larger is likelier, and the floor they have to exceed."""


class Screen(Protocol):
    """One number format in which tiles of products are taken."""

    def tile(self, rows: slice, columns: slice) -> Tile:
        """The products of some rows of the first set with some of the second."""
        ...


class Int8Screen:
    """Products of int8 codes, added exactly in int32."""

    def __init__(self, a: Codes, b: Codes, above: float) -> None:
        self.a, self.b = a, b
        self.floors_BB = code_floors(a, b, above).tolist()
        self.room: dict[tuple[int, int], torch.Tensor] = {}

    def tile(self, rows: slice, columns: slice) -> Tile:
        """See `Screen.tile`; a tile is a block of codes by a block of codes, with one floor."""
        a_AK, b_BK = self.a.codes_NK[rows], self.b.codes_NK[columns]
        shape = (len(a_AK), len(b_BK))
        if shape not in self.room:
            self.room[shape] = torch.empty(shape, dtype=torch.int32)
        products_AB = torch._int_mm(a_AK, b_BK.T, out=self.room[shape])
        floor: int = self.floors_BB[rows.start // BLOCK_ROWS][columns.start // BLOCK_ROWS]
        return products_AB, floor


class Bfloat16Screen:
    """Products of rows rounded to bfloat16, added in float32, rounded to bfloat16."""

    def __init__(self, a: Rounded, b: Rounded, above: float) -> None:
        self.a_ND, self.b_MD = a.rows_ND, b.rows_ND
        self.floor = bfloat16_floor(above, a.error, b.error, self.a_ND.shape[1])

    def tile(self, rows: slice, columns: slice) -> Tile:
        """See `Screen.tile`."""
        products_AB = self.a_ND[rows] @ self.b_MD[columns].T
        return _as_integers(products_AB, torch.int16, self.floor)


class Float32Screen:
    """Products of unit rows in float32; the rows are made tile by tile, never all at once."""

    def __init__(self, a_ND: torch.Tensor, b_MD: torch.Tensor, above: float) -> None:
        self.a_ND, self.b_MD = a_ND, b_MD
        self.floor = float32_floor(above, a_ND.shape[1])
        self.unit: dict[str, tuple[slice, torch.Tensor]] = {}

    def _unit(self, side: str, rows: slice) -> torch.Tensor:
        # A side's last tile is kept: one side of the next tile is most often the same.
        if side not in self.unit or self.unit[side][0] != rows:
            of_ND = self.a_ND if side == "a" else self.b_MD
            self.unit[side] = (rows, unit_rows(of_ND[rows]))
        return self.unit[side][1]

    def tile(self, rows: slice, columns: slice) -> Tile:
        """See `Screen.tile`."""
        products_AB = self._unit("a", rows) @ self._unit("b", columns).T
        return _as_integers(products_AB, torch.int32, self.floor)


def _as_integers(products_AB: torch.Tensor, integer: torch.dtype, floor: float) -> Tile:
    """Products that have to reach a floor, as integers that have to exceed one."""
    at_least = torch.tensor([floor], dtype=products_AB.dtype)
    below = torch.nextafter(at_least, torch.full_like(at_least, -4.0))
    if floor <= 0 or float(below) <= 0:
        # Bits of negative floats order the other way round.
        return products_AB, float(below)
    return products_AB.view(integer), int(below.view(integer)[0])


class _Precision:
    """Torch's setting, which is the process's: held as long as any thread needs it."""

    def __init__(self) -> None:
        self._lock, self._num_holders, self._before = threading.Lock(), 0, ""

    def hold(self) -> None:
        with self._lock:
            if not self._num_holders:
                self._before = torch.get_float32_matmul_precision()
                torch.set_float32_matmul_precision("highest")
            self._num_holders += 1

    def release(self) -> None:
        with self._lock:
            self._num_holders -= 1
            if not self._num_holders:
                torch.set_float32_matmul_precision(self._before)


_PRECISION = _Precision()


@contextmanager
def exact_products(threads: int | None) -> Iterator[None]:
    """Run with so many threads, and float32 products in float32, whatever the caller has set.

    May be entered on several threads; the last one that leaves restores what was set.
    """
    before = torch.get_num_threads()
    _PRECISION.hold()
    try:
        if threads is not None:
            torch.set_num_threads(threads)
        yield
    finally:
        _PRECISION.release()
        if threads is not None:
            torch.set_num_threads(before)
