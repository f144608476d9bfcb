"""The vectors of several encoders on the same images, for a calibration.

Shape suffixes: N images, D width of a vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from miner.errors import StoreError
from miner.measuring.calibration import Encoders
from miner.rows import load_rows, vectors_of
from miner.store import Store

SEED = 20240111


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """Images that all encoders have seen, copies of equal bytes counted once.

    Attributes:
        encoders: CLIP's and DINO's vectors, of each pair of encoders.
        num_images: of the vectors.
        num_there: of all such images; more than `num_images` where a sample was taken.
    """

    encoders: list[Encoders]
    num_images: int
    num_there: int


def common_images(pairs: Sequence[tuple[Store, tuple[str, str]]], *, max_images: int) -> Images:
    """Load what pairs of encoders gave for the images that all of them have seen.

    Args:
        pairs: runs, maybe all the same one, each with encoder_ids of CLIP and DINO. Images of
            several runs are the same where their bytes are.
        max_images: of more a seeded sample is taken.

    Raises:
        StoreError: a run has no vectors of an encoder, or there is no image that all have seen.
    """
    named: list[dict[str, str]] = []
    for store, ids in pairs:
        rows = load_rows(store, *ids)
        # Ordered by image_id, of which the smallest stands for all copies.
        named.append(dict(zip(reversed(rows.sha256), reversed(rows.image_ids), strict=True)))
    common = sorted(set.intersection(*(set(each) for each in named)))
    if len(common) < 2:
        raise StoreError(
            f"{len(common)} images have vectors of all encoders ("
            f"{'; '.join(f'{store.root}: {len(each)}' for (store, _), each in _zip(pairs, named))}"
            "); embed the same images with all of them"
        )
    chosen = np.arange(len(common))
    if len(common) > max_images:
        chosen = np.sort(np.random.default_rng(SEED).permutation(len(common))[:max_images])
    names = [common[place] for place in chosen.tolist()]
    encoders = []
    for (store, ids), image_of in _zip(pairs, named):
        images = [image_of[sha256] for sha256 in names]
        clip_ND, dino_ND = (_matrix(store, encoder_id, images) for encoder_id in ids)
        encoders.append(Encoders(clip_ND=clip_ND, dino_ND=dino_ND))
    return Images(encoders=encoders, num_images=len(names), num_there=len(common))


def _zip(
    pairs: Sequence[tuple[Store, tuple[str, str]]], named: Sequence[dict[str, str]]
) -> list[tuple[tuple[Store, tuple[str, str]], dict[str, str]]]:
    return list(zip(pairs, named, strict=True))


def _matrix(store: Store, encoder_id: str, images: Sequence[str]) -> torch.Tensor:
    found = vectors_of([store], encoder_id, set(images))
    return torch.from_numpy(np.stack([found[name] for name in images]))
