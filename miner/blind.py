"""Blind pairs over tensors: the miner's heart, without a store around it.

Shape suffixes: N rows of the first set, M of the second, D clip width, E dino width, P pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from kernels.reference import concatenate
from miner.implementations import candidates, implementation


@dataclass(frozen=True, slots=True, kw_only=True)
class BlindPairs:
    """What `blind_pairs` found.

    Attributes:
        i: [P] int64, row of the first set.
        j: [P] int64, row of the second set; within one set i < j.
        clip_cos: [P] float32, descending.
        dino_cos: [P] float32.
        impl: the implementation that ran.
    """

    i: torch.Tensor
    j: torch.Tensor
    clip_cos: torch.Tensor
    dino_cos: torch.Tensor
    impl: str

    def __len__(self) -> int:
        return len(self.i)


OneOrTwo = torch.Tensor | tuple[torch.Tensor, torch.Tensor]


def blind_pairs(
    clip: OneOrTwo,
    dino: OneOrTwo,
    *,
    clip_above: float = 0.95,
    dino_below: float = 0.6,
    impl: str = "auto",
    threads: int | None = None,
) -> BlindPairs:
    """Find all pairs that CLIP calls the same and DINO calls different.

    Args:
        clip: [N, D] of any float dtype (a tensor, or what `torch.as_tensor` takes), rows of any
            length but zero; or a tuple of [N, D] and
            [M, D] to join across two sets.
        dino: [N, E] (or a tuple of [N, E] and [M, E]) of the same images in the same order.
        clip_above: a pair's CLIP cosine is strictly above this.
        dino_below: a pair's DINO cosine is strictly below this.
        impl: `cpu`, `triton`, `reference`, `knn` (which may miss pairs), or `auto`, which takes
            the fastest exact one.
        threads: cores that `cpu` uses; default: as many as torch is set to.

    Returns:
        The pairs by float64 cosine, ordered by descending clip_cos, then i, then j.

    Raises:
        ValueError: shapes, dtypes or thresholds do not fit, or a row is zero or not finite.
        ResourceError: the implementation needs a GPU and there is none.
    """
    search = implementation(impl)
    if threads is not None and (search != "cpu" or threads < 1):
        raise ValueError(
            f"threads is {threads} for impl {search!r}; it is a positive number, and for cpu alone"
        )
    for name, threshold in (("clip_above", clip_above), ("dino_below", dino_below)):
        if not -1 <= threshold <= 1:
            raise ValueError(f"{name} is {threshold}; a cosine lies in [-1, 1]")
    clip_sets, dino_sets = _sets(clip, "clip"), _sets(dino, "dino")
    _check_same_images(clip_sets, dino_sets)
    blocks = [
        block.where(block.dino_cos < dino_below)
        for block in candidates(
            search, clip_sets, dino_sets, clip_above=clip_above, threads=threads
        )
    ]
    pairs = concatenate(blocks)
    order = torch.from_numpy(
        np.lexsort((pairs.j.numpy(), pairs.i.numpy(), -pairs.clip_cos.float().numpy()))
    )
    pairs = pairs.where(order)
    return BlindPairs(
        i=pairs.i,
        j=pairs.j,
        clip_cos=pairs.clip_cos.float(),
        dino_cos=pairs.dino_cos.float(),
        impl=search,
    )


def _sets(rows: OneOrTwo, name: str) -> tuple[torch.Tensor, torch.Tensor | None]:
    both = rows if isinstance(rows, tuple) else (rows, None)
    # NumPy arrays are what many corpora's vectors come as.
    first, second = (None if part is None else torch.as_tensor(part) for part in both)
    assert first is not None
    for tensor in (first, second):
        if tensor is None:
            continue
        if tensor.ndim != 2 or not tensor.is_floating_point() or tensor.shape[1] == 0:
            raise ValueError(
                f"{name} is {tensor.dtype} of shape {tuple(tensor.shape)}; "
                "it has to be a matrix of floats, one row an image"
            )
    if second is not None and first.shape[1] != second.shape[1]:
        raise ValueError(
            f"{name}: the two sets are {first.shape[1]} and {second.shape[1]} wide; "
            "they have to come from one encoder"
        )
    return first.detach().cpu(), None if second is None else second.detach().cpu()


def _check_same_images(
    clip: tuple[torch.Tensor, torch.Tensor | None], dino: tuple[torch.Tensor, torch.Tensor | None]
) -> None:
    clip_rows, dino_rows = ([len(rows) for rows in s if rows is not None] for s in (clip, dino))
    if clip_rows != dino_rows:
        raise ValueError(
            f"clip has {clip_rows} rows and dino {dino_rows}; "
            "row k of both has to be the same image"
        )
