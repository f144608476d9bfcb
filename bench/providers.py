"""What a provider of a join is: the own implementations and the peers are measured through this.

Shape suffixes: N rows, D clip width, E dino width, P pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec

import torch

from kernels.reference import cosines

IndexPairs = tuple[torch.Tensor, torch.Tensor]
"""i and j, both [P] int64, i < j, every pair once, in any order."""

Join = Callable[[torch.Tensor, torch.Tensor, float, float], IndexPairs]
"""(clip_ND, dino_NE, clip_above, dino_below) to the blind pairs. Vectors come as they are stored:
whatever a provider turns them into is part of its time and memory."""

Statistics = dict[str, tuple[float | None, str]]
"""Value and note of each metric; None where a provider cannot tell."""

CHUNK_ROWS = 16_384


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """Something that finds blind pairs.

    Attributes:
        name: as in the rows.
        join: what it does.
        dtype: of its products.
        exact: whether it promises every pair; the others are measured with their recall.
        max_rows: N above which it is not run; None for no limit.
        needs: the module it cannot do without.
        statistics: what its last join says of itself.
        note: what one has to know of it.
    """

    name: str
    join: Join
    dtype: str
    exact: bool
    max_rows: int | None = None
    needs: str | None = None
    statistics: Callable[[], Statistics] = field(default=dict)
    note: str = ""

    @property
    def is_here(self) -> bool:
        """Whether the module it needs is installed."""
        return self.needs is None or find_spec(self.needs) is not None


def unit_rows(rows_ND: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Rows of unit length in a dtype, divided in float32, a chunk at a time.

    Args:
        rows_ND: [N, D] of any float dtype.
        dtype: of the result.
    """
    unit_ND = torch.empty(rows_ND.shape, dtype=dtype, device=rows_ND.device)
    for start in range(0, len(rows_ND), CHUNK_ROWS):
        part = slice(start, start + CHUNK_ROWS)
        unit_ND[part] = torch.nn.functional.normalize(rows_ND[part].float())
    return unit_ND


def blind_among(
    clip_ND: torch.Tensor,
    dino_NE: torch.Tensor,
    i: torch.Tensor,
    j: torch.Tensor,
    *,
    clip_above: float,
    dino_below: float,
) -> IndexPairs:
    """Those of some pairs that are blind by float64 cosines; what every peer ends with.

    Both thresholds need a look at the few pairs that a product let through, and a look in float64
    costs no more, so that a peer reports no pair that is none.
    """
    sure = cosines(clip_ND, clip_ND, i, j) > clip_above
    i, j = i[sure], j[sure]
    blind = cosines(dino_NE, dino_NE, i, j) < dino_below
    return i[blind], j[blind]
