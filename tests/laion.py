"""Shards as img2dataset writes LAION's, with the ratings of its safety columns."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.small import jpeg, write_tar

Fields = Mapping[str, object]


def write_laion(
    folder: Path,
    ratings: Sequence[Fields],
    *,
    stem: str = "00000",
    sidecar: Sequence[Fields] | None = None,
    images: Sequence[bytes] | None = None,
) -> Path:
    """NNNNN.tar, NNNNN.parquet and NNNNN_stats.json of so many images.

    Args:
        folder: where.
        ratings: further fields of each sample's json.
        stem: the shard's number.
        sidecar: further columns of the table beside the tar; it lists failures too, in another
            order than the tar.
        images: bytes in the place of pictures.
    """
    members, rows = [], []
    for number, fields in enumerate(ratings):
        key = f"{stem}{number:04d}"
        data = jpeg(number) if images is None else images[number]
        said = {"key": key, "url": f"https://example.org/{key}.jpg", "caption": f"n {number}"}
        text = json.dumps({**said, "status": "success", **fields}).encode()
        members += [(f"{key}.jpg", data), (f"{key}.txt", b"a"), (f"{key}.json", text)]
        rows.append({**said, "status": "success", **(sidecar[number] if sidecar else {})})
    failed = {"key": f"{stem}9999", "url": "https://example.org/gone.jpg", "status": "failed"}
    table = pa.Table.from_pylist([failed | dict.fromkeys(rows[0].keys() - failed.keys()), *rows])
    path = write_tar(folder / f"{stem}.tar", members)
    pq.write_table(table, folder / f"{stem}.parquet")
    (folder / f"{stem}_stats.json").write_text(json.dumps({"count": len(rows) + 1}))
    return path
