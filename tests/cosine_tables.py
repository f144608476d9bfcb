"""Tables of a join with given cosines, for tests of what a report counts in them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import torch

from miner import schema
from miner.pairs import Histogram
from miner.records import Json

RECORD: Json = {
    "clip_above": 0.95,
    "dino_below": 0.6,
    "keep_clip": None,
    "keep_dino": None,
    "counts": {"pairs": 0, "blind": 0, "cut_pairs": 0},
}


def random_cosines(
    num: int, *, low: float = 0.95, high: float = 0.6, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """float64 cosines of `num` pairs with CLIP above `low` and DINO below `high`, some on edges."""
    random = np.random.default_rng(seed)
    clip = 1 - (1 - low) * random.random(num)
    dino = high - (high + 0.5) * (1 - random.random(num))
    # A third lies on edges of the grid, exactly or as near as float32 comes.
    on_edge = random.random(num) < 0.3
    clip[on_edge] = np.clip(np.round(clip[on_edge], 3), low + 0.001, 1)
    dino[on_edge] = np.minimum(np.round(dino[on_edge], 3), high - 0.001)
    return clip, dino


def raw_table(clip: np.ndarray, dino: np.ndarray, record: Json = RECORD) -> pa.Table:
    """A `raw` with these float64 cosines, one pair of its own images to each."""
    keeps_more = record["keep_clip"] is not None or record["keep_dino"] is not None
    num = len(clip)
    columns = {
        "pair_id": [f"{number:016x}" for number in range(num)],
        "image_1": [f"set/a/{number % 7:06d}" for number in range(num)],
        "image_2": [f"set/b/{number % 11:06d}" for number in range(num)],
        "clip_cos": clip.astype(np.float32),
        "dino_cos": dino.astype(np.float32),
        "gap": (clip - dino).astype(np.float32),
        "borderline": np.zeros(num, dtype=bool),
        "duplicates_1": np.zeros(num, dtype=np.int64),
        "duplicates_2": np.zeros(num, dtype=np.int64),
        "blind": (clip > record["clip_above"]) & (dino < record["dino_below"]),
    }
    target = schema.raw(with_blind=keeps_more)
    return pa.Table.from_pydict({name: columns[name] for name in target.names}, schema=target)


def histogram_of(**sources: tuple[np.ndarray, np.ndarray]) -> pa.Table:
    """The table `histogram` of the cosines of some sources."""
    histogram = Histogram()
    for source, (clip, dino) in sources.items():
        histogram.add(source, torch.from_numpy(clip), torch.from_numpy(dino))
    return histogram.table()
