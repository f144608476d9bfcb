"""The embedded default: rendered scenes, mined with the bundled encoders, with known answers."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from kernels.reference import cosines
from miner.config import MineSettings
from miner.records import Json, read_record
from miner.report import ReportTable
from miner.rows import vectors_of
from miner.store import Store, read_parts
from pipelines.driver import Embedded, mine
from pipelines.scene_shards import write_shards
from pipelines.scenes import CAPTIONED, HIDDEN

NUM_SCENES = 2000
SEED = 11
DATASET = "scenes"

SETTINGS = MineSettings(dataset=DATASET, clip="demo-clip", dino="demo-dino")
"""Everything else is the default, and the encoders' own thresholds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlantedRow:
    """What became of the twins that differ in one attribute alone.

    Attributes:
        kind: hidden, captioned or nuisance.
        attribute: the one in which the twins differ.
        planted: pairs of twins.
        candidates: of them, how many have a CLIP cosine above its threshold.
        blind: of them, how many are in `raw`.
        clip_cos: median over the twins.
        dino_cos: median over the twins.
    """

    kind: str
    attribute: str
    planted: int
    candidates: int
    blind: int
    clip_cos: float
    dino_cos: float


def run_demo(out: Path, *, num_scenes: int = NUM_SCENES, seed: int = SEED) -> tuple[Embedded, Json]:
    """Render scenes into `out/scenes` and mine them into `out`.

    Args:
        out: the run directory.
        num_scenes: scenes to render.
        seed: of the scenes.

    Returns:
        What was embedded, and the content of join.json.
    """
    shards = out / "scenes"
    done = shards / "done.json"
    wanted = {"num_scenes": num_scenes, "seed": seed}
    if not done.exists() or json.loads(done.read_text("utf-8")) != wanted:
        write_shards(shards, num_scenes=num_scenes, seed=seed)
        # Last, so that scenes that were cut short are rendered again, to the same bytes.
        done.write_text(json.dumps(wanted), "utf-8")
    return mine([str(shards)], out, SETTINGS)


def planted_rows(store: Store, folder: Path, record: Json) -> list[PlantedRow]:
    """Found against planted for each attribute, over all twins of a run on scenes.

    Args:
        store: the run directory.
        folder: the join's folder.
        record: the content of its join.json.

    Returns:
        A row for each attribute in which twins were planted; none where a run has no scenes.
    """
    twins = _twins(store)
    images = {image for pairs in twins.values() for pair in pairs for image in pair}
    clip, dino = (vectors_of(store, record[name], images) for name in ("clip", "dino"))
    raw = read_parts(folder).select(["image_1", "image_2"]).to_pydict()
    found = set(zip(raw["image_1"], raw["image_2"], strict=True))
    rows = []
    for (kind, attribute), pairs in twins.items():
        clip_cos, dino_cos = (_cosines(vectors, pairs) for vectors in (clip, dino))
        rows.append(
            PlantedRow(
                kind=kind,
                attribute=attribute,
                planted=len(pairs),
                candidates=int((clip_cos > record["clip_above"]).sum()),
                blind=sum(pair in found for pair in pairs),
                clip_cos=float(np.median(clip_cos)),
                dino_cos=float(np.median(dino_cos)),
            )
        )
    order = [*HIDDEN, "nuisance", *CAPTIONED]
    return sorted(rows, key=lambda row: order.index(row.attribute))


def tables_of(store: Store, folder: Path) -> list[ReportTable]:
    """What a run's report shows besides: for the demo's scenes, found against planted."""
    record = read_record(folder / "join.json")
    if not record["clip"].startswith(f"{SETTINGS.clip}-"):
        return []
    rows = planted_rows(store, folder, record)
    return [planted_table(rows)] if rows else []


def planted_table(rows: list[PlantedRow]) -> ReportTable:
    """The rows as a table of the report."""
    return ReportTable(
        title="Found against planted",
        columns=(
            *("twins differ in", "which is", "planted", "CLIP candidates", "blind pairs"),
            *("found", "median CLIP cosine", "median DINO cosine"),
        ),
        rows=[
            (
                row.attribute,
                row.kind,
                row.planted,
                row.candidates,
                row.blind,
                f"{row.blind / row.planted:.1%}".replace("%", " %"),
                f"{row.clip_cos:.3f}",
                f"{row.dino_cos:.3f}",
            )
            for row in rows
        ],
        note=(
            "Twins are two scenes that differ in one attribute alone. Captions never name the "
            "hidden ones, so a CLIP that learnt from captions is blind to them; it tells the "
            "captioned ones apart. Nuisance is what nobody would call a difference."
        ),
    )


def _twins(store: Store) -> dict[tuple[str, str], list[tuple[str, str]]]:
    """For each kind and attribute, the pairs of image_ids that were planted."""
    twins: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    ids: dict[str, str] = {}
    truths: list[tuple[str, Json]] = []
    for shard_id in store.committed("samples"):
        samples = store.samples(shard_id).select(["image_id", "key", "meta"]).to_pylist()
        for row in samples:
            truth = json.loads(row["meta"])
            if truth.get("twin"):
                ids[row["key"]] = row["image_id"]
                truths.append((row["key"], truth))
    for key, truth in truths:
        if truth["twin"] in ids and key < truth["twin"]:
            first, second = sorted((ids[key], ids[truth["twin"]]))
            attribute = truth["twin_attribute"] or truth["twin_kind"]
            twins[truth["twin_kind"], attribute].append((first, second))
    return twins


def _cosines(vectors: dict[str, np.ndarray], pairs: list[tuple[str, str]]) -> np.ndarray:
    first, second = (
        torch.from_numpy(np.stack([vectors[pair[side]] for pair in pairs])) for side in (0, 1)
    )
    rows = torch.arange(len(pairs))
    found: np.ndarray = cosines(first, second, rows, rows).numpy()
    return found
