"""Images that are the same picture: equal bytes, or near-copies by both encoders."""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from kernels import cpu
from miner.rows import Rows


def collapse_exact(rows: Rows) -> Rows:
    """One row for all images with equal bytes: the copy with the smallest image_id."""
    first: dict[str, int] = {}
    places = np.array(
        [first.setdefault(sha256, place) for place, sha256 in enumerate(rows.sha256)], np.int64
    )
    return _collapse(rows, places)


def collapse_near(rows: Rows, *, near_clip: float, near_dino: float) -> Rows:
    """One row for all near-copies, and copies of near-copies: the smallest image_id."""
    leaders = near_copies(rows.clip_ND, rows.dino_NE, near_clip=near_clip, near_dino=near_dino)
    return _collapse(rows, leaders)


def near_copies(
    clip_ND: torch.Tensor, dino_NE: torch.Tensor, *, near_clip: float, near_dino: float
) -> np.ndarray:
    """Groups of near-copies: connected by CLIP cosine > near_clip and DINO cosine > near_dino.

    Args:
        clip_ND: [N, D], any float dtype.
        dino_NE: [N, E], any float dtype.
        near_clip: threshold, strict.
        near_dino: threshold, strict.

    Returns:
        [N] int64: for each row the smallest row of its group.
    """
    num_rows = len(clip_ND)
    edges = []
    for pairs in cpu.candidates((clip_ND, None), (dino_NE, None), clip_above=near_clip):
        near = pairs.where(pairs.dino_cos > near_dino)
        edges.append(np.stack([near.i.numpy(), near.j.numpy()]))
    if not edges or num_rows == 0:
        return np.arange(num_rows)
    i, j = np.concatenate(edges, axis=1)
    graph = coo_array((np.ones(len(i), bool), (i, j)), shape=(num_rows, num_rows))
    _, labels = connected_components(graph, directed=False)
    _, first = np.unique(labels, return_index=True)
    leaders: np.ndarray = first[labels]
    return leaders


def _collapse(rows: Rows, leaders: np.ndarray) -> Rows:
    """Keep each group's leader, standing for the copies of all its members."""
    stands_for = np.zeros(len(rows), np.int64)
    np.add.at(stands_for, leaders, rows.duplicates + 1)
    kept = np.flatnonzero(stands_for)
    return rows.take(kept, stands_for[kept] - 1)
