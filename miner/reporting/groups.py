"""What kinds of pairs a report shows: by pattern, as reviewers said, and by source."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping

import pyarrow as pa
import pyarrow.compute as pc

from miner.reporting.figures import blind_mask
from miner.review import PATTERNS, Decision

# urllib.parse does the same ten times slower.
HOST = re.compile(
    r"https?://(?:[^/?#]*@)?(\[[0-9a-f:.]+\]|[^/?#:@\[\]\s]{1,253})(?=[/?#:]|$)", re.IGNORECASE
)
"""A web address up to its host."""

NO_PATTERN = 0
"""In the place of a pattern's number where none was given."""


def decided_on(raw: pa.Table, decided: Mapping[str, Decision]) -> list[Decision]:
    """The decisions that are about blind pairs of a join.

    Args:
        raw: all rows.
        decided: one decision to a pair, by pair_id.
    """
    blind = raw["pair_id"].filter(pa.array(blind_mask(raw)))
    asked = pc.is_in(blind, value_set=pa.array(list(decided), pa.string()))
    there = set(blind.filter(asked).to_pylist())
    return [said for pair, said in decided.items() if pair in there]


def pattern_rows(decided: Iterable[Decision]) -> list[tuple[int, str, int, int, int]]:
    """Decisions by pattern: number, name, accepted, rejected, undecided pairs.

    Every pattern has a row where there is any decision; pairs without one come last.
    """
    counts = Counter((said.pattern or NO_PATTERN, said.decision) for said in decided)
    if not counts:
        return []
    named = [(number, pattern.name) for number, pattern in PATTERNS.items()]
    rows = [
        (number, name, counts[number, "accept"], counts[number, "reject"], counts[number, None])
        for number, name in [*named, (NO_PATTERN, "no pattern")]
    ]
    return rows if any(rows[-1][2:]) else rows[:-1]


def source_of(image_id: str, url: str | None) -> tuple[str, str]:
    """Where an image comes from: (`host`, that of its web address), else (`dataset`, its name)."""
    found = HOST.match(url) if url else None
    return ("host", found[1].lower()) if found else ("dataset", image_id.partition("/")[0])


def source_rows(selected: pa.Table) -> list[tuple[str, str, int, int]]:
    """Selected pairs by the sources of their images: source, `host` or `dataset`, pairs, images.

    A pair counts once for each source that either of its images comes from. The source with the
    most pairs comes first.
    """
    sides = [
        zip(selected[f"image_{side}"].to_pylist(), selected[f"url_{side}"].to_pylist(), strict=True)
        for side in (1, 2)
    ]
    pairs, images = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    seen: dict[str, tuple[str, str]] = {}
    for both in zip(*sides, strict=True):
        for image_id, url in both:
            if image_id not in seen:
                seen[image_id] = source_of(image_id, url)
                images[seen[image_id]] += 1
        pairs.update({seen[image_id] for image_id, _ in both})
    rows = [(name, kind, number, images[kind, name]) for (kind, name), number in pairs.items()]
    return sorted(rows, key=lambda row: (-row[2], row[0], row[1]))
