"""What others would join with on a GPU, each used as well as it can be.

Shape suffixes: N rows, D clip width, E dino width, Q queries, T tile columns, K neighbours.
"""

from __future__ import annotations

from functools import partial

import torch

from bench.peers import NUM_NEIGHBOURS, both_ways, tiled_torch
from bench.providers import IndexPairs, Provider, unit_rows

TILE_ROWS = 16_384
"""Rows and columns of a tile of the torch joins: half a gigabyte of float16 products."""

QUERY_ROWS, TILE_BYTES = 512, 1 << 30
"""faiss's tiles on a GPU of more than 8 GB (faiss/gpu/impl/Distance.cu and its chooseTileSize): 512
queries by as many rows as make half of 1 GB of float32."""

QUERY_BATCH = 65_536
"""Queries that a library is asked at a time, so that its answers stay small."""


def two_pass_tiles(
    clip_ND: torch.Tensor,
    dino_NE: torch.Tensor,
    clip_above: float,
    dino_below: float,
    *,
    dtype: torch.dtype,
) -> IndexPairs:
    """The brute force of faiss on a GPU, in torch: products go to memory, a second pass selects.

    Queries 512 at a time against all rows, the nearest 64 of each tile kept and merged with those
    of the tiles before; the whole matrix, since faiss does not know that it is symmetric.
    """
    unit_ND = unit_rows(clip_ND, dtype)
    tile_columns = TILE_BYTES // (2 * dtype.itemsize * QUERY_ROWS)
    rows, columns = [], []
    for start in range(0, len(unit_ND), QUERY_ROWS):
        query_QD = unit_ND[start : start + QUERY_ROWS]
        best_QK = torch.empty(len(query_QD), 0, dtype=dtype, device=unit_ND.device)
        place_QK = torch.empty(len(query_QD), 0, dtype=torch.int64, device=unit_ND.device)
        for first in range(0, len(unit_ND), tile_columns):
            product_QT = query_QD @ unit_ND[first : first + tile_columns].T
            value_QK, index_QK = product_QT.topk(min(NUM_NEIGHBOURS + 1, product_QT.shape[1]))
            best_QK = torch.cat((best_QK, value_QK), dim=1)
            place_QK = torch.cat((place_QK, index_QK + first), dim=1)
            best_QK, order_QK = best_QK.topk(min(NUM_NEIGHBOURS + 1, best_QK.shape[1]))
            place_QK = place_QK.gather(1, order_QK)
        hits = (best_QK > clip_above).nonzero()
        rows.append(hits[:, 0] + start)
        columns.append(place_QK[hits[:, 0], hits[:, 1]])
    return both_ways(clip_ND, dino_NE, torch.cat(rows), torch.cat(columns), clip_above, dino_below)


def faiss_gpu(
    clip_ND: torch.Tensor, dino_NE: torch.Tensor, clip_above: float, dino_below: float
) -> IndexPairs:
    """`faiss.knn_gpu` for the nearest 64: faiss has no range search on a GPU."""
    import faiss
    import faiss.contrib.torch_utils

    resources = faiss.StandardGpuResources()
    unit_ND = unit_rows(clip_ND, torch.float16)
    rows, columns = [], []
    for start in range(0, len(unit_ND), QUERY_BATCH):
        cosine_QK, place_QK = faiss.knn_gpu(
            resources,
            unit_ND[start : start + QUERY_BATCH],
            unit_ND,
            min(NUM_NEIGHBOURS + 1, len(unit_ND)),
            metric=faiss.METRIC_INNER_PRODUCT,
        )
        hits = (cosine_QK > clip_above).nonzero()
        rows.append(hits[:, 0] + start)
        columns.append(place_QK[hits[:, 0], hits[:, 1]])
    return both_ways(clip_ND, dino_NE, torch.cat(rows), torch.cat(columns), clip_above, dino_below)


def cuvs_knn(
    clip_ND: torch.Tensor, dino_NE: torch.Tensor, clip_above: float, dino_below: float
) -> IndexPairs:
    """The brute force of cuVS for the nearest 64."""
    from cuvs.neighbors import brute_force

    unit_ND = unit_rows(clip_ND, torch.float16)
    index = brute_force.build(unit_ND, metric="inner_product")
    rows, columns = [], []
    for start in range(0, len(unit_ND), QUERY_BATCH):
        answer = brute_force.search(
            index, unit_ND[start : start + QUERY_BATCH], min(NUM_NEIGHBOURS + 1, len(unit_ND))
        )
        cosine_QK, place_QK = (torch.as_tensor(part, device=clip_ND.device) for part in answer)
        hits = (cosine_QK > clip_above).nonzero()
        rows.append(hits[:, 0] + start)
        columns.append(place_QK[hits[:, 0], hits[:, 1]].long())
    return both_ways(clip_ND, dino_NE, torch.cat(rows), torch.cat(columns), clip_above, dino_below)


def gpu_peers() -> list[Provider]:
    """The peers; those that need CUDA are there on every machine and say so where it lacks."""
    tiles = f"upper triangle, tiles of {TILE_ROWS}"
    nearest = f"nearest {NUM_NEIGHBOURS}"
    return [
        Provider(
            name="torch-fp32",
            join=partial(tiled_torch, dtype=torch.float32, tile_rows=TILE_ROWS),
            dtype="float32",
            exact=True,
            note=tiles,
        ),
        Provider(
            name="torch-fp16",
            join=partial(tiled_torch, dtype=torch.float16, tile_rows=TILE_ROWS),
            dtype="float16",
            exact=False,
            note=f"{tiles}, threshold as it is",
        ),
        Provider(
            name="two-pass-tiles",
            join=partial(two_pass_tiles, dtype=torch.float16),
            dtype="float16",
            exact=False,
            note=f"faiss's tiles and selection in torch, {nearest}",
        ),
        Provider(
            name="faiss-gpu",
            join=faiss_gpu,
            dtype="float16",
            exact=False,
            needs="faiss",
            note=nearest,
        ),
        Provider(
            name="cuvs", join=cuvs_knn, dtype="float16", exact=False, needs="cuvs", note=nearest
        ),
    ]
