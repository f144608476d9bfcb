"""Runs with real image bytes in real tars, for tests of the report."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from miner import schema
from miner.config import JoinSettings, SelectSettings
from miner.join import join
from miner.pairs import Histogram, pair_id
from miner.publish import publish
from miner.records import Json, replace_record
from miner.report import write_report
from miner.select import select
from miner.store import Store
from miner.tables import table_of, vector_table
from tests.runs import CLIP, DINO, unit
from tests.small import picture, write_tar


@dataclass(frozen=True, kw_only=True)
class Shot:
    """An image of a test's corpus and what is said of it."""

    data: bytes
    extension: str = "jpg"
    format: str = "JPEG"
    caption: str | None = "a caption"
    url: str | None = None
    label: str | None = None
    exif_orientation: int | None = None


def encoded(seed: int, format: str = "JPEG", size: tuple[int, int] = (96, 80)) -> bytes:
    """A smooth random picture as the bytes of a format."""
    buffer = io.BytesIO()
    picture(seed, size).save(buffer, format)
    return buffer.getvalue()


def turned(seed: int) -> bytes:
    """A JPEG whose EXIF says that it is to be turned."""
    exif = Image.Exif()
    exif[274] = 6
    buffer = io.BytesIO()
    picture(seed).save(buffer, "JPEG", exif=exif)
    return buffer.getvalue()


def sample_rows(shots: Sequence[Shot], tar: Path) -> list[Json]:
    """Write the shots as a shard of dataset `set`; its rows of `samples`."""
    names = [f"{number:06d}.{shot.extension}" for number, shot in enumerate(shots)]
    write_tar(tar, zip(names, (shot.data for shot in shots), strict=True))
    with tarfile.open(tar) as written:
        offsets = {info.name: info.offset_data for info in written}
    rows = []
    for name, shot in zip(names, shots, strict=True):
        key = name.split(".")[0]
        rows.append(
            {
                "image_id": f"set/{tar.stem}/{key}",
                "dataset": "set",
                "shard": str(tar),
                "key": key,
                "member": name,
                "offset": offsets[name],
                "num_bytes": len(shot.data),
                "sha256": hashlib.sha256(shot.data).hexdigest(),
                "phash": 1,
                "width": 96,
                "height": 80,
                "format": shot.format,
                "exif_orientation": shot.exif_orientation,
                "caption": shot.caption,
                "url": shot.url,
                "label": shot.label,
                "meta": "{}",
            }
        )
    return rows


def commit_rows(store: Store, stem: str, rows: list[Json], refused: Sequence[str] = ()) -> None:
    """Commit samples with vectors that make every pair of them blind."""
    url, name = rows[0]["shard"], f"set.{stem}.0.parquet"
    quarantine = [
        {"dataset": "set", "shard": url, "key": str(n), "member": "", "reason": why, "detail": ""}
        for n, why in enumerate(refused)
    ]
    files = [
        store.write_table(table_of(rows, schema.SAMPLES), "samples", name),
        store.write_table(table_of(quarantine, schema.QUARANTINE), "quarantine", name),
    ]
    record = {
        "shard": {"dataset": "set", "stem": stem, "url": url},
        "num_samples": len(rows) + len(refused),
        "num_decodable": len(rows),
        "num_quarantined": len(refused),
    }
    assert store.commit("samples", f"set.{stem}", files, record)
    generator = torch.Generator().manual_seed(len(rows))
    clip = 1 + 0.05 * torch.randn(len(rows), 16, generator=generator)
    dino = torch.randn(len(rows), 256, generator=generator)
    ids = [row["image_id"] for row in rows]
    for encoder_id, vectors in ((CLIP, clip), (DINO, dino)):
        entry = store.write_table(vector_table(ids, unit(vectors)), f"vectors/{encoder_id}", name)
        assert store.commit(
            f"vectors/{encoder_id}", f"set.{stem}", [entry], {"deviation": 0.0, "encoder_id": ""}
        )


def report_of(store: Store, folder: Path, **wishes: Any) -> Path:
    """Write the report of the join in a folder; its index.html."""
    return Path(write_report(store, folder.name, **wishes))


