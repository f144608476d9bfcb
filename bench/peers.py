"""What others would join with, each used as well as it can be.

Shape suffixes: N rows, D clip width, E dino width, K neighbours, P pairs.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch

from bench.providers import CHUNK_ROWS, IndexPairs, Provider, blind_among, unit_rows

TILE_ROWS = 1024
"""Rows and columns of a tile of the torch joins; none of 512 to 4096 is faster on 2 cores."""

NUM_NEIGHBOURS = 64

ROWS_PER_CLUSTER = 8800
"""SemDeDup's paper and code: 50,000 clusters for 440 M rows of LAION."""

CLUSTER_STEPS, CLUSTER_SEED = 100, 1234
"""SemDeDup's own settings of k-means."""


def _flat_index(clip_ND: torch.Tensor):  # type: ignore[no-untyped-def]
    """A faiss index of the unit rows, and the rows as it holds them, without a second copy."""
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    num_rows, dim = clip_ND.shape
    index = faiss.IndexFlatIP(dim)
    for start in range(0, num_rows, CHUNK_ROWS):
        index.add(unit_rows(clip_ND[start : start + CHUNK_ROWS]).numpy())
    rows_ND = faiss.rev_swig_ptr(index.get_xb(), num_rows * dim).reshape(num_rows, dim)
    return index, rows_ND


def faiss_range(
    clip_ND: torch.Tensor, dino_NE: torch.Tensor, clip_above: float, dino_below: float
) -> IndexPairs:
    """`IndexFlatIP.range_search` of every row, in one call, on all threads."""
    index, rows_ND = _flat_index(clip_ND)
    limits, _, neighbours = index.range_search(rows_ND, clip_above)
    i = torch.from_numpy(np.repeat(np.arange(len(clip_ND)), np.diff(limits.astype(np.int64))))
    return both_ways(clip_ND, dino_NE, i, torch.from_numpy(neighbours), clip_above, dino_below)


def faiss_knn(
    clip_ND: torch.Tensor, dino_NE: torch.Tensor, clip_above: float, dino_below: float
) -> IndexPairs:
    """`IndexFlatIP.search` for the nearest 64, those under the threshold left out."""
    index, rows_ND = _flat_index(clip_ND)
    # One more than asked for: the nearest of a row is the row itself.
    cosines_NK, neighbours_NK = index.search(rows_ND, min(NUM_NEIGHBOURS + 1, len(clip_ND)))
    rows, places = np.nonzero(cosines_NK > clip_above)
    i, j = torch.from_numpy(rows), torch.from_numpy(neighbours_NK[rows, places])
    return both_ways(clip_ND, dino_NE, i, j, clip_above, dino_below)


def both_ways(
    clip_ND: torch.Tensor,
    dino_NE: torch.Tensor,
    i: torch.Tensor,
    j: torch.Tensor,
    clip_above: float,
    dino_below: float,
) -> IndexPairs:
    """The blind ones of pairs that were found from one end or from both."""
    first, second = torch.minimum(i, j), torch.maximum(i, j)
    keys = torch.unique((first * len(clip_ND) + second)[first != second])
    first, second = keys // len(clip_ND), keys % len(clip_ND)
    return blind_among(
        clip_ND, dino_NE, first, second, clip_above=clip_above, dino_below=dino_below
    )


def tiled_torch(
    clip_ND: torch.Tensor,
    dino_NE: torch.Tensor,
    clip_above: float,
    dino_below: float,
    *,
    dtype: torch.dtype,
    tile_rows: int = TILE_ROWS,
) -> IndexPairs:
    """`torch.mm`, compare and `nonzero` by tiles of the upper triangle, in buffers that stay."""
    unit_ND = unit_rows(clip_ND, dtype)
    device, tile = clip_ND.device, tile_rows * tile_rows
    products = torch.empty(tile, dtype=dtype, device=device)
    passes = torch.empty(tile, dtype=torch.bool, device=device)
    found = []
    for row in range(0, len(unit_ND), tile_rows):
        a = unit_ND[row : row + tile_rows]
        for column in range(row, len(unit_ND), tile_rows):
            b = unit_ND[column : column + tile_rows]
            shape, size = (len(a), len(b)), len(a) * len(b)
            product = torch.mm(a, b.T, out=products[:size].view(shape))
            above = torch.gt(product, clip_above, out=passes[:size].view(shape))
            hits = above.nonzero()
            if row == column:
                hits = hits[hits[:, 0] < hits[:, 1]]
            if len(hits):
                found.append(hits + torch.tensor([row, column], device=device))
    hits = torch.cat(found) if found else torch.empty(0, 2, dtype=torch.int64, device=device)
    return blind_among(
        clip_ND, dino_NE, hits[:, 0], hits[:, 1], clip_above=clip_above, dino_below=dino_below
    )


