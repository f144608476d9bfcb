"""The embedded default: rendered scenes, mined with the bundled encoders, with known answers."""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from kernels.reference import cosines
from miner.config import MineSettings
from miner.errors import StoreError
from miner.records import Json, read_record, replace_record
from miner.reporting.page import ReportTable
from miner.rows import vectors_of
from miner.store import Store
from pipelines.driver import Embedded, mine
from pipelines.scene_shards import write_shards
from pipelines.scenes import CAPTIONED, HIDDEN

log = logging.getLogger(__name__)

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


def run_demo(
    out: Path,
    *,
    num_scenes: int = NUM_SCENES,
    seed: int = SEED,
    say: Callable[[str], None] = log.info,
) -> tuple[Embedded, Json]:
    """Render scenes into `out/scenes` and mine them into `out`.

    Args:
        out: the run directory.
        num_scenes: scenes to render.
        seed: of the scenes.
        say: is told what takes a while.

    Returns:
        What was embedded, and the content of join.json.
    """
    shards = out / "scenes"
    wanted: Json = {"num_scenes": num_scenes, "seed": seed}
    if not _is_rendered(shards, wanted):
        say(f"rendering {num_scenes} scenes into {shards}, a minute or so")
        tars = write_shards(shards, num_scenes=num_scenes, seed=seed)
        wanted["tars"] = {tar.name: tar.stat().st_size for tar in tars}
        # Last, so that scenes that were cut short are rendered again, to the same bytes.
        replace_record(shards / "done.json", wanted)
    return mine([str(shards)], out, SETTINGS)


def _is_rendered(shards: Path, wanted: Json) -> bool:
    """Whether the scenes that are wanted lie in a folder, every tar with its bytes."""
    try:
        done = read_record(shards / "done.json")
    except StoreError:
        return False
    tars = done.pop("tars", {})
    sizes = {tar.name: tar.stat().st_size for tar in shards.glob("*.tar")}
    return done == wanted and tars == sizes


def planted_rows(store: Store, name: str, record: Json) -> list[PlantedRow]:
    """Found against planted for each attribute, over all twins of a run on scenes.

    Args:
        store: the run directory.
        name: the join's.
        record: the content of its join.json.

    Returns:
        A row for each attribute in which twins were planted; none where a run has no scenes.
    """
    twins = _twins(store)
    images = {image for pairs in twins.values() for pair in pairs for image in pair}
    clip, dino = (vectors_of([store], record[name], images) for name in ("clip", "dino"))
    blind = [row for row in store.raw(name).to_pylist() if row.get("blind", True)]
    found = {(row["image_1"], row["image_2"]) for row in blind}
    rows = []
    for (kind, attribute), planted in twins.items():
        pairs = [pair for pair in planted if all(i in clip and i in dino for i in pair)]
        if not pairs:
            continue
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


def tables_of(store: Store, name: str) -> list[ReportTable]:
    """What a run's report shows besides: for the demo's scenes, found against planted."""
    record = store.read_record(f"pairs/{name}/join.json")
    if not record["clip"].startswith(f"{SETTINGS.clip}-"):
        return []
    rows = planted_rows(store, name, record)
    return [planted_table(rows)] if rows else []


def found_of_planted(rows: Sequence[PlantedRow]) -> str:
    """In a line, how many of the planted twins came out as blind pairs, by attribute."""
    by_number: dict[int, list[str]] = defaultdict(list)
    for row in rows:
        by_number[row.planted].append(f"{row.attribute} {row.blind}")
    return "; ".join(f"of {n} planted twins: {', '.join(said)}" for n, said in by_number.items())


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
    known = {*(("hidden", name) for name in HIDDEN), *(("captioned", name) for name in CAPTIONED)}
    known.add(("nuisance", "nuisance"))
    ids: dict[str, str] = {}
    truths: list[tuple[str, Json]] = []
    for shard_id in store.committed("samples"):
        if not shard_id.startswith(f"{DATASET}."):
            continue
        for row in store.samples(shard_id).select(["image_id", "key", "meta"]).to_pylist():
            truth = json.loads(row["meta"])
            if isinstance(truth.get("twin"), str):
                ids[row["key"]] = row["image_id"]
                truths.append((row["key"], truth))
    for key, truth in truths:
        kind = str(truth.get("twin_kind"))
        attribute = str(truth.get("twin_attribute") or kind)
        # Another corpus may have fields of the same names: what is no scene is left out.
        if (kind, attribute) in known and truth["twin"] in ids and key < truth["twin"]:
            first, second = sorted((ids[key], ids[truth["twin"]]))
            twins[kind, attribute].append((first, second))
    return twins


def _cosines(vectors: dict[str, np.ndarray], pairs: list[tuple[str, str]]) -> np.ndarray:
    first, second = (
        torch.from_numpy(np.stack([vectors[pair[side]] for pair in pairs])) for side in (0, 1)
    )
    rows = torch.arange(len(pairs))
    found: np.ndarray = cosines(first, second, rows, rows).numpy()
    return found
