"""Images that are the same picture: equal bytes, or near-copies by both encoders."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import torch

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
    """One row for all near-copies of an image: the smallest image_id."""
    leaders = near_copies(rows.clip_ND, rows.dino_NE, near_clip=near_clip, near_dino=near_dino)
    return _collapse(rows, leaders)


def near_copies(
    clip_ND: torch.Tensor, dino_NE: torch.Tensor, *, near_clip: float, near_dino: float
) -> np.ndarray:
    """Groups of near-copies: everyone in a group is a near-copy of its first row.

    Rows are taken in order; one that is no near-copy of an earlier leader leads a group of its own.
    Groups are no chains, whose ends may look nothing alike.

    Args:
        clip_ND: [N, D], any float dtype.
        dino_NE: [N, E], any float dtype.
        near_clip: near-copies have a CLIP cosine strictly above this ...
        near_dino: ... and a DINO cosine strictly above this.

    Returns:
        [N] int64: for each row its group's leader, which is the group's smallest row.
    """
    partners: dict[int, list[int]] = defaultdict(list)
    for pairs in cpu.candidates((clip_ND, None), (dino_NE, None), clip_above=near_clip):
        near = pairs.where(pairs.dino_cos > near_dino)
        for i, j in zip(near.i.tolist(), near.j.tolist(), strict=True):
            partners[i].append(j)
    leaders = np.arange(len(clip_ND))
    is_led = np.zeros(len(clip_ND), dtype=bool)
    for leader in sorted(partners):
        if not is_led[leader]:
            followers = [row for row in partners[leader] if not is_led[row]]
            leaders[followers] = leader
            is_led[followers] = True
    return leaders


def _collapse(rows: Rows, leaders: np.ndarray) -> Rows:
    """Keep each group's leader, standing for the copies of all its members."""
    stands_for = np.zeros(len(rows), np.int64)
    np.add.at(stands_for, leaders, rows.duplicates + 1)
    kept = np.flatnonzero(stands_for)
    return rows.take(kept, stands_for[kept] - 1)
