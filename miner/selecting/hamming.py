"""Hashes that differ in few bits: the nearest of a list for each of many, without all products.

Two hashes of 64 bits that differ in at most K bits agree in one of any K + 1 bands of bits, so that
only hashes with an equal band are compared.

Shape suffixes: Q queries, L listed hashes.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt

HASH_BITS = 64

CHUNK_PAIRS = 2**22
"""Comparisons that are held in memory at once, unless one query alone has more."""

Hashes = npt.NDArray[np.uint64]

_BITS_OF_BYTE = np.array([bin(value).count("1") for value in range(256)], np.uint8)


def differing_bits(one: Hashes, other: Hashes) -> npt.NDArray[np.int64]:
    """In how many bits hashes differ, pair by pair.

    Args:
        one: [N] uint64.
        other: [N] uint64.
    """
    bytes_of = np.ascontiguousarray(one ^ other).view(np.uint8).reshape(-1, 8)
    found: npt.NDArray[np.int64] = _BITS_OF_BYTE[bytes_of].sum(axis=1, dtype=np.int64)
    return found


def nearest(queries: Hashes, listed: Hashes, within: int) -> npt.NDArray[np.int64]:
    """The listed hash nearest to each query, of those that differ in few bits.

    Args:
        queries: [Q] uint64.
        listed: [L] uint64.
        within: bits in which they may differ.

    Returns:
        [Q] int64: its place in the list, the first of those that are equally near; -1 for none.
    """
    distinct, first = np.unique(listed, return_index=True)
    # Nearness before place, in one number.
    none = (HASH_BITS + 1) * max(len(listed), 1)
    best = np.full(len(queries), none, np.int64)
    edges = np.linspace(0, HASH_BITS, within + 2).astype(int)
    for low, high in pairwise(edges.tolist()):
        keys = _band(distinct, low, high)
        order = np.argsort(keys, kind="stable")
        asked = _band(queries, low, high)
        start = np.searchsorted(keys[order], asked, side="left")
        counts = np.searchsorted(keys[order], asked, side="right") - start
        for some in _chunks(counts):
            query = np.repeat(some, counts[some])
            ends = np.cumsum(counts[some])
            step = np.arange(len(query)) - np.repeat(ends - counts[some], counts[some])
            place = order[np.repeat(start[some], counts[some]) + step]
            bits = differing_bits(queries[query], distinct[place])
            near = bits <= within
            np.minimum.at(best, query[near], bits[near] * len(listed) + first[place[near]])
    return np.where(best < none, best % max(len(listed), 1), -1)


def _band(hashes: Hashes, low: int, high: int) -> Hashes:
    """[N] uint64: some of the bits."""
    mask = np.uint64((1 << (high - low)) - 1)
    return (hashes >> np.uint64(low)) & mask


def _chunks(counts: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
    """Queries with comparisons to make, in groups of about `CHUNK_PAIRS` of these."""
    asked = np.flatnonzero(counts)
    group = np.cumsum(counts[asked]) // CHUNK_PAIRS
    return [part for part in np.split(asked, np.flatnonzero(np.diff(group)) + 1) if len(part)]
