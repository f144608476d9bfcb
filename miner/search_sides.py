"""The images of a join as a search looks at them: vectors mapped, copies led by one of them.

Shape suffixes: N images.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from kernels.sketch import Sketch, draw_sketch, sketch_axes
from miner.copies import equal_bytes, near_copies_in_buckets, stand_for
from miner.errors import StoreError
from miner.packs import Pack, build_pack, group_shards
from miner.records import Json
from miner.rows import Rows, inputs, load_rows
from miner.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """The images of one run.

    Attributes:
        rows: all of them, by image_id.
        leader: [N] int64, for each of `rows` the row of the pack that stands for it.
        by_sha256: [N] S64, their hashes in order; `sha256_row` [N] int64 says whose they are.
        pack: one row for each distinct image.
        sketch: of the pack's CLIP rows, mapped.
        is_sought: [rows of the pack] bool, not those that a near-copy stands for.
        duplicates: [rows of the pack] int64, further copies that a row stands for.
    """

    rows: Rows
    leader: np.ndarray
    by_sha256: np.ndarray
    sha256_row: np.ndarray
    pack: Pack
    sketch: Sketch
    is_sought: np.ndarray
    duplicates: np.ndarray


def why_not_searchable(record: Json) -> str | None:
    """Why the stored vectors of a join do not say what it found; None where they do."""
    if record["lazy"] is not None:
        return (
            "DINO has seen only the images of this join that have a candidate, so partners of "
            "others are not known; embed with --dino-mode eager and join again"
        )
    if record["rechecked"] is not None:
        return (
            "borderline pairs of this join were decided by float32, not by the stored vectors; "
            "join again without --recheck"
        )
    return None


def rows_of(run: Store, record: Json, number: int, own: set[str]) -> tuple[Rows, dict[str, str]]:
    """The images of a run that a join has read; of a second run those that the first lacks.

    Args:
        run: the run.
        record: the content of join.json.
        number: of the run among those of the join.
        own: sha256 of the images of the first run.

    Returns:
        These images, and of those that the first run has the sha256 by image_id.

    Raises:
        StoreError: a shard is not there any more.
    """
    rows = load_rows(run, record["clip"], record["dino"])
    wanted = set(record["shards"][number])
    if missing := sorted(wanted - set(rows.shard_ids)):
        raise StoreError(
            f"{run.root} lacks {len(missing)} shards that {record['name']} has read "
            f"({missing[0]}, ...); run `blindpairs join {run.root}` again"
        )
    read = np.array([name in wanted for name in rows.shard_ids], bool)[rows.shard]
    foreign = np.array([sha256 not in own for sha256 in rows.sha256], bool)
    places = np.flatnonzero(read & foreign)
    left_out = np.flatnonzero(read & ~foreign)
    known = {rows.image_ids[place]: rows.sha256[place] for place in left_out}
    return rows.take(places, rows.duplicates[places]), known


def side_of(run: Store, record: Json, rows: Rows, folder: Path) -> Side:
    """A run's images with their vectors mapped, copies collapsed as the join did it."""
    encoders = (record["clip"], record["dino"])
    first = np.arange(len(rows))
    if record["collapse"] != "none":
        first = equal_bytes(rows.sha256)
    kept, copies = stand_for(first, rows.duplicates)
    distinct = rows.take(kept, copies)
    hashes = inputs(run, encoders, rows.shard_ids)
    pack = build_pack(run, folder, encoders, distinct, group_shards(distinct, []), hashes)
    leaders = np.arange(len(distinct))
    if record["collapse"] == "near":
        leaders = near_copies_in_buckets(
            pack.clip_ND,
            pack.dino_NE,
            near_clip=record["near_clip"],
            near_dino=record["near_dino"],
            order=pack.by_id,
        )
    leading, all_copies = stand_for(leaders, copies)
    is_sought, duplicates = np.zeros(len(distinct), bool), np.zeros(len(distinct), np.int64)
    is_sought[leading], duplicates[leading] = True, all_copies
    sha256 = np.array(rows.sha256, dtype="S64")
    order = np.argsort(sha256, kind="stable")
    return Side(
        rows=rows,
        leader=pack.by_id[leaders[np.searchsorted(kept, first)]],
        by_sha256=sha256[order],
        sha256_row=order,
        pack=pack,
        sketch=_sketch_of(pack, folder),
        # From the order of image_ids to that of the pack.
        is_sought=is_sought[pack.places],
        duplicates=duplicates[pack.places],
    )


def _sketch_of(pack: Pack, folder: Path) -> Sketch:
    """The sketch of a pack's CLIP rows, in a file beside it: 512 bytes a row at most."""
    axes = sketch_axes(pack.clip_ND)
    shape = (len(pack), axes.width)
    if not len(pack):
        # Nothing at all cannot be mapped.
        return draw_sketch(pack.clip_ND, axes, torch.empty(shape))
    room = np.lib.format.open_memmap(folder / "sketch.npy", "w+", np.float32, shape)
    return draw_sketch(pack.clip_ND, axes, torch.from_numpy(room))
