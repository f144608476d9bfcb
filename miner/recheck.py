"""Borderline pairs, decided by float32 (`--recheck`).

Vectors from a faster engine put a pair's cosine within a known deviation of what `TorchEncoder`
gives in float32. So pairs are sought up to that far beyond the thresholds; of each cosine within
the band around a threshold the two images are encoded anew in float32, rounded to float16 as every
stored vector is, and the pair is decided by that. What lies outside the bands is decided already.
The deviation was measured on few images and of millions of pairs some move more, so a band is at
least what the precision promises, and grows where a pair shows that it has to. The counts of
candidates and the histogram stay those of the stored vectors.

Shape suffixes: P pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from kernels.reference import Pairs, cosines
from miner.config import JoinSettings
from miner.engines import PAIR_LIMITS
from miner.errors import ParityError
from miner.packs import Pack
from miner.partial import Late, embed_images
from miner.partners import Partners
from miner.records import Json
from miner.rows import Rows, by_shard, deviations, vectors_of
from miner.sides import BORDERLINE
from miner.store import Store
from miner.vectors import FP32, EncoderVectors

STORAGE = 1.5e-4
"""What rounding to float16 may move a cosine by, twice: an engine's vector and the truth's."""

MOST_STRAY = 10
"""How many times what its precision may a cosine may be off; beyond, the engine is broken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rechecked:
    """What a re-check decided.

    Attributes:
        pairs: [P], those that are kept, with the cosines that decided.
        counts: what join.json says of it.
        cut: pairs beyond `max_partners`, and images that had more.
        moved: by how much float32 moved a cosine at most: CLIP's, and DINO's.
    """

    pairs: Pairs
    counts: Json
    cut: tuple[int, int]
    moved: tuple[float, float]


def refuse_idle(stores: Sequence[Store], clip: str, dino: str, shards: list[list[str]]) -> None:
    """Refuse a re-check of vectors that are the truth already.

    Raises:
        ValueError: no vector deviates from `TorchEncoder` in float32.
    """
    found = [
        deviations(store, encoder_id, shard_ids)
        for store, shard_ids in zip(stores, shards, strict=True)
        for encoder_id in (clip, dino)
    ]
    if max(found) == 0:
        raise ValueError(
            f"--recheck has no effect: all vectors of {clip} and {dino} were computed by torch in "
            "fp32, which is what it would compare with; leave it out"
        )


def reach(stores: Sequence[Store], encoder_id: str, shards: Sequence[Sequence[str]]) -> float:
    """How far around a threshold an encoder's stored cosines are decided anew, at least."""
    found = [BORDERLINE]
    for store, shard_ids in zip(stores, shards, strict=True):
        vectors = EncoderVectors(store, encoder_id)
        for record in (each for shard_id in shard_ids for each in vectors.records(shard_id)):
            if record["deviation"] > 0:
                found += [float(record["deviation"]), PAIR_LIMITS[record["precision"]].max]
    return max(found)


def grown(encoder_id: str, moved: float, band: float, reached: float) -> float:
    """A band that allows for what float32 moved: the same where it did already.

    Args:
        encoder_id: whose cosines.
        moved: the most that one of them was off.
        band: with which pairs were sought.
        reached: the encoder's `reach`.

    Raises:
        ParityError: a cosine moved by more than one of an engine that works.
    """
    if moved <= band + STORAGE:
        return band
    if moved > MOST_STRAY * reached:
        raise ParityError(
            f"{encoder_id}: float32 moves a borderline pair's cosine by {moved:.5f}, more than "
            f"{MOST_STRAY} times the {reached:.5f} that its precision may; embed again with "
            "another --backend or --precision"
        )
    return 2 * moved


def widened(settings: JoinSettings, bands: tuple[float, float]) -> JoinSettings:
    """What has to be sought so that no pair is missed that float32 would find.

    Images may have twice as many partners meanwhile, since some of these will prove to be none.
    """
    return settings.model_copy(
        update={
            "keep_clip": max(settings.keep_clip_above - bands[0] - STORAGE, -1.0),
            "keep_dino": min(settings.keep_dino_below + bands[1] + STORAGE, 1.0),
            "max_partners": 2 * settings.max_partners,
        }
    )


