"""Rendered scenes as webdataset shards, in img2dataset's layout, with the truth in every sample."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import webdataset

from pipelines.drawing import SIZE, encode, render
from pipelines.scenes import Planted, caption, make_scenes

MAX_SHARD_SIZE = 10_000
"""Scenes in a shard, at most."""


def _key(number: int, shard_size: int) -> str:
    """img2dataset's key: five digits of the shard, four of the place in it."""
    return f"{number // shard_size:05d}{number % shard_size:04d}"


def _sample(entry: Planted, seed: int, shard_size: int) -> tuple[dict[str, Any], bytes]:
    """The fields of one sample in img2dataset's order, its truth besides, and its JPEG."""
    jpeg = encode(render(entry.scene))
    fields = {
        "caption": caption(entry.scene),
        "url": f"scene://{seed}/{entry.number}",
        "key": _key(entry.number, shard_size),
        "status": "success",
        "error_message": None,
        "width": SIZE,
        "height": SIZE,
        "original_width": SIZE,
        "original_height": SIZE,
        "exif": "{}",
        "sha256": hashlib.sha256(jpeg).hexdigest(),
        **asdict(entry.scene),
        "twin": None if entry.twin is None else _key(entry.twin, shard_size),
        "twin_kind": entry.twin_kind,
        "twin_attribute": entry.twin_attribute,
    }
    return fields, jpeg


def write_shards(
    folder: Path, *, num_scenes: int, seed: int, shard_size: int = 500, twin_share: float = 0.6
) -> list[Path]:
    """Render a corpus into webdataset shards in img2dataset's layout.

    Shard k is `0000k.tar` with a `.jpg`, `.json` and `.txt` for each scene, `0000k.parquet` with a
    row for each, and `0000k_stats.json`. The json holds the truth: every attribute, the nuisance
    seed and the key of the twin. Equal arguments give equal bytes.

    Returns:
        The paths of the tars, in order.
    """
    if not 0 < shard_size <= MAX_SHARD_SIZE:
        raise ValueError(
            f"shard_size is {shard_size}; keys have four digits for it: 1 to {MAX_SHARD_SIZE}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    corpus = make_scenes(num_scenes, seed, twin_share=twin_share)
    tars = []
    for start in range(0, num_scenes, shard_size):
        tar = folder / f"{start // shard_size:05d}.tar"
        rows = []
        with webdataset.TarWriter(str(tar), mtime=0, user="", group="") as writer:
            for entry in corpus[start : start + shard_size]:
                fields, jpeg = _sample(entry, seed, shard_size)
                rows.append(fields)
                writer.write(
                    {
                        "__key__": fields["key"],
                        "jpg": jpeg,
                        "json": json.dumps(fields, indent=4).encode(),
                        "txt": fields["caption"].encode(),
                    }
                )
        _write_sidecars(tar, rows)
        tars.append(tar)
    return tars


def _write_sidecars(tar: Path, rows: list[dict[str, Any]]) -> None:
    # A column may be empty in one shard only; its type must be the same in all of them.
    is_number = {name for name, value in rows[0].items() if isinstance(value, int)}
    schema = pa.schema(
        [(name, pa.int64() if name in is_number else pa.string()) for name in rows[0]]
    )
    pq.write_table(pa.Table.from_pylist(rows, schema), tar.with_suffix(".parquet"))
    stats = {
        "count": len(rows),
        "successes": len(rows),
        "failed_to_download": 0,
        "failed_to_resize": 0,
        "status_dict": {"success": len(rows)},
    }
    tar.with_name(f"{tar.stem}_stats.json").write_text(json.dumps(stats, indent=4))