def radius_neighbours(
    clip_ND: torch.Tensor, dino_NE: torch.Tensor, clip_above: float, dino_below: float
) -> IndexPairs:
    """scikit-learn's brute-force radius search: unit rows with |a - b|^2 < 2 - 2 cos."""
    from sklearn.neighbors import NearestNeighbors

    rows_ND = unit_rows(clip_ND).numpy()
    # A little wider than the threshold, for its rounding; what is too far is dropped afterwards.
    radius = (2 - 2 * (clip_above - 1e-5)) ** 0.5
    search = NearestNeighbors(radius=radius, algorithm="brute", n_jobs=-1).fit(rows_ND)
    lists = search.radius_neighbors(rows_ND, return_distance=False)
    i = torch.from_numpy(np.repeat(np.arange(len(lists)), [len(found) for found in lists]))
    j = torch.from_numpy(np.concatenate(lists).astype(np.int64))
    return both_ways(clip_ND, dino_NE, i, j, clip_above, dino_below)


def semdedup(
    clip_ND: torch.Tensor, dino_NE: torch.Tensor, clip_above: float, dino_below: float
) -> IndexPairs:
    """SemDeDup: spherical k-means, then all pairs within a cluster and none across."""
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    unit_ND = unit_rows(clip_ND)
    clusters = faiss.Kmeans(
        clip_ND.shape[1],
        max(2, round(len(clip_ND) / ROWS_PER_CLUSTER)),
        niter=CLUSTER_STEPS,
        seed=CLUSTER_SEED,
        spherical=True,
    )
    clusters.train(unit_ND.numpy())
    nearest_N = torch.from_numpy(clusters.index.search(unit_ND.numpy(), 1)[1][:, 0])
    found = []
    for cluster in range(clusters.k):
        members = (nearest_N == cluster).nonzero()[:, 0]
        rows = unit_ND[members]
        hits = (rows @ rows.T > clip_above).triu_(diagonal=1).nonzero()
        found.append(members[hits])
    hits = torch.cat(found)
    return blind_among(
        clip_ND, dino_NE, hits[:, 0], hits[:, 1], clip_above=clip_above, dino_below=dino_below
    )


PEERS = (
    Provider(name="faiss-range", join=faiss_range, dtype="float32", exact=True, needs="faiss"),
    Provider(
        name="faiss-knn",
        join=faiss_knn,
        dtype="float32",
        exact=False,
        needs="faiss",
        note=f"nearest {NUM_NEIGHBOURS}",
    ),
    Provider(
        name="torch-fp32",
        join=partial(tiled_torch, dtype=torch.float32),
        dtype="float32",
        exact=True,
        note=f"upper triangle, tiles of {TILE_ROWS}",
    ),
    Provider(
        name="torch-bf16",
        join=partial(tiled_torch, dtype=torch.bfloat16),
        dtype="bfloat16",
        exact=False,
        note=f"upper triangle, tiles of {TILE_ROWS}, threshold as it is",
    ),
    Provider(
        name="scikit-learn",
        join=radius_neighbours,
        dtype="float32",
        exact=True,
        max_rows=10_000,
        needs="sklearn",
    ),
    Provider(
        name="semdedup",
        join=semdedup,
        dtype="float32",
        exact=False,
        needs="faiss",
        note=f"one cluster for {ROWS_PER_CLUSTER} rows, {CLUSTER_STEPS} steps of k-means",
    ),
)
"""Every one ends with the float64 check of the pairs it let through."""
