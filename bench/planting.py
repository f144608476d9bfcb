"""Pairs of rows whose cosines are set, so that every provider has the same answer to find.

Shape suffixes: N rows, D clip width, E dino width, P pairs.
"""

from __future__ import annotations

import torch

from bench.cones import seeded
from kernels.reference import Pairs, cosines

CLIP_LADDER = (0.9501, 0.9499, 0.95001, 0.94999, 0.955, 0.97, 0.985, 0.995)
"""CLIP cosines that are planted, in turn; two lie 1e-5 from the default threshold."""

DINO_LADDER = (0.1, 0.5999, 0.6001, 0.4, 0.9)
"""DINO cosines that are planted with each of them; with the above 40 kinds of pairs."""

TOLERANCE = 5e-6
"""How exactly a planted cosine is met: float16 rows leave steps of this order."""

ROWS_PER_PAIR = 40
MIN_PAIRS, MAX_PAIRS = 40, 5000
"""One pair is planted for so many rows, within these limits."""

ATTEMPTS = 40
STEP = 1e-6
CHUNK_PAIRS = 4096


def plant(clip_ND: torch.Tensor, dino_NE: torch.Tensor, *, seed: int) -> Pairs:
    """Turn the second row of random pairs so that both cosines are those of the ladders.

    Places are random; the rest of a turned row's direction stays its own.

    Args:
        clip_ND: [N, D] float16 unit rows; changed in place.
        dino_NE: [N, E] float16 unit rows; changed in place.
        seed: of the places.

    Returns:
        The pairs, on the CPU, with the cosines that their float16 rows really have; no row is in
        two of them.
    """
    num_rows, device = len(clip_ND), clip_ND.device
    num_pairs = min(num_rows // 2, MAX_PAIRS, max(MIN_PAIRS, num_rows // ROWS_PER_PAIR))
    places = torch.randperm(num_rows, generator=seeded(torch.device("cpu"), seed, 7)).to(device)
    both = torch.stack((places[:num_pairs], places[num_pairs : 2 * num_pairs]))
    i, j = both.amin(dim=0), both.amax(dim=0)
    kind = torch.arange(num_pairs, device=device)
    clip = torch.tensor(CLIP_LADDER, dtype=torch.float64, device=device)
    dino = torch.tensor(DINO_LADDER, dtype=torch.float64, device=device)
    clip_wanted = clip[kind % len(clip)]
    dino_wanted = dino[kind // len(clip) % len(dino)]
    return Pairs(
        i=i.cpu(),
        j=j.cpu(),
        clip_cos=_turn(clip_ND, i, j, clip_wanted).cpu(),
        dino_cos=_turn(dino_NE, i, j, dino_wanted).cpu(),
    )


def _turn(
    rows_ND: torch.Tensor, i: torch.Tensor, j: torch.Tensor, wanted: torch.Tensor
) -> torch.Tensor:
    """Turn rows j towards or away from rows i; the cosines that came of it."""
    for start in range(0, len(i), CHUNK_PAIRS):
        part = slice(start, start + CHUNK_PAIRS)
        rows_ND[j[part]] = turned(rows_ND[i[part]], rows_ND[j[part]], wanted[part])
    return cosines(rows_ND, rows_ND, i, j)


def turned(
    fixed_PD: torch.Tensor,
    turning_PD: torch.Tensor,
    wanted_P: torch.Tensor,
    *,
    attempts: int = ATTEMPTS,
) -> torch.Tensor:
    """The turning rows in the plane they span with the fixed ones, at the wanted cosines.

    Rounding to float16 moves a cosine by some 1e-6, another way for every angle, so angles around
    the wanted one are tried and for each pair the best is kept.

    Args:
        fixed_PD: [P, D] float16.
        turning_PD: [P, D] float16.
        wanted_P: [P] float64.
        attempts: angles to try; 1 leaves the rounding as it is.

    Returns:
        [P, D] float16.
    """
    fixed = torch.nn.functional.normalize(fixed_PD.double())
    own = turning_PD.double()
    own = torch.nn.functional.normalize(own - (own * fixed).sum(dim=1, keepdim=True) * fixed)
    best_PD = turning_PD.clone()
    best_P = torch.full_like(wanted_P, 2.0)
    for attempt in range(attempts):
        # Alternately above and below, further away each time.
        offset = (attempt + 1) // 2 * (-1) ** attempt * STEP
        cosine = (wanted_P + offset).clamp(max=1)[:, None]
        candidate_PD = (cosine * fixed + (1 - cosine.square()).sqrt() * own).to(fixed_PD.dtype)
        wide = torch.nn.functional.normalize(candidate_PD.double())
        error_P = ((wide * fixed).sum(dim=1) - wanted_P).abs()
        better = error_P < best_P
        best_PD[better], best_P[better] = candidate_PD[better], error_P[better]
        if bool((best_P < TOLERANCE / 10).all()):
            break
    return best_PD
