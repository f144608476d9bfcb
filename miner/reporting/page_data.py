"""The data of a report's page: its pairs, and of each image where its bytes are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa

from miner.config import ImageLimits
from miner.errors import StoreError
from miner.records import Json
from miner.reporting.images import Exhibit, write_images
from miner.rows import runs_of, samples_of
from miner.store import Store

PAIR_COLUMNS = (
    *("rank", "pair_id", "image_1", "image_2", "clip_cos", "dino_cos", "gap", "borderline"),
    *("duplicates_1", "duplicates_2"),
)
"""Columns of `selected` that the page shows; images and shards go by their places in its data."""

IMAGE_COLUMNS = (
    *("image_id", "sha256", "shard", "member", "offset", "num_bytes", "width", "height", "format"),
    *("caption", "url", "label"),
)
"""Columns of `samples` that the page shows."""


def page_data(
    store: Store, record: Json, shown: pa.Table, report: Path
) -> tuple[Json, dict[str, Exhibit]]:
    """Write the images of some pairs, and give what the page says of both.

    Args:
        store: the run directory.
        record: the content of join.json.
        shown: rows of `selected`.
        report: the folder under which the images are written.

    Returns:
        JSON for the page, in which pairs name images and images name shards by their places; and
        what became of each image, by sha256.

    Raises:
        StoreError: pairs name images that are no samples of the run.
    """
    both = [shown["image_1"].to_pylist(), shown["image_2"].to_pylist()]
    image_ids = sorted({*both[0], *both[1]})
    samples = samples_of(runs_of(store, record), image_ids)
    if missing := [image_id for image_id in image_ids if image_id not in samples]:
        raise StoreError(
            f"selected pairs name {len(missing)} images that are no samples of {store.root} "
            f"({missing[0]}, ...); run `blindpairs verify {store.root}`"
        )
    run = store.run()
    reading = {k: v for k, v in run["reading"].items() if k in ImageLimits.model_fields}
    rows = [samples[image_id] for image_id in image_ids]
    exhibits = write_images(rows, report, ImageLimits(**reading))
    shards = sorted({row["shard"] for row in rows})
    image_at = {image_id: number for number, image_id in enumerate(image_ids)}
    shard_at = {shard: number for number, shard in enumerate(shards)}
    data = {
        "pairs": _columnar(PAIR_COLUMNS, [_pair(pair, image_at) for pair in shown.to_pylist()]),
        "images": _columnar(
            (*IMAGE_COLUMNS, "is_link", *Exhibit.__slots__),
            [_image(row, shard_at, exhibits[row["sha256"]]) for row in rows],
        ),
        "shards": shards,
    }
    return data, exhibits


def _columnar(columns: Sequence[str], rows: Sequence[Json]) -> Json:
    """Rows without the names in each of them: half the bytes of a large page."""
    return {"columns": columns, "rows": [[row[name] for name in columns] for row in rows]}


def _pair(row: Json, image_at: dict[str, int]) -> Json:
    cosines = {name: round(row[name], 6) for name in ("clip_cos", "dino_cos", "gap")}
    return row | cosines | {name: image_at[row[name]] for name in ("image_1", "image_2")}


def _image(row: Json, shard_at: dict[str, int], exhibit: Exhibit) -> Json:
    # Nothing else becomes a link: `javascript:` and its kin stay text.
    is_link = re.fullmatch(r"https?://[^\s\x00-\x1f\x7f]+", row["url"] or "", re.IGNORECASE)
    return row | {"shard": shard_at[row["shard"]], "is_link": bool(is_link)} | asdict(exhibit)