def recheck(
    stores: Sequence[Store],
    encoder_ids: tuple[str, str],
    packs: Sequence[Pack],
    pairs: Pairs,
    settings: JoinSettings,
    bands: tuple[float, float],
    late: Late,
) -> Rechecked:
    """Decide borderline pairs by float32.

    Args:
        stores: the runs that are joined.
        encoder_ids: CLIP's and DINO's.
        packs: the rows of the join.
        pairs: [P], found with `widened` settings; they number rows by image_id.
        settings: as they were asked for.
        bands: how far a cosine may be from the truth.
        late: both encoders in float32.

    Returns:
        What was decided; final only where nothing moved by more than the bands.
    """
    sets = (packs[0].rows, packs[-1].rows)
    clip_cos, clip_near, clip_moved = _truth(
        stores, encoder_ids[0], sets, pairs, pairs.clip_cos,
        (settings.clip_above, settings.keep_clip_above), bands[0], late,
    )  # fmt: skip
    dino_cos, dino_near, dino_moved = _truth(
        stores, encoder_ids[1], sets, pairs, pairs.dino_cos,
        (settings.dino_below, settings.keep_dino_below), bands[1], late,
    )  # fmt: skip
    decided = replace(pairs, clip_cos=clip_cos, dino_cos=dino_cos)
    before, after = _blind(pairs, settings), _blind(decided, settings)
    # NaN, where float32 gave no vector, is neither above nor below.
    kept = (clip_cos > settings.keep_clip_above) & (dino_cos < settings.keep_dino_below)
    partners = Partners(settings, len(sets[0]), None if len(packs) == 1 else len(sets[1]))
    partners.add(decided.where(kept))
    result = partners.kept()
    return Rechecked(
        pairs=result,
        counts={
            "clip_band": bands[0],
            "dino_band": bands[1],
            "pairs": int((clip_near | dino_near).sum()),
            "clip_images": _num_images(pairs, clip_near, packs),
            "dino_images": _num_images(pairs, dino_near, packs),
            "became_blind": int((after & ~before).sum()),
            "ceased_to_be_blind": int((before & ~after).sum()),
        },
        cut=(
            int(kept.sum()) - len(result),
            int((partners.degree > settings.max_partners).sum()),
        ),
        moved=(clip_moved, dino_moved),
    )


def near_threshold(cos: torch.Tensor, thresholds: Sequence[float], band: float) -> torch.Tensor:
    """[P] bool: cosines within a band around one of some thresholds."""
    near = [(cos - threshold).abs() <= band + STORAGE for threshold in thresholds]
    return torch.stack(near).any(dim=0)


def true_vectors(
    stores: Sequence[Store], encoder_id: str, wanted: set[str]
) -> dict[str, np.ndarray]:
    """The float32 encoder's vectors of some images, as far as they were stored."""
    found = vectors_of(stores, encoder_id, wanted, FP32)
    left = wanted - found.keys()
    for store in stores:
        vectors = EncoderVectors(store, encoder_id)
        exact = {
            image_id
            for shard_id, image_ids in by_shard(store, left).items()
            if _is_exact(vectors, shard_id)
            for image_id in image_ids
        }
        found |= vectors_of([store], encoder_id, exact)
    return found


def _is_exact(vectors: EncoderVectors, shard_id: str) -> bool:
    return all(record["deviation"] == 0 for record in vectors.records(shard_id))


def _truth(
    stores: Sequence[Store],
    encoder_id: str,
    sets: tuple[Rows, Rows],
    pairs: Pairs,
    cos: torch.Tensor,
    thresholds: tuple[float, float],
    band: float,
    late: Late,
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """One encoder's cosines, anew where they lie near a threshold; which, and what moved most."""
    near = near_threshold(cos, thresholds, band)
    names = [
        [rows.image_ids[row] for row in side[near].tolist()]
        for rows, side in zip(sets, (pairs.i, pairs.j), strict=True)
    ]
    for number, store in enumerate(stores):
        # Within one run both sides are its own.
        own = {*names[0], *names[1]} if len(stores) == 1 else set(names[number])
        vectors = EncoderVectors(store, encoder_id)
        wanted = {
            shard_id: image_ids
            for shard_id, image_ids in by_shard(store, own).items()
            if not _is_exact(vectors, shard_id)
        }
        embed_images(store, wanted, encoder_id, FP32, late)
    vectors_of_image = true_vectors(stores, encoder_id, {*names[0], *names[1]})
    truth = cos.clone()
    truth[near] = _cosines(vectors_of_image, names[0], names[1])
    moved = (cos[near] - truth[near]).abs().nan_to_num()
    return truth, near, float(moved.max()) if len(moved) else 0.0


def _cosines(vectors: dict[str, np.ndarray], first: list[str], second: list[str]) -> torch.Tensor:
    """[P] float64; NaN where an image has no vector."""
    found = torch.full((len(first),), torch.nan, dtype=torch.float64)
    have = [p for p in range(len(first)) if first[p] in vectors and second[p] in vectors]
    if have:
        order = {image_id: row for row, image_id in enumerate(vectors)}
        stacked = torch.from_numpy(np.stack(list(vectors.values())))
        i, j = (torch.tensor([order[names[p]] for p in have]) for names in (first, second))
        found[have] = cosines(stacked, stacked, i, j)
    return found


def _blind(pairs: Pairs, settings: JoinSettings) -> torch.Tensor:
    return (pairs.clip_cos > settings.clip_above) & (pairs.dino_cos < settings.dino_below)


def _num_images(pairs: Pairs, near: torch.Tensor, packs: Sequence[Pack]) -> int:
    i, j = pairs.i[near], pairs.j[near]
    if len(packs) == 1:
        return len(torch.unique(torch.cat([i, j])))
    return len(torch.unique(i)) + len(torch.unique(j))
