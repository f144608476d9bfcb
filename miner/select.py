"""Which blind pairs a person should look at: near-copies collapsed, capped, ranked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from miner import schema
from miner.config import SelectSettings
from miner.copies import near_copies
from miner.errors import StoreError
from miner.records import Json, digest
from miner.rows import runs_of, samples_of, vectors_of
from miner.store import Store

KEPT = "kept"
"""Verdict on a selected pair; every other verdict says why the pair was dropped."""


def verdicts(store: Store, raw: pa.Table, record: Json, settings: SelectSettings) -> list[str]:
    """What the selection says of every row of `raw`, and so why a pair is not shown.

    Rows are looked at in rank order. A pair is dropped when it is not blind (`raw` may reach
    beyond the thresholds), when its labels are not as asked for or one is missing, when both images
    are near-copies of one image, when near-copies of the two were kept as a pair already, or when
    an image has had its share of pairs.

    Args:
        store: the run directory, for the vectors.
        raw: rows of `raw`.
        record: the content of join.json.
        settings: near-copies, cap and ranking.

    Returns:
        [P] words: kept, not_blind, no_label, same_label, different_labels, near_copies,
        near_copy_of_kept, cap.
    """
    first, second = raw["image_1"].to_pylist(), raw["image_2"].to_pylist()
    group = _groups(store, record, sorted({*first, *second}), settings)
    mislabelled = _mislabelled(store, record, first, second, settings)
    blind = raw["blind"].to_pylist() if "blind" in raw.column_names else [True] * len(raw)
    said = [""] * len(raw)
    pairs_of: Counter[int] = Counter()
    seen: set[tuple[int, int]] = set()
    for row in rank_order(raw, settings):
        a, b = sorted((group[first[row]], group[second[row]]))
        if not blind[row]:
            said[row] = "not_blind"
        elif fault := mislabelled[row]:
            said[row] = fault
        elif a == b:
            said[row] = "near_copies"
        elif (a, b) in seen:
            said[row] = "near_copy_of_kept"
        elif settings.max_per_image and max(pairs_of[a], pairs_of[b]) >= settings.max_per_image:
            said[row] = "cap"
        else:
            said[row] = KEPT
            seen.add((a, b))
            pairs_of.update((a, b))
    return said


def rank_order(raw: pa.Table, settings: SelectSettings) -> list[int]:
    """Rows of `raw` in rank order: by CLIP cosine or gap descending, then pair_id, then images."""
    by = raw["clip_cos" if settings.rank_by == "clip" else "gap"].to_numpy()
    keys = [raw[name].to_pylist() for name in ("pair_id", "image_1", "image_2")]
    return sorted(range(len(raw)), key=lambda row: (-by[row], *(key[row] for key in keys)))


def select(store: Store, name: str, settings: SelectSettings) -> Json:
    """Write a join's `selected.parquet`, unless it is there already.

    Args:
        store: the run directory.
        name: the join's.
        settings: near-copies, cap and ranking.

    Returns:
        The content of join.json, with the selection's counts.

    Raises:
        StoreError: the join is not whole.
    """
    with store.lock(name):
        record = store.join_record(name)
        if record is None:
            raise StoreError(
                f"{store.place(f'pairs/{name}')} holds no whole join; "
                f"run `blindpairs join {store.root}` again"
            )
        fingerprint = digest({"settings": settings.model_dump(), "join": record["fingerprint"]})
        done = record.get("selection")
        if done and done["fingerprint"] == fingerprint and store.is_whole(done["file"]):
            return record
        raw = store.raw(name)
        said = verdicts(store, raw, record, settings)
        kept = [row for row in rank_order(raw, settings) if said[row] == KEPT]
        table = _selected_table(runs_of(store, record), raw, kept)
        # A report of the former selection would show other pairs.
        base = f"pairs/{name}"
        store.files.delete_folder(f"{base}/report")
        record["selection"] = {
            "fingerprint": fingerprint,
            "settings": settings.model_dump(),
            "counts": dict(sorted(Counter(said).items())),
            "file": asdict(store.write_table(table, base, "selected.parquet")),
        }
        store.replace_record(f"{base}/join.json", record)
        return record


def _groups(
    store: Store, record: Json, image_ids: list[str], settings: SelectSettings
) -> dict[str, int]:
    """For each image the number of its group of near-copies."""
    if not image_ids:
        return {}
    runs = runs_of(store, record)
    clip, dino = (vectors_of(runs, record[name], image_ids) for name in ("clip", "dino"))
    leaders = near_copies(
        torch.from_numpy(np.stack([clip[image_id] for image_id in image_ids])),
        torch.from_numpy(np.stack([dino[image_id] for image_id in image_ids])),
        near_clip=settings.near_clip,
        near_dino=settings.near_dino,
    )
    return dict(zip(image_ids, leaders.tolist(), strict=True))


def _mislabelled(
    store: Store, record: Json, first: list[str], second: list[str], settings: SelectSettings
) -> list[str | None]:
    """For each pair why its labels are not as asked for; None where they are."""
    if settings.labels == "any":
        return [None] * len(first)
    samples = samples_of(runs_of(store, record), {*first, *second})
    said: list[str | None] = []
    for image_1, image_2 in zip(first, second, strict=True):
        label_1, label_2 = samples[image_1]["label"], samples[image_2]["label"]
        if label_1 is None or label_2 is None:
            said.append("no_label")
        elif settings.labels == "same":
            said.append(None if label_1 == label_2 else "different_labels")
        else:
            said.append("same_label" if label_1 == label_2 else None)
    return said


def _selected_table(runs: Sequence[Store], raw: pa.Table, rows: list[int]) -> pa.Table:
    kept = raw.take(pa.array(rows, pa.int64()))
    columns: dict[str, Any] = {name: kept[name] for name in kept.column_names}
    columns["rank"] = pa.array(range(1, len(rows) + 1), pa.int64())
    both = {"_1": kept["image_1"].to_pylist(), "_2": kept["image_2"].to_pylist()}
    samples = samples_of(runs, {*both["_1"], *both["_2"]})
    for suffix, image_ids in both.items():
        for name in schema.IMAGE_COLUMNS:
            columns[name + suffix] = [samples[image_id][name] for image_id in image_ids]
    target = schema.selected(with_blind="blind" in kept.column_names)
    return pa.Table.from_pydict({name: columns[name] for name in target.names}, schema=target)
