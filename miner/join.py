"""Blind pairs: over tensors (`blind_pairs`), and over a run directory (`join`).

Shape suffixes: N rows of the first set, M of the second, D clip width, E dino width, P pairs.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from kernels import cpu, reference
from kernels.bounds import float32_slack
from kernels.reference import Pairs, concatenate, cosines
from miner.config import JoinSettings, SelectSettings
from miner.copies import collapse_exact, collapse_near
from miner.pairs import Histogram, join_name, random_pairs, raw_counts, raw_table
from miner.records import Json, digest, new_attempt, replace_record
from miner.rows import Rows, deviations, inputs, joined_shards, load_rows
from miner.store import Store
from miner.versions import versions

CandidateSearch = Callable[..., Iterator[Pairs]]

IMPLEMENTATIONS: dict[str, CandidateSearch] = {
    "cpu": cpu.candidates,
    "reference": reference.candidates,
}
"""Every one is exact: the same pairs as the float64 reference."""

BORDERLINE = 1e-3
"""Half-width of the band around a threshold in which a pair is called borderline."""

PART_ROWS = 1_000_000


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
) -> BlindPairs:
    """Find all pairs that CLIP calls the same and DINO calls different.

    Args:
        clip: [N, D] of any float dtype (a tensor, or what `torch.as_tensor` takes), rows of any
            length but zero; or a tuple of [N, D] and
            [M, D] to join across two sets.
        dino: [N, E] (or a tuple of [N, E] and [M, E]) of the same images in the same order.
        clip_above: a pair's CLIP cosine is strictly above this.
        dino_below: a pair's DINO cosine is strictly below this.
        impl: `cpu`, `reference`, or `auto`, which takes the fastest exact one.

    Returns:
        The pairs by float64 cosine, ordered by descending clip_cos, then i, then j.

    Raises:
        ValueError: shapes, dtypes or thresholds do not fit, or a row is zero or not finite.
    """
    search = implementation(impl)
    for name, threshold in (("clip_above", clip_above), ("dino_below", dino_below)):
        if not -1 <= threshold <= 1:
            raise ValueError(f"{name} is {threshold}; a cosine lies in [-1, 1]")
    clip_sets, dino_sets = _sets(clip, "clip"), _sets(dino, "dino")
    _check_same_images(clip_sets, dino_sets)
    blocks = [
        block.where(block.dino_cos < dino_below)
        for block in IMPLEMENTATIONS[search](clip_sets, dino_sets, clip_above=clip_above)
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


def implementation(impl: str) -> str:
    """The implementation that a name stands for.

    Raises:
        ValueError: there is none of that name.
    """
    if impl == "auto":
        return "cpu"
    if impl not in IMPLEMENTATIONS:
        raise ValueError(f"impl is {impl!r}; there are auto, {', '.join(sorted(IMPLEMENTATIONS))}")
    return impl


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


def join(store: Store, clip: str, dino: str, settings: JoinSettings, near: SelectSettings) -> Json:
    """Find the blind pairs of a run and commit them, unless that was done already.

    Args:
        store: the run directory.
        clip: encoder_id.
        dino: encoder_id.
        settings: thresholds and implementation.
        near: what a near-copy is, for `collapse="near"`.

    Returns:
        The content of join.json.

    Raises:
        StoreError: no shard has vectors of both encoders.
    """
    folder = store.root / "pairs" / join_name(clip, dino, settings)
    fingerprint = digest(
        {
            "settings": settings.model_dump(exclude={"join"}),
            "near": [near.near_clip, near.near_dino] if settings.collapse == "near" else None,
            "inputs": inputs(store, clip, dino),
        }
    )
    with store.lock(folder.name):
        done = store.join_record(folder)
        if done is not None and done["fingerprint"] == fingerprint:
            return done
        record = {"name": folder.name, "fingerprint": fingerprint, "clip": clip, "dino": dino}
        return _join(store, folder, record, settings, near)


def _join(
    store: Store, folder: Path, record: Json, settings: JoinSettings, near: SelectSettings
) -> Json:
    """Search, and publish what was found under the record."""
    clip, dino = record["clip"], record["dino"]
    everything = load_rows(store, clip, dino)
    rows = _collapsed(everything, settings, near)
    impl = implementation(settings.join)
    pairs, histogram, num_candidates = _search(rows, settings, impl)
    bands = (
        max(BORDERLINE, deviations(store, clip)),
        max(BORDERLINE, deviations(store, dino)),
    )
    table = raw_table(rows, pairs, settings, bands)
    shards = joined_shards(store, clip, dino)
    record |= {
        **settings.model_dump(exclude={"join"}),
        "near_clip": near.near_clip if settings.collapse == "near" else None,
        "near_dino": near.near_dino if settings.collapse == "near" else None,
        "impl": impl,
        "bound": {"clip_slack": float32_slack(rows.clip_ND.shape[1]) if impl == "cpu" else 0.0},
        "borderline_clip": bands[0],
        "borderline_dino": bands[1],
        "counts": {
            "shards": len(shards),
            "images": len(everything),
            "distinct": len(rows),
            "pairs": len(rows) * (len(rows) - 1) // 2,
            "candidates": num_candidates,
            **raw_counts(table),
        },
        "shards": shards,
        "versions": versions(),
    }
    return publish(store, folder, table, histogram.table(), record)


def _collapsed(rows: Rows, settings: JoinSettings, near: SelectSettings) -> Rows:
    if settings.collapse == "none":
        return rows
    rows = collapse_exact(rows)
    if settings.collapse == "near":
        rows = collapse_near(rows, near_clip=near.near_clip, near_dino=near.near_dino)
    return rows


def _search(rows: Rows, settings: JoinSettings, impl: str) -> tuple[Pairs, Histogram, int]:
    """Pairs to keep, the histogram, and the number of candidates."""
    keep_clip = settings.clip_above if settings.keep_clip is None else settings.keep_clip
    keep_dino = settings.dino_below if settings.keep_dino is None else settings.keep_dino
    kept: list[Pairs] = []
    histogram = Histogram()
    num_candidates = 0
    for block in IMPLEMENTATIONS[impl](
        (rows.clip_ND, None), (rows.dino_NE, None), clip_above=keep_clip
    ):
        found = block.where(block.clip_cos > settings.clip_above)
        num_candidates += len(found)
        histogram.add("candidates", found.clip_cos, found.dino_cos)
        kept.append(block.where(block.dino_cos < keep_dino))
    i, j = random_pairs(len(rows))
    histogram.add(
        "random",
        cosines(rows.clip_ND, rows.clip_ND, i, j),
        cosines(rows.dino_NE, rows.dino_NE, i, j),
    )
    return concatenate(kept), histogram, num_candidates


def publish(store: Store, folder: Path, raw: pa.Table, histogram: pa.Table, record: Json) -> Json:
    """Replace a join's tables and record.

    The record goes first and comes back last, so that it never names a mixture of two joins. The
    caller holds the join's lock.

    Returns:
        The record with the files it names.
    """
    base = folder.relative_to(store.root).as_posix()
    attempt = f"raw.{new_attempt()}"
    files = []
    for part, start in enumerate(range(0, max(1, len(raw)), PART_ROWS)):
        name = f"part-{part:05d}.parquet"
        entry = store.write_table(raw.slice(start, PART_ROWS), f"{base}/{attempt}", name)
        files.append({**asdict(entry), "path": f"{base}/raw/{name}"})
    for stale in ("join.json", "selected.parquet"):
        (folder / stale).unlink(missing_ok=True)
    for stale in ("raw", "report"):
        shutil.rmtree(folder / stale, ignore_errors=True)
    (folder / attempt).rename(folder / "raw")
    files.append(asdict(store.write_table(histogram, base, "histogram.parquet")))
    record = {**record, "files": files}
    replace_record(folder / "join.json", record)
    return record