def make_run(root: Path, shots: Sequence[Shot], refused: Sequence[str] = ()) -> tuple[Store, Path]:
    """A run whose blind pairs are all pairs of these images; the store and the join's folder."""
    store, tar = Store(root / "run"), root / "corpus" / "00000.tar"
    places = {"set.00000": {"url": str(tar), "num_bytes": 0, "modified": "1"}}
    store.update_run({"max_pixels": 10**6, "stem_depth": 1}, places, {"command": "test"})
    commit_rows(store, "00000", sample_rows(shots, tar), refused)
    return store, select_all(store)


def select_all(store: Store) -> Path:
    """Join and select without a cap; the join's folder."""
    which = SelectSettings(max_per_image=None)
    join(store, CLIP, DINO, JoinSettings(), which)
    folder = store.root / "pairs" / store.joins()[0]
    select(store, folder.name, which)
    return folder


def make_large_run(root: Path, num_pairs: int) -> tuple[Store, Path]:
    """A run with many selected pairs of different images, although few files of bytes."""
    few = sample_rows([Shot(data=encoded(seed)) for seed in range(12)], root / "corpus/00000.tar")
    rows = []
    for number in range(2 * num_pairs):
        key = f"{number:09d}"
        rows.append(
            few[number % 12]
            | {
                "image_id": f"set/00000/{key}",
                "key": key,
                "caption": f"Caption {number}: a photograph of something small on a wooden table",
                "url": f"https://images.example.org/collection/2021/05/{key}-original-1024.jpg",
            }
        )
    store = Store(root / "run")
    store.update_run({"stem_depth": 1}, {}, {"command": "test"})
    commit_rows(store, "00000", rows)
    folder = store.root / "pairs" / "many"
    pairs = [_pair(number, *rows[2 * number : 2 * number + 2]) for number in range(num_pairs)]
    histogram = Histogram()
    for source in ("candidates", "random"):
        histogram.add(source, torch.full((9,), 0.97).double(), torch.linspace(0, 0.9, 9).double())
    counts = {"shards": 1, "images": len(rows), "distinct": len(rows), "pairs": 10**8}
    counts |= {
        "candidates": num_pairs,
        "kept": num_pairs,
        "blind": num_pairs,
        "borderline": 0,
        "cut_pairs": 0,
    }
    record = {"fingerprint": "many", "clip": CLIP, "dino": DINO, "clip_above": 0.95, "impl": "cpu"}
    record |= {"dino_below": 0.6, "collapse": "exact", "counts": counts, "against": None}
    record |= {"lazy": None, "rechecked": None}
    record |= {"max_partners": 1000, "keep_clip": None, "keep_dino": None}
    record = publish(
        store, "many", [_table(pairs, schema.raw(with_blind=False))], histogram.table(), record
    )
    selected = store.write_table(
        _table(pairs, schema.selected(with_blind=False)), "pairs/many", "selected.parquet"
    )
    settings = SelectSettings().model_dump()
    record["selection"] = {"fingerprint": "many", "settings": settings}
    record["selection"] |= {"counts": {"kept": num_pairs}, "file": asdict(selected)}
    replace_record(folder / "join.json", record)
    return store, folder


def _table(pairs: list[Json], target: pa.Schema) -> pa.Table:
    return pa.Table.from_pylist(pairs, schema=target)


def _pair(number: int, one: Json, two: Json) -> Json:
    dino_cos = float(np.float32(0.1 + 0.4 * (number % 97) / 97))
    pair = {
        "rank": number + 1,
        # Not of the bytes, which repeat, but of the ids.
        "pair_id": pair_id(one["image_id"], two["image_id"]),
        "image_1": one["image_id"],
        "image_2": two["image_id"],
        "clip_cos": 0.99 - number * 1e-6,
        "dino_cos": dino_cos,
        "gap": 0.99 - number * 1e-6 - dino_cos,
        "borderline": number % 50 == 0,
        "duplicates_1": 0,
        "duplicates_2": number % 3,
    }
    for suffix, row in (("_1", one), ("_2", two)):
        pair |= {name + suffix: row[name] for name in schema.IMAGE_COLUMNS}
    return pair
