"""Whether a provider's pairs are right: no figure is kept of one whose pairs are wrong.

Every pair that anybody reports is checked by its float64 cosines, so nobody can report a wrong one.
That none is missing is checked against the reference where N is small, and otherwise against the
planted pairs and what all exact providers found together.

Shape suffixes: P pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from bench.providers import IndexPairs, Provider
from bench.vectors import Vectors
from kernels.reference import candidates, cosines

REFERENCE_ROWS = 20_000
"""N up to which the float64 reference is run for the truth."""

BAND = 1e-6
"""A pair with a cosine this near to its threshold may be found or not."""


class WrongPairsError(Exception):
    """A provider's pairs are not the true ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """The pairs that have to be found.

    Attributes:
        keys_P: [P] int64, ascending, i * N + j of the pairs.
        source: how they are known.
    """

    keys_P: np.ndarray
    source: str


def keys_of(pairs: IndexPairs, num_rows: int) -> np.ndarray:
    """Pairs as sorted numbers i * N + j.

    Raises:
        WrongPairsError: a pair is out of range, not i < j, or there twice.
    """
    i, j = (part.cpu().numpy().astype(np.int64) for part in pairs)
    if len(i) and not (i.min() >= 0 and (i < j).all() and j.max() < num_rows):
        raise WrongPairsError(f"pairs are not 0 <= i < j < {num_rows}")
    keys = np.sort(i * num_rows + j)
    if (np.diff(keys) == 0).any():
        raise WrongPairsError(f"{int((np.diff(keys) == 0).sum())} pairs are reported twice")
    return keys


def known_truth(vectors: Vectors) -> Truth:
    """What is known before anybody has joined: all pairs where N is small, else those planted."""
    num_rows = len(vectors)
    if num_rows > REFERENCE_ROWS:
        planted = vectors.planted
        blind = (planted.clip_cos > vectors.clip_above) & (planted.dino_cos < vectors.dino_below)
        keys_P = keys_of((planted.i[blind], planted.j[blind]), num_rows)
        return Truth(keys_P=keys_P, source=f"{len(keys_P)} planted pairs")
    clip, dino = vectors.clip_ND.cpu(), vectors.dino_NE.cpu()
    found = [
        keys_of((block.i[blind], block.j[blind]), num_rows)
        for block in candidates((clip, None), (dino, None), clip_above=vectors.clip_above)
        for blind in (block.dino_cos < vectors.dino_below,)
    ]
    keys_P = np.sort(np.concatenate(found)) if found else np.empty(0, np.int64)
    return Truth(keys_P=keys_P, source="the float64 reference")


def agreed_truth(known: Truth, found: dict[str, np.ndarray], vectors: Vectors) -> Truth:
    """The known pairs and all that anybody found, as far as they are blind in float64.

    Args:
        known: from `known_truth`.
        found: what each provider found, by its name.
        vectors: what was joined.
    """
    if len(vectors) <= REFERENCE_ROWS:
        return known
    keys_P = known.keys_P
    for keys in found.values():
        keys_P = np.union1d(keys_P, keys)
    keys_P = keys_P[_margin(keys_P, vectors) > 0]
    return Truth(keys_P=keys_P, source=f"{known.source} and what {', '.join(found)} found")


def check(provider: Provider, keys_P: np.ndarray, truth: Truth, vectors: Vectors) -> float:
    """Compare a provider's pairs with the truth.

    Args:
        provider: who found them.
        keys_P: what was found, from `keys_of`.
        truth: what is to be found.
        vectors: what was joined.

    Returns:
        The recall, over pairs that lie outside the band; 1 where there are none.

    Raises:
        WrongPairsError: a pair is reported that is not blind, or an exact provider misses one,
            by more than the band.
    """
    wrong = np.setdiff1d(keys_P, truth.keys_P, assume_unique=True)
    wrong = wrong[_margin(wrong, vectors) < -BAND]
    if len(wrong):
        raise WrongPairsError(
            f"{provider.name} reports {len(wrong)} of {len(keys_P)} pairs that are not blind, "
            f"such as {_pair(wrong[0], vectors)}; its figures are refused"
        )
    sure = truth.keys_P[_margin(truth.keys_P, vectors) > BAND]
    missing = np.setdiff1d(sure, keys_P, assume_unique=True)
    if provider.exact and len(missing):
        raise WrongPairsError(
            f"{provider.name} misses {len(missing)} of {len(sure)} pairs ({truth.source}), "
            f"such as {_pair(missing[0], vectors)}; its figures are refused"
        )
    return 1.0 - len(missing) / len(sure) if len(sure) else 1.0


def _margin(keys_P: np.ndarray, vectors: Vectors) -> np.ndarray:
    """[P] float64: by how much the tighter of both cosines lies inside its threshold."""
    clip_cos, dino_cos = _cosines(keys_P, vectors)
    return np.minimum(clip_cos - vectors.clip_above, vectors.dino_below - dino_cos)


def _cosines(keys_P: np.ndarray, vectors: Vectors) -> tuple[np.ndarray, np.ndarray]:
    device = vectors.clip_ND.device
    i, j = (torch.from_numpy(part).to(device) for part in np.divmod(keys_P, len(vectors)))
    clip_cos = cosines(vectors.clip_ND, vectors.clip_ND, i, j)
    dino_cos = cosines(vectors.dino_NE, vectors.dino_NE, i, j)
    return clip_cos.cpu().numpy(), dino_cos.cpu().numpy()


def _pair(key: np.int64, vectors: Vectors) -> str:
    clip_cos, dino_cos = _cosines(np.array([key]), vectors)
    i, j = divmod(int(key), len(vectors))
    return f"({i}, {j}) with cosines {clip_cos[0]:.7f} and {dino_cos[0]:.7f}"
