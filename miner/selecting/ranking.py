"""The order of a join's pairs: which of them a person should look at first.

    clip    CLIP cosine, descending
    gap     CLIP cosine minus DINO cosine, descending
    mix     the sum of a pair's places in both of these orders, ascending

A place is the number of blind pairs with a larger value, so that pairs kept beyond the thresholds
move nobody. Ties go by pair_id, then by image_ids.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from miner.config import SelectSettings


def rank_order(raw: pa.Table, settings: SelectSettings) -> npt.NDArray[np.int64]:
    """Rows of `raw` in rank order, the best first.

    Args:
        raw: rows of `raw`, in any order.
        settings: of which `rank_by` counts.
    """
    keys = ["pair_id", "image_1", "image_2"]
    table = raw.select(keys).append_column("score", pa.array(_scores(raw, settings)))
    order = [("score", "descending"), *((key, "ascending") for key in keys)]
    rows: npt.NDArray[np.int64] = pc.sort_indices(table, sort_keys=order).to_numpy()
    return rows.astype(np.int64)


def blind_rows(raw: pa.Table) -> npt.NDArray[np.bool_]:
    """[P] bool: which rows are blind pairs; `raw` may reach beyond the thresholds."""
    if "blind" not in raw.column_names:
        return np.ones(len(raw), np.bool_)
    blind: npt.NDArray[np.bool_] = raw["blind"].to_numpy().astype(np.bool_)
    return blind


def _scores(raw: pa.Table, settings: SelectSettings) -> npt.NDArray[np.float32 | np.int64]:
    """[P]: the larger, the better."""
    clip, gap = raw["clip_cos"].to_numpy(), raw["gap"].to_numpy()
    if settings.rank_by == "mix":
        blind = blind_rows(raw)
        return -(_places(clip, blind) + _places(gap, blind))
    found: npt.NDArray[np.float32] = clip if settings.rank_by == "clip" else gap
    return found


def _places(values: npt.NDArray[np.float32], among: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """[P] int64: how many of some rows have a larger value."""
    known = np.sort(values[among])
    return len(known) - np.searchsorted(known, values, side="right")
