"""Looking at the pairs of a report in a browser: filtered, ordered, enlarged."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from miner.records import Json
from tests.browsing import Opened, browser, pytestmark
from tests.review_pages import focus_first, opened, press, rows, sign_in

__all__ = ["browser", "opened", "pytestmark", "rows"]

CONDITIONS: list[tuple[str, str, str, Callable[[Json], bool]]] = [
    ("caption_1", "contains", "CAPTION 3", lambda row: row["caption_1"] == "caption 3"),
    ("caption_2", "does not contain", "3", lambda row: "3" not in row["caption_2"]),
    ("label_1", "is", "label 1", lambda row: row["label_1"] == "label 1"),
    ("label_2", "is not", "label 1", lambda row: row["label_2"] != "label 1"),
    ("url_1", "is empty", "", lambda row: row["url_1"] is None),
    ("url_2", "is not empty", "", lambda row: row["url_2"] is not None),
    ("key_1", "is", "000002", lambda row: row["key_1"] == "000002"),
    ("sha256_2", "contains", "a", lambda row: "a" in row["sha256_2"]),
    ("dino_cos", "is at most", "0", lambda row: row["dino_cos"] <= 0),
    ("gap", "is at least", "1", lambda row: row["gap"] >= 1),
    ("rank", "equals", "7", lambda row: row["rank"] == 7),
    ("duplicates_1", "is at least", "1", lambda row: row["duplicates_1"] >= 1),
    ("borderline", "is", "no", lambda row: not row["borderline"]),
]


def ranks(page: Page) -> list[int]:
    """The ranks of all listed pairs, in the order in which they are seen."""
    found = page.locator(".cell").evaluate_all(
        """(cells) => cells
          .sort((one, two) => one.ariaPosInSet - two.ariaPosInSet)
          .map((cell) => Number(cell.querySelector(".rank").textContent.match(/#(\\d+)/)[1]))"""
    )
    assert page.locator("#found").inner_text().split(" ")[0] == str(len(found))
    return [int(rank) for rank in found]


def test_pairs_are_filtered_by_any_column(opened: Opened, rows: list[Json]) -> None:
    page = opened.page
    page.locator("#add-filter").click()
    column, test = page.locator("#conditions select").all()
    value = page.locator("#conditions input")
    columns = column.locator("option").all_text_contents()
    there = {"shard", "key", "sha256", "width", "height", "caption", "url", "label"}
    assert {f"{name}_{side}" for name in there for side in (1, 2)} < {*columns}
    assert {"decision", "pattern", "clip_cos", "borderline", "pair_id"} < {*columns}
    for name, condition, wanted, holds in CONDITIONS:
        column.select_option(name)
        test.select_option(condition)
        if wanted:
            value.fill(wanted)
        expected = [row["rank"] for row in rows if holds(row)]
        assert ranks(page) == expected, (name, condition)
    page.get_by_label("Remove this filter").click()
    assert ranks(page) == [row["rank"] for row in rows]


def test_two_filters_and_a_search_hold_together(opened: Opened, rows: list[Json]) -> None:
    page = opened.page
    for number, (name, wanted) in enumerate((("label_1", "label 0"), ("label_2", "label 1"))):
        page.locator("#add-filter").click()
        line = page.locator(".condition").nth(number)
        line.get_by_label("Column", exact=True).select_option(name)
        line.get_by_label("Condition", exact=True).select_option("is")
        line.get_by_label("Value", exact=True).fill(wanted)
    page.locator("#search").fill("/000004")
    expected = [
        row["rank"]
        for row in rows
        if (row["label_1"], row["label_2"]) == ("label 0", "label 1")
        and "set/00000/000004" in (row["image_1"], row["image_2"])
    ]
    assert ranks(page) == expected != []


def test_pairs_are_ordered_by_any_column_both_ways(opened: Opened, rows: list[Json]) -> None:
    page = opened.page
    for name in ("dino_cos", "width_1", "caption_2", "url_1"):
        page.locator("#order").select_option(name)
        for turned in (False, True):
            full = [row for row in rows if row[name] is not None]
            full.sort(key=lambda row: row["rank"])
            full.sort(key=lambda row, name=name: row[name], reverse=turned)  # type: ignore[misc]
            empty = [row for row in rows if row[name] is None]
            assert ranks(page) == [row["rank"] for row in [*full, *empty]], (name, turned)
            page.locator("#direction").click()
    page.locator("#order").select_option("gap")
    assert page.locator("#direction").inner_text() == "↓"
    assert ranks(page) == [row["rank"] for row in sorted(rows, key=lambda row: -row["gap"])]


def test_pairs_are_filtered_and_ordered_by_what_was_said(opened: Opened) -> None:
    page = opened.page
    sign_in(page)
    focus_first(page)
    press(page, "a", "4", "r", "8", "a", "k")
    counts = {"all": 15, "undecided": 12, "accepted": 2, "rejected": 1, "unsorted": 1}
    for name, count in counts.items():
        page.locator("#show").select_option(name)
        assert len(ranks(page)) == count, name
    page.locator("#show").select_option("all")
    page.locator("#order").select_option("pattern")
    assert ranks(page)[:4] == [2, 3, 1, 4]
    page.locator("#order").select_option("decided_at")
    assert ranks(page)[:4] == [3, 2, 1, 4]
    page.locator("#add-filter").click()
    page.get_by_label("Column", exact=True).select_option("decision")
    page.get_by_label("Condition", exact=True).select_option("is")
    page.get_by_label("Value", exact=True).fill("reject")
    assert ranks(page) == [2]


def test_both_images_are_enlarged_and_moved_as_one(opened: Opened) -> None:
    page = opened.page
    focus_first(page)
    press(page, "Enter")

    def moved() -> list[float]:
        both = page.locator("#stage img").evaluate_all(
            """(images) => images.map((image) => {
              const { a, e, f } = new DOMMatrix(getComputedStyle(image).transform);
              return [a, e, f];
            })"""
        )
        assert both[0] == pytest.approx(both[1])
        return [float(number) for number in both[0]]

    assert moved() == [1, 0, 0]
    press(page, "+", "+")
    assert moved()[0] == pytest.approx(2.25)
    expect(page.locator("#zoom-reset")).to_have_text("2.3\u00d7")
    press(page, "-")
    scale, x, y = moved()
    assert scale == pytest.approx(1.5)
    box = page.locator("#stage .frame").first.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2 + 30, box["y"] + box["height"] / 2 + 20, steps=3)
    page.mouse.up()
    assert moved() == pytest.approx([scale, x + 30, y + 20], abs=0.5)
    page.mouse.move(box["x"] + 40, box["y"] + 60)
    press(page, "0")
    assert moved() == [1, 0, 0]
    page.mouse.wheel(0, -400)
    page.wait_for_function("() => document.querySelector('#stage img').style.transform !== ''")
    scale, x, y = moved()
    assert scale > 2
    # What is under the pointer stays there.
    assert (x, y) == pytest.approx(((1 - scale) * 40, (1 - scale) * 60), abs=3)
    press(page, "j")
    assert moved() == [1, 0, 0]
