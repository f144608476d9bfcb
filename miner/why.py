"""Why a pair of images is, or is not, a blind pair of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow.compute as pc
import torch

from kernels.reference import cosines
from miner.errors import StoreError
from miner.pairs import pair_id
from miner.recheck import near_threshold, true_vectors
from miner.records import Json
from miner.rows import runs_of, samples_of, vectors_of
from miner.select import verdict_on
from miner.store import Store

THRESHOLDS = {"clip": "clip_above", "dino": "dino_below"}

NOT_COMPARED = "not compared: both images are of one run, and the join was against another"


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """What is known of a pair: both cosines anew, and the step that kept or dropped it.

    Attributes:
        image_1: the smaller image_id.
        image_2: the larger.
        stands_for_1: the image that stands for image_1 in `raw` (a copy with equal bytes).
        stands_for_2: likewise.
        clip_cos: float64, of the stored vectors; None where one is missing.
        dino_cos: likewise.
        clip_above: the join's threshold.
        dino_below: likewise.
        verdict: one sentence.
    """

    image_1: str
    image_2: str
    stands_for_1: str
    stands_for_2: str
    clip_cos: float | None
    dino_cos: float | None
    clip_above: float
    dino_below: float
    verdict: str


def explain(store: Store, name: str, image_1: str, image_2: str) -> Explanation:
    """Follow a pair through a join and its selection.

    Args:
        store: the run directory.
        name: the join's.
        image_1: an image_id.
        image_2: another one.

    Raises:
        ValueError: the two are one.
        StoreError: one of the images is no sample of the run.
    """
    record = store.read_record(f"pairs/{name}/join.json")
    if image_1 == image_2:
        raise ValueError(f"{image_1} is named twice; give two images")
    first, second = sorted((image_1, image_2))
    runs = runs_of(store, record)
    samples = samples_of(runs, (first, second))
    for image_id in (first, second):
        if image_id not in samples:
            raise StoreError(
                f"{image_id} is no sample of {store.root}; {_refusal(store, image_id)}"
            )
    clip_cos = _cosine(runs, record, "clip", first, second)
    dino_cos = _cosine(runs, record, "dino", first, second)
    stands_for = [_first_copy(runs, samples[image_id], record) for image_id in (first, second)]
    return Explanation(
        image_1=first,
        image_2=second,
        stands_for_1=stands_for[0],
        stands_for_2=stands_for[1],
        clip_cos=clip_cos,
        dino_cos=dino_cos,
        clip_above=record["clip_above"],
        dino_below=record["dino_below"],
        verdict=NOT_COMPARED
        if len(runs) > 1 and len({_run_of(runs, image_id) for image_id in (first, second)}) == 1
        else _verdict(store, name, record, stands_for, samples, (clip_cos, dino_cos)),
    )


def images_of_pair(store: Store, name: str, pair_id: str) -> tuple[str, str]:
    """The image_ids of a pair in `raw`, the first where copies make several.

    Args:
        store: the run directory.
        name: the join's.
        pair_id: 16 hex digits.

    Raises:
        StoreError: no pair of the join is called so.
    """
    raw = store.raw(name).select(["pair_id", "image_1", "image_2"])
    found = raw.filter(pc.equal(raw["pair_id"], pair_id)).slice(0, 1).to_pylist()
    if not found:
        example = f"; a pair_id is, for one, {raw['pair_id'][0]}" if len(raw) else ""
        raise StoreError(
            f"{pair_id} is no pair_id in raw of {name}{example}; or give two image_ids"
        )
    return found[0]["image_1"], found[0]["image_2"]


def _run_of(runs: Sequence[Store], image_id: str) -> int:
    return [image_id in samples_of([run], [image_id]) for run in runs].index(True)


def _verdict(
    store: Store,
    name: str,
    record: Json,
    stands_for: list[str],
    samples: dict[str, Json],
    cosine: tuple[float | None, float | None],
) -> str:
    clip_cos, dino_cos = cosine
    if stands_for[0] == stands_for[1]:
        return "the two images are the same bytes: copies are collapsed before the join"
    if clip_cos is not None and dino_cos is None and record["lazy"] is not None:
        above = record["lazy"]["screened_above"]
        if clip_cos <= above:
            return (
                f"no candidate: CLIP cosine {clip_cos:.6f} is not above {above}, "
                "and DINO looked only at images with a candidate"
            )
    if clip_cos is None or dino_cos is None:
        return "an encoder gave no finite vector for one of the images"
    raw = store.raw(name)
    both = set(stands_for)
    rows = [
        row
        for row, pair in enumerate(
            zip(raw["image_1"].to_pylist(), raw["image_2"].to_pylist(), strict=True)
        )
        if set(pair) == both
    ]
    if not rows:
        if clip_cos <= record["clip_above"]:
            return f"no candidate: CLIP cosine {clip_cos:.6f} is not above {record['clip_above']}"
        if dino_cos >= record["dino_below"]:
            return f"not blind: DINO cosine {dino_cos:.6f} is not below {record['dino_below']}"
        missed = "missed by knn, " if record["impl"] == "knn" else ""
        return (
            f"within the thresholds but not in raw: {missed}collapsed as a near-copy, beyond the "
            f"{record['max_partners']} partners that an image keeps, or embedded after the join; "
            f"run `blindpairs join {store.root}` again"
        )
    identity = pair_id(*(row["sha256"] for row in samples.values()))
    if "selection" not in record:
        return f"in raw as {identity}; nothing was selected yet"
    return f"in raw as {identity}; {verdict_on(store, name, record, rows[0])}"


def _cosine(
    runs: Sequence[Store], record: Json, side: Literal["clip", "dino"], first: str, second: str
) -> float | None:
    """The cosine that decided: of the stored vectors, or of those of a re-check."""
    stored = _cosine_of(vectors_of(runs, record[side], (first, second)))
    if stored is None or record["rechecked"] is None:
        return stored
    threshold, kept = record[THRESHOLDS[side]], record[f"keep_{side}"]
    thresholds = (threshold, threshold if kept is None else kept)
    band = record["rechecked"][f"{side}_band"]
    if not near_threshold(torch.tensor([stored]), thresholds, band).any():
        return stored
    truth = _cosine_of(true_vectors(runs, record[side], {first, second}))
    return stored if truth is None else truth


def _cosine_of(vectors: dict[str, np.ndarray]) -> float | None:
    """Float64 cosine of two vectors; None where one is missing."""
    if len(vectors) < 2:
        return None
    both = torch.from_numpy(np.stack(list(vectors.values())))
    return float(cosines(both, both, torch.tensor([0]), torch.tensor([1]))[0])


def _first_copy(runs: Sequence[Store], sample: Json, record: Json) -> str:
    """The image that stands for a sample: the smallest image_id of its run with its bytes."""
    image_id = str(sample["image_id"])
    if record["collapse"] == "none":
        return image_id
    for store, shard_ids in zip(runs, record["shards"], strict=True):
        if image_id not in samples_of([store], [image_id]):
            continue
        copies = []
        # Copies that were embedded after the join stand for nobody in it.
        for shard_id in shard_ids:
            table = store.samples(shard_id).select(["image_id", "sha256"]).to_pydict()
            ids = zip(table["image_id"], table["sha256"], strict=True)
            copies += [other for other, sha256 in ids if sha256 == sample["sha256"]]
        first: str = min(copies, default=image_id)
        return first
    return image_id


def _refusal(store: Store, image_id: str) -> str:
    example = None
    for shard_id in store.committed("samples"):
        shard = store.record("samples", shard_id)["shard"]
        prefix = f"{shard['dataset']}/{shard['stem']}/"
        if image_id.startswith(prefix):
            for row in store.quarantine(shard_id).to_pylist():
                if row["key"] == image_id.removeprefix(prefix):
                    return f"it was refused: {row['reason']} ({row['detail']})"
        if example is None and (ids := store.samples(shard_id)["image_id"]):
            example = ids[0].as_py()
    said = f"an image_id is, for one, {example}; " if example else ""
    return f"{said}see `blindpairs status` for the shards that were read"
