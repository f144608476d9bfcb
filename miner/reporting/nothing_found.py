"""Why a join has no blind pair, by what its histogram saw, and what to try next."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from miner import schema
from miner.records import Json
from miner.store import Store


def why_nothing(store: Store, name: str, record: Json) -> str | None:
    """How far a join's cosines are from its thresholds; None where it has blind pairs.

    Args:
        store: the run directory.
        name: the join's.
        record: the content of join.json.
    """
    counts = record["counts"]
    if counts["blind"]:
        return None
    histogram = store.read_table(f"pairs/{name}/histogram.parquet")
    if counts["candidates"]:
        edge = pc.min(_of(histogram, "candidates", "dino_bin")).as_py()
        lowest = "" if edge is None else f"; the lowest is above {_edge(edge)}"
        return (
            f"No candidate has a DINO cosine < {record['dino_below']:g}{lowest}. Give a larger "
            "--dino-below, or find thresholds with `blindpairs calibrate`."
        )
    edge = pc.max(_of(histogram, "random", "clip_bin")).as_py()
    num_random = pc.sum(_of(histogram, "random", "count")).as_py()
    below = "" if edge is None else _edge(edge + 1)
    seen = f"; of {num_random:,} random pairs, all are below {below}" if below else ""
    return (
        f"No pair has a CLIP cosine > {record['clip_above']:g}{seen}. Give a smaller --clip-above, "
        "or find thresholds with `blindpairs calibrate`."
    )


def _of(histogram: pa.Table, source: str, column: str) -> pa.ChunkedArray:
    return histogram.filter(pc.equal(histogram["source"], source))[column]


def _edge(place: int) -> str:
    return f"{place * schema.HISTOGRAM_BIN_WIDTH:g}"
