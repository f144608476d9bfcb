"""How fast this machine screens tiles in each number format: measured once, not guessed.

A format is only offered where it is exact enough here. Processors without VNNI or AMX add int8
products in saturating int16, and not every build of torch adds bfloat16 products in float32.

Shape suffixes: A and B rows of the two sides of a tile, K width.
"""

from __future__ import annotations

import time
from functools import lru_cache

import torch

from kernels.bounds import BLOCK_ROWS

FORMATS = {"int8": torch.int8, "bfloat16": torch.bfloat16, "float32": torch.float32}

INTEGERS = {"int8": torch.int32, "bfloat16": torch.int16, "float32": torch.int32}
"""As what the products of a format are looked at."""

TILES = {"int8": (BLOCK_ROWS, BLOCK_ROWS), "bfloat16": (2048, 1024), "float32": (2048, 1024)}
"""Rows and columns of a tile; its products stay in the processor's cache."""

TRIALS = 3
SLOW_S = 0.05
"""A tile that takes so long is not tried again."""


@lru_cache(maxsize=64)
def pair_s(format: str, width: int, threads: int) -> float | None:
    """Seconds to screen one pair: its share of a tile's product and of the tile's maximum.

    Args:
        format: a key of `FORMATS`.
        width: of the rows or codes.
        threads: that torch runs with; part of what is remembered.

    Returns:
        None where the format is not to be trusted on this machine.
    """
    if not is_trusted(format):
        return None
    rows, columns = TILES[format]
    a_AK = torch.ones(rows, width).to(FORMATS[format])
    b_BK = torch.ones(columns, width).to(FORMATS[format])
    best_s = float("inf")
    for _ in range(TRIALS):
        start_s = time.perf_counter()
        products_AB = torch._int_mm(a_AK, b_BK.T) if format == "int8" else a_AK @ b_BK.T
        products_AB.view(INTEGERS[format]).amax().item()
        best_s = min(best_s, time.perf_counter() - start_s)
        if best_s > SLOW_S:
            break
    return best_s / (rows * columns)


@lru_cache(maxsize=8)
def is_trusted(format: str) -> bool:
    """Whether a format's products are what the bounds assume, tried on sums that tell."""
    if format == "int8":
        # Neighbouring products of this size saturate an int16.
        a_AK = torch.full((32, 64), 127, dtype=torch.int8)
        signs_K = torch.tensor([1, -1], dtype=torch.int8).repeat_interleave(48)[:64]
        b_BK = a_AK * signs_K
        truth_AB = a_AK.long() @ b_BK.long().T
        try:
            return torch.equal(torch._int_mm(a_AK, b_BK.T).long(), truth_AB)
        except RuntimeError:
            return False
    if format == "bfloat16":
        # A block of up to 256 terms is lost when its sum is added to 1 in bfloat16; all of the
        # terms together make the next number but one. So a sum that is rounded to bfloat16 on the
        # way, after however few terms, shows.
        a_AK = torch.full((64, 4096), 2.0**-9)
        a_AK[:, 0] = 1.0
        products_AB = a_AK.bfloat16() @ a_AK.bfloat16().T
        return bool((products_AB == 1.015625).all())
    return True
