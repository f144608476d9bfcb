"""Selected pairs page by page: every filter against a loop in Python, and cursors."""

from __future__ import annotations

import base64
import json
from typing import Any

import pyarrow as pa
import pytest

from miner import schema
from miner.pair_pages import PairFilter, PairPages

NUM_PAIRS = 40


def pair(rank: int) -> dict[str, Any]:
    images = {
        f"{name}_{side}": None
        for side in (1, 2)
        for name in ("shard", "key", "sha256", "width", "height", "caption", "url", "label")
    }
    return {
        **images,
        **{f"{name}_{side}": "x" for side in (1, 2) for name in ("shard", "key", "sha256")},
        **{f"{name}_{side}": 9 for side in (1, 2) for name in ("width", "height")},
        "rank": rank,
        "pair_id": f"{rank:016x}",
        "image_1": f"set/0/{rank % 7}",
        "image_2": f"set/1/{rank % 5}",
        "clip_cos": 0.95 + (rank * 7 % 11) / 256,
        "dino_cos": (rank * 5 % 13) / 16,
        "gap": 0.95 + (rank * 7 % 11) / 256 - (rank * 5 % 13) / 16,
        "borderline": rank % 3 == 0,
        "duplicates_1": 0,
        "duplicates_2": 0,
        "caption_1": None if rank % 4 == 0 else f"A Red (b.x)* {rank}",
        "label_2": "Tiger" if rank % 6 == 0 else None,
    }


ROWS = pa.Table.from_pylist(
    [pair(rank) for rank in range(1, NUM_PAIRS + 1)], schema=schema.selected(with_blind=False)
)


@pytest.fixture(scope="module")
def pages() -> PairPages:
    return PairPages(ROWS, "one")


def has(row: dict[str, Any], text: str) -> bool:
    return any(text in str(row[name] or "").lower() for name in ("caption_1", "label_2"))


@pytest.mark.parametrize(
    ("given", "keeps"),
    [
        ({}, lambda row: True),
        ({"min_clip_cos": 0.96, "max_clip_cos": 0.98}, lambda row: 0.96 <= row["clip_cos"] <= 0.98),
        ({"min_dino_cos": 0.25}, lambda row: row["dino_cos"] >= 0.25),
        ({"max_gap": 0.5, "min_gap": 0.3}, lambda row: 0.3 <= row["gap"] <= 0.5),
        ({"borderline": True}, lambda row: row["borderline"]),
        ({"borderline": False}, lambda row: not row["borderline"]),
        ({"image_id": "set/1/3"}, lambda row: row["image_2"] == "set/1/3"),
        ({"image_id": "set/1"}, lambda row: False),
        ({"text": "(B.X)*"}, lambda row: has(row, "(b.x)*")),
        ({"text": "tIGER"}, lambda row: has(row, "tiger")),
        ({"text": ""}, lambda row: True),
        ({"text": "%"}, lambda row: False),
    ],
)
@pytest.mark.parametrize("sort", ["rank", "clip_cos", "dino_cos", "gap"])
@pytest.mark.parametrize("order", ["asc", "desc"])
def test_pages_are_what_a_loop_finds(
    pages: PairPages, given: dict[str, Any], keeps: Any, sort: str, order: str
) -> None:
    sign = 1 if order == "asc" else -1
    wanted = sorted(
        filter(keeps, ROWS.to_pylist()), key=lambda row: (sign * row[sort], row["rank"])
    )
    found, cursor = pages.page(PairFilter(sort=sort, order=order, **given), 9, None)
    while cursor is not None:
        more, cursor = pages.page(PairFilter(sort=sort, order=order, **given), 9, cursor)
        assert more
        found += more
    assert found == wanted


def test_cursors_of_other_questions_are_refused(pages: PairPages) -> None:
    _, cursor = pages.page(PairFilter(), 3, None)
    assert cursor is not None
    assert pages.page(PairFilter(), 3, cursor)[0][0]["rank"] == 4
    for other, wanted in (
        (PairPages(ROWS, "another"), PairFilter()),
        (pages, PairFilter(sort="gap")),
        (pages, PairFilter(text="a")),
    ):
        with pytest.raises(ValueError, match="the cursor is none of this selection, filter"):
            other.page(wanted, 3, cursor)


def cursor_of(content: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(content).encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    "cursor",
    [
        *("", "A", "AAAA", "ä", "%", "=", " "),
        *(cursor_of(content) for content in (None, 3, [], [1], [1, "x"], {"a": 1})),
        base64.urlsafe_b64encode(b"[" * 100).decode(),
        base64.urlsafe_b64encode(b"9" * 120).decode(),
    ],
)
def test_cursors_that_are_none(pages: PairPages, cursor: str) -> None:
    with pytest.raises(ValueError, match="the cursor is none of this selection, filter"):
        pages.page(PairFilter(), 3, cursor)


@pytest.mark.parametrize("position", [-1, True, 1.5, "1", None])
def test_positions_that_are_none(pages: PairPages, position: object) -> None:
    _, good = pages.page(PairFilter(), 3, None)
    assert good is not None
    _, view = json.loads(base64.urlsafe_b64decode(good + "=="))
    assert pages.page(PairFilter(), 3, cursor_of([10**40, view])) == ([], None)
    with pytest.raises(ValueError, match="the cursor is none of this selection, filter"):
        pages.page(PairFilter(), 3, cursor_of([position, view]))
