"""An order of rows in which like rows lie together, so that survivors share few tiles.

Where the rows lie decides only how fast a join is, never what it finds.

Shape suffixes: N rows, K width, S rows of a sample, C centres.
"""

from __future__ import annotations

import torch

CLUSTER_ROWS = 256
"""Rows to a cluster, about; a tile of a join then holds a few clusters."""

MAX_CLUSTERS = 1024
LLOYD_STEPS = 4


def find_centres(image_SK: torch.Tensor, num_rows: int, *, seed: int = 0) -> torch.Tensor:
    """Centres of coarse clusters, by spherical k-means over a sample.

    Args:
        image_SK: [S, K] float32, rows of unit length.
        num_rows: how many rows the clusters are for.
        seed: of the first centres.

    Returns:
        [C, K] float32 of unit length; one centre at least, none for an empty sample.
    """
    number = min(max(num_rows // CLUSTER_ROWS, 1), MAX_CLUSTERS, len(image_SK))
    generator = torch.Generator().manual_seed(seed)
    centre_CK = image_SK[torch.randperm(len(image_SK), generator=generator)[:number]].clone()
    for _ in range(LLOYD_STEPS if number > 1 else 0):
        nearest_S = nearest_centres(image_SK, centre_CK)
        sums_CK = torch.zeros_like(centre_CK).index_add_(0, nearest_S, image_SK)
        # A centre that lost all its rows stays where it was.
        centre_CK = torch.where(sums_CK.any(dim=1, keepdim=True), sums_CK, centre_CK)
        centre_CK = torch.nn.functional.normalize(centre_CK, dim=1)
    return centre_CK


def nearest_centres(image_NK: torch.Tensor, centre_CK: torch.Tensor) -> torch.Tensor:
    """[N] int64: the centre with the largest product, for each row."""
    return (image_NK @ centre_CK.T).argmax(dim=1)


def order_of_clusters(centre_CK: torch.Tensor) -> torch.Tensor:
    """A walk over the centres that goes to the nearest unvisited one.

    Args:
        centre_CK: [C, K] float32 of unit length.

    Returns:
        [C] int64: the place of each centre on the walk, so that neighbours in a layout are like.
    """
    products_CC = centre_CK @ centre_CK.T
    products_CC.fill_diagonal_(-2.0)
    place_C = torch.zeros(len(centre_CK), dtype=torch.int64)
    here = 0
    for place in range(1, len(centre_CK)):
        products_CC[:, here] = -2.0
        here = int(products_CC[here].argmax())
        place_C[here] = place
    return place_C
