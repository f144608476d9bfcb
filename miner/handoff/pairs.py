"""The pairs and images of a hand-off, whatever its format: two tables, and what they hold."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from miner import schema
from miner.errors import StoreError
from miner.handoff.settings import Facts
from miner.pairs import pair_id
from miner.records import Json
from miner.reporting.images import EXTENSIONS
from miner.review import PATTERNS

TEXTS = ("difference", "question", "option_1", "option_2", "statement_1", "statement_2")
"""What reviewers wrote of a pair; null where nobody did."""

PAIRS = pa.schema(
    [
        pa.field("rank", pa.int64(), nullable=False),
        *schema.RAW,
        pa.field("sha256_1", pa.string(), nullable=False),
        pa.field("sha256_2", pa.string(), nullable=False),
        pa.field("decision", pa.string()),
        pa.field("num_reviewers", pa.int32(), nullable=False),
        pa.field("pattern", pa.int8()),
        pa.field("pattern_name", pa.string()),
        *(pa.field(name, pa.string()) for name in TEXTS),
    ]
)
"""A row for each pair: its cosines, and what the reviewers together say of it."""

IMAGES = pa.schema([field for field in schema.SAMPLES if field.name not in ("phash", "meta")])
"""A row for each image. Of a local shard, `shard` is the last part of its path alone."""

DECISIONS = (None, "accept", "reject")
"""What reviewers may have decided together."""

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Handoff:
    """What is handed off.

    Attributes:
        pairs: rows of PAIRS, by rank.
        images: rows of IMAGES, by image_id.
        facts: where they come from.
    """

    pairs: Sequence[Json]
    images: Mapping[str, Json]
    facts: Facts

    def both(self, pair: Json) -> tuple[Json, Json]:
        """The two images of a pair."""
        return self.images[pair["image_1"]], self.images[pair["image_2"]]

    def only(self, pairs: Sequence[Json]) -> Handoff:
        """The same with some of its pairs, and their images."""
        named = {pair[name] for pair in pairs for name in ("image_1", "image_2")}
        images = {name: row for name, row in self.images.items() if name in named}
        return replace(self, pairs=pairs, images=images)

    def flat(self, pair: Json) -> Json:
        """A pair with the columns of both images, suffixed `_1` and `_2`, as one row."""
        row = dict(pair)
        for suffix, image in zip(("_1", "_2"), self.both(pair), strict=True):
            row |= {f"{name}{suffix}": image[name] for name in IMAGES.names if name != "image_id"}
        return row


def tables_of(handoff: Handoff) -> dict[str, pa.Table]:
    """The tables `pairs` and `images`, from which `handoff_of` makes the same hand-off."""
    images = [handoff.images[name] for name in sorted(handoff.images)]
    return {
        "pairs": pa.Table.from_pylist(list(handoff.pairs), schema=PAIRS),
        "images": pa.Table.from_pylist(images, schema=IMAGES),
    }


def handoff_of(pairs: pa.Table, images: pa.Table, facts: Facts, place: str) -> Handoff:
    """A hand-off from its two tables, which may come from anybody.

    Args:
        pairs: the table `pairs`.
        images: the table `images`.
        facts: where they come from.
        place: where they lie, for messages.

    Raises:
        StoreError: a table has other columns, or a row is not what it has to be.
    """
    for name, table, wanted in (("pairs", pairs, PAIRS), ("images", images, IMAGES)):
        if not table.schema.equals(wanted):
            raise StoreError(
                f"{place}: {name}.parquet has other columns than a hand-off of this version; "
                "make it again with `blindpairs handoff --images none`"
            )
    rows = [with_short_cosines(row) for row in pairs.to_pylist()]
    handoff = Handoff(
        pairs=rows, images={row["image_id"]: row for row in images.to_pylist()}, facts=facts
    )
    unknown = [
        name for name, row in handoff.images.items() if row["format"] == schema.UNKNOWN_FORMAT
    ]
    if unknown:
        raise StoreError(
            f"{place}: only embeddings were imported of {len(unknown)} images ({unknown[0]!r}, "
            "...), so their bytes are unknown and no copy can be checked; mine the images "
            "themselves, or fetch them by their urls unchecked"
        )
    if problem := _problem(handoff, images.num_rows):
        raise StoreError(f"{place}: {problem}; the tables were edited, get the folder again")
    return handoff


def _problem(handoff: Handoff, num_images: int) -> str | None:
    """What is wrong with tables that were read; None where nothing is."""
    if len(handoff.images) != num_images:
        return "images.parquet names an image twice"
    for name, image in handoff.images.items():
        if not _SHA256.fullmatch(image["sha256"]) or image["format"] not in EXTENSIONS:
            return f"image {name!r} has the sha256 {image['sha256']!r}, format {image['format']!r}"
        num_bytes, offset = image["num_bytes"], image["offset"]
        most = handoff.facts.limits.max_member_bytes
        if not 1 <= num_bytes <= most or not 0 <= offset < 2**63 - num_bytes:
            return f"image {name!r} has {num_bytes} bytes at {offset} (limit {most})"
    if len({pair["pair_id"] for pair in handoff.pairs}) != len(handoff.pairs):
        return "pairs.parquet names a pair twice"
    return next(filter(None, (_problem_of_pair(handoff, pair) for pair in handoff.pairs)), None)


def _problem_of_pair(handoff: Handoff, pair: Json) -> str | None:
    if not {pair["image_1"], pair["image_2"]} <= handoff.images.keys():
        return f"an image of pair {pair['pair_id']!r} is not in images.parquet"
    both = [image["sha256"] for image in handoff.both(pair)]
    if both != [pair["sha256_1"], pair["sha256_2"]] or pair_id(*both) != pair["pair_id"]:
        return f"pair_id {pair['pair_id']!r} is not that of its images"
    if pair["pattern"] not in (None, *PATTERNS) or pair["decision"] not in DECISIONS:
        return f"pair {pair['pair_id']} has pattern {pair['pattern']}, {pair['decision']!r}"
    if not all(math.isfinite(pair[name]) for name in ("clip_cos", "dino_cos", "gap")):
        return f"pair {pair['pair_id']} has a cosine that is no number"
    return None


def with_short_cosines(row: Json) -> Json:
    """A pair whose cosines print as the shortest decimals of their float32."""
    short = {name: float(str(np.float32(row[name]))) for name in ("clip_cos", "dino_cos", "gap")}
    return row | short
