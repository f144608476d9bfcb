"""Reviewing in a real browser: by keyboard, kept, downloaded, saved by the server."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from miner.records import Json
from miner.review import Decision, encode_decisions, parse_decisions
from miner.reviewing.kept import decisions_of
from miner.reviewing.server import ReviewServer
from miner.reviewing.suggestions import Suggestion
from miner.store import Store
from tests.commands import Commands
from tests.report_runs import Shot, encoded, make_run, report_of
from tests.reviews import said_of, selected_rows
from tests.test_report_browser import PAINTED, Opened, browser, open_report, pytestmark

__all__ = ["browser", "pytestmark"]

HOSTILE = "</script><img src=x onerror=\"document.title = 'owned'\"> \u202e =1+1"
SHOTS = tuple(
    Shot(
        data=encoded(number, size=(90 + number, 80)),
        caption=HOSTILE if number == 1 else f"caption {number}",
        label=f"label {number % 2}",
        url=None if number == 2 else f"https://example.org/{number}.jpg",
    )
    for number in range(6)
)
Run = tuple[Store, Path]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("review"), SHOTS)


@pytest.fixture(scope="module")
def suggestions(run: Run) -> dict[str, Suggestion]:
    """For the second pair, as whoever saw its images the other way round would say it."""
    row = selected_rows(run[1])[1]
    said = Suggestion(
        pair_id=row["pair_id"],
        sha256_1=row["sha256_2"],
        pattern=4,
        difference="<b>more</b> of them",
        option_1="of image 2",
        option_2="of image 1",
    )
    return {said.pair_id: said}


@pytest.fixture(scope="module")
def index(run: Run, suggestions: dict[str, Suggestion]) -> Path:
    return report_of(*run, suggestions=suggestions)


@pytest.fixture(scope="module")
def rows(run: Run) -> list[Json]:
    return selected_rows(run[1])


@pytest.fixture
def opened(browser: Browser, index: Path) -> Iterator[Opened]:
    with watched(browser, index) as report:
        yield report


@contextmanager
def watched(browser: Browser, index: Path) -> Iterator[Opened]:
    """An open report; that it asked for nothing outside its folder is checked at the end."""
    # High enough for every card of a small run to be in the page.
    report = open_report(browser, index, height=2600)
    yield report
    report.page.context.close()
    assert report.errors == []
    inside = (report.folder.as_uri() + "/", "data:", "blob:")
    assert [url for url in report.requests if not url.startswith(inside)] == []


def sign_in(page: Page, name: str = "ann") -> None:
    page.locator("#who").click()
    page.locator("#name").fill(name)
    page.keyboard.press("Enter")
    expect(page.locator("#who")).to_have_text(f"Reviewer: {name}")


def focus_first(page: Page) -> None:
    page.locator("#search").focus()
    page.keyboard.press("Enter")
    expect(page.locator(".card").first).to_be_focused()


def press(page: Page, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


def downloaded(page: Page, to: Path) -> list[Decision]:
    """What the browser writes, which has to be what the miner would write."""
    with page.expect_download() as download:
        page.locator("#download").click()
    assert download.value.suggested_filename == "review.jsonl"
    download.value.save_as(to)
    decisions = parse_decisions(to.read_bytes(), str(to))
    assert encode_decisions(decisions) == to.read_bytes()
    return decisions


def test_twenty_decisions_of_ten_thousand_pairs_are_merged(
    browser: Browser, tmp_path: Path, commands: Commands
) -> None:
    # 142 images have 10,011 pairs.
    shots = [Shot(data=encoded(number, size=(24, 20))) for number in range(142)]
    store, folder = make_run(tmp_path / "made", shots)
    with watched(browser, report_of(store, folder, limit=None)) as report:
        page = report.page
        expect(page.locator("#decided")).to_have_text("0 of 10,011 decided")
        focus_first(page)
        press(page, "a")
        page.keyboard.type("ann")
        press(page, "Enter", "Enter")
        expect(page.locator("#place")).to_have_text("2 of 10,011")
        for number in range(2, 21):
            press(page, str(number % 9 + 1), "r" if number % 3 == 0 else "a")
        expect(page.locator("#place")).to_have_text("21 of 10,011")
        press(page, "Escape")
        expect(page.locator("#decided")).to_have_text("20 of 10,011 decided")
        decisions = downloaded(page, tmp_path / "review.jsonl")
    rows = selected_rows(folder)[:20]
    expected = {
        row["pair_id"]: ("reject" if number % 3 == 0 else "accept", number % 9 + 1)
        for number, row in enumerate(rows, start=1)
    }
    expected[rows[0]["pair_id"]] = ("accept", None)
    assert {said.pair_id: (said.decision, said.pattern) for said in decisions} == expected
    ran = commands("review", "merge", tmp_path / "review.jsonl", store.root)
    assert ran.code == 0, ran.err
    assert re.search(r"^ann +14 +6 +0 +19$", ran.out, re.MULTILINE)
    assert decisions_of(store) == sorted(decisions, key=lambda said: said.pair_id)


def test_words_are_said_by_keyboard_and_reach_the_file(
    opened: Opened, rows: list[Json], tmp_path: Path
) -> None:
    page = opened.page
    sign_in(page)
    focus_first(page)
    press(page, "Enter", "3", "d")
    page.keyboard.type('one "is" darker,\\ \u2028 5 a r 1')
    press(page, "Enter")
    page.keyboard.type("Which? \U0001f600")
    press(page, "Enter")
    page.keyboard.type("left")
    press(page, "Enter")
    page.keyboard.type(HOSTILE)
    press(page, "Enter")
    page.keyboard.type("It is dark.")
    press(page, "Enter")
    page.keyboard.type("It is bright.")
    press(page, "Enter", "A")
    expect(page.locator("#place")).to_have_text("1 of 15")
    press(page, "q")
    expect(page.locator("#question")).to_be_focused()
    press(page, "Escape")
    expect(page.locator("#viewer")).to_be_visible()
    expect(page.locator("#stage")).to_be_focused()
    press(page, "Enter")
    (said,) = downloaded(page, tmp_path / "review.jsonl")
    assert said.pair_id == rows[0]["pair_id"]
    assert (said.image_1, said.image_2) == (rows[0]["image_1"], rows[0]["image_2"])
    assert (said.decision, said.pattern, said.reviewer) == ("accept", 3, "ann")
    assert said.difference == 'one "is" darker,\\ \u2028 5 a r 1'
    assert (said.question, said.option_1, said.option_2) == ("Which? \U0001f600", "left", HOSTILE)
    assert said.statements == ("It is dark.", "It is bright.")
    assert page.title().startswith("15 CLIP-blind pairs")
    assert page.locator("script:not([type='application/json'])").count() == 1


def test_half_a_surrogate_becomes_text(opened: Opened, tmp_path: Path) -> None:
    page = opened.page
    sign_in(page)
    focus_first(page)
    press(page, "Enter")
    page.locator("#difference").evaluate("""(field) => {
      field.value = "half \\ud83d";
      field.dispatchEvent(new Event("input"));
    }""")
    page.locator("#close").click()
    (said,) = downloaded(page, tmp_path / "review.jsonl")
    assert said.difference == "half \ufffd"


def test_a_reload_keeps_what_was_decided(opened: Opened, tmp_path: Path) -> None:
    page = opened.page
    sign_in(page)
    focus_first(page)
    press(page, "a", "r", "7", "Enter", "d")
    page.keyboard.type("typed and not left")
    page.reload()
    page.evaluate(PAINTED)
    expect(page.locator("#decided")).to_have_text("2 of 15 decided")
    expect(page.locator("#who")).to_have_text("Reviewer: ann")
    expect(page.locator("#saved")).to_have_text("kept in this browser")
    expect(page.locator("#difference")).to_have_value("typed and not left")
    press(page, "Escape")
    expect(page.locator(".card").nth(0)).to_have_class("card accepted")
    expect(page.locator(".card").nth(1)).to_have_class("card rejected")
    expect(page.locator(".card").nth(2)).to_contain_text("Structural Character")
    assert len(downloaded(page, tmp_path / "review.jsonl")) == 3


def test_reviewers_and_reports_do_not_mix(opened: Opened) -> None:
    page = opened.page
    sign_in(page)
    focus_first(page)
    press(page, "a")
    sign_in(page, "bob")
    expect(page.locator("#decided")).to_have_text("0 of 15 decided")
    expect(page.locator(".card.accepted")).to_have_count(0)
    sign_in(page, "ann")
    expect(page.locator("#decided")).to_have_text("1 of 15 decided")
    keys = page.evaluate("() => Object.keys(localStorage).filter((key) => key.includes('review:'))")
    assert len(keys) == 1
    page.evaluate(
        """([key]) => {
      localStorage.setItem(key.replace(/review:[0-9a-f]+:/, "review:0123:"), localStorage[key]);
      localStorage.setItem(key.replace(/.$/, "x"), '{"decided_at":"2026-01-01T00:00:00.000Z"}');
      localStorage.setItem(key, '{"decision":{"a":1},"decided_at":7,"pattern":"<b>"}');
    }""",
        keys,
    )
    page.reload()
    page.evaluate(PAINTED)
    expect(page.locator("#decided")).to_have_text("0 of 15 decided")


def test_a_name_is_asked_for_once_and_has_to_be_one(opened: Opened) -> None:
    page = opened.page
    focus_first(page)
    press(page, "r")
    expect(page.locator("#name-dialog")).to_be_visible()
    for name in ("", "../ann", "a b", ".x", "ä", "Consensus"):
        page.locator("#name").fill(name)
        press(page, "Enter")
        expect(page.locator("#name-fault")).to_be_visible()
    page.locator("#name").fill("ann.b-c_9")
    press(page, "Enter")
    expect(page.locator("#name-dialog")).to_be_hidden()
    expect(page.locator("#decided")).to_have_text("1 of 15 decided")
    expect(page.locator(".card").nth(1)).to_be_focused()
    press(page, "a")
    expect(page.locator("#decided")).to_have_text("2 of 15 decided")


def test_whoever_gives_no_name_decides_nothing(opened: Opened) -> None:
    page = opened.page
    focus_first(page)
    press(page, "a", "Escape")
    expect(page.locator("#name-dialog")).to_be_hidden()
    expect(page.locator("#decided")).to_have_text("0 of 15 decided")
    expect(page.locator("#download")).to_be_disabled()
    expect(page.locator(".card").first).to_be_focused()
    sign_in(page)
    expect(page.locator("#decided")).to_have_text("0 of 15 decided")


def test_undo_goes_back_step_by_step(opened: Opened, tmp_path: Path) -> None:
    page = opened.page
    sign_in(page)
    focus_first(page)
    press(page, "3", "3", "3", "a", "r", "Enter", "d")
    page.keyboard.type("words")
    press(page, "Escape", "u")
    expect(page.locator("#difference")).to_have_value("")
    expect(page.locator("#place")).to_have_text("3 of 15")
    press(page, "u")
    expect(page.locator("#place")).to_have_text("2 of 15")
    expect(page.locator("#reject")).to_have_attribute("aria-pressed", "false")
    press(page, "u")
    expect(page.locator("#place")).to_have_text("1 of 15")
    expect(page.locator("#accept")).to_have_attribute("aria-pressed", "false")
    third = page.locator("#patterns [data-pattern='3']")
    for pressed in ("true", "false", "true", "false"):
        expect(third).to_have_attribute("aria-pressed", pressed)
        press(page, "u")
    expect(page.locator("#undo")).to_be_disabled()
    page.locator("#close").click()
    assert {(s.decision, s.pattern, s.difference) for s in downloaded(page, tmp_path / "r")} == {
        (None, None, "")
    }


def test_a_card_keeps_the_focus_when_the_page_grows(opened: Opened) -> None:
    page = opened.page
    # What is said of the saving takes a line of its own here, and the list moves down.
    page.set_viewport_size({"width": 420, "height": 900})
    focus_first(page)
    press(page, "a")
    page.keyboard.type("ann")
    press(page, "Enter")
    expect(page.locator("#saved")).to_be_visible()
    expect(page.get_by_role("button", name="Pair 2,")).to_be_focused()
    press(page, "r", "a")
    expect(page.locator("#decided")).to_have_text("3 of 15 decided")
    page.set_viewport_size({"width": 900, "height": 900})
    expect(page.get_by_role("button", name="Pair 4,")).to_be_focused()


def test_suggestions_are_shown_and_count_when_they_are_accepted(
    opened: Opened, rows: list[Json], tmp_path: Path
) -> None:
    page = opened.page
    expect(page.locator("#decided")).to_have_text("0 of 15 decided")
    page.locator("#show").select_option("suggested")
    expect(page.locator("#found")).to_have_text("1 of 15")
    expect(page.locator(".card .offered")).to_have_text("Quantity")
    sign_in(page)
    page.locator(".card").click()
    expect(page.locator("#difference")).to_have_value("<b>more</b> of them")
    expect(page.locator("#difference")).to_have_class("offered")
    expect(page.locator("#option_1")).to_have_value("of image 1")
    expect(page.locator("#option_2")).to_have_value("of image 2")
    expect(page.locator("#offer")).to_be_visible()
    fourth = page.locator("#patterns [data-pattern='4']")
    expect(fourth).to_have_class("offered")
    expect(fourth).to_have_attribute("aria-pressed", "false")
    expect(page.locator("#download")).to_be_disabled(timeout=1)
    page.locator("#option_1").fill("my own")
    press(page, "Escape", "A")
    expect(fourth).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#offer")).to_be_hidden()
    press(page, "Escape")
    (said,) = downloaded(page, tmp_path / "review.jsonl")
    assert said.pair_id == rows[1]["pair_id"]
    assert (said.decision, said.pattern) == ("accept", 4)
    assert said.difference == "<b>more</b> of them"
    assert (said.option_1, said.option_2, said.question) == ("my own", "of image 2", "")


def test_a_rejected_pair_takes_no_suggestion(opened: Opened, tmp_path: Path) -> None:
    page = opened.page
    sign_in(page)
    page.locator("#show").select_option("suggested")
    focus_first(page)
    press(page, "r")
    (said,) = downloaded(page, tmp_path / "review.jsonl")
    assert (said.decision, said.pattern, said.difference) == ("reject", None, "")


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


def ranks(page: Page) -> list[int]:
    """The ranks of all listed pairs, in the order in which they are seen."""
    found = page.locator(".cell").evaluate_all(
        """(cells) => cells
          .sort((one, two) => one.ariaPosInSet - two.ariaPosInSet)
          .map((cell) => Number(cell.querySelector(".rank").textContent.match(/#(\\d+)/)[1]))"""
    )
    assert page.locator("#found").inner_text().split(" ")[0] == str(len(found))
    return [int(rank) for rank in found]


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


def test_hostile_words_stay_text_everywhere(opened: Opened) -> None:
    page = opened.page
    sign_in(page)
    page.locator("#search").fill("owned")
    focus_first(page)
    press(page, "Enter", "d")
    page.keyboard.type(HOSTILE)
    press(page, "Escape", "A", "Escape")
    page.locator("#search").fill("")
    page.locator("#order").select_option("difference")
    expect(page.locator(".card").first).to_have_class("card accepted")
    press(page, "u")
    assert page.title().startswith("15 CLIP-blind pairs")
    assert page.locator("script:not([type='application/json'])").count() == 1
    assert page.locator("img[src=x]").count() == 0


# ---- served


@contextmanager
def serving(store: Store, folder: Path) -> Iterator[ReviewServer]:
    with ReviewServer(store, folder.name) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def visiting(browser: Browser, url: str) -> Iterator[Opened]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    report = Opened(page=context.new_page(), folder=Path())
    report.page.on("console", lambda message: report.errors.append(message.text))
    report.page.on("pageerror", lambda error: report.errors.append(str(error)))
    report.page.on("request", lambda request: report.requests.append(request.url))
    report.page.goto(url, wait_until="commit")
    report.page.evaluate(PAINTED)
    yield report
    context.close()
    assert [to for to in report.requests if not to.startswith((url, "data:", "blob:"))] == []


def test_a_served_page_saves_by_itself(
    browser: Browser, run: Run, index: Path, rows: list[Json]
) -> None:
    store, folder = run
    store.files.delete_folder("review")
    turned = {
        f"{name}_{one}": rows[3][f"{name}_{two}"]
        for name in ("sha256", "image")
        for one, two in ((1, 2), (2, 1))
    }
    before = said_of(turned, "ann", decision="accept", option_1="right", statement_2="kept")
    store.files.write("review/ann.jsonl", encode_decisions([before]))
    with serving(store, folder) as server, visiting(browser, server.url) as report:
        page = report.page
        sign_in(page)
        expect(page.locator("#decided")).to_have_text("1 of 15 decided")
        expect(page.locator("#saved")).to_have_text("saved in the run")
        expect(page.locator(".card").nth(3)).to_have_class("card accepted")
        focus_first(page)
        press(page, "a", "r", "ArrowDown", "k")
        page.locator(".card").nth(3).click()
        expect(page.locator("#option_2")).to_have_value("right")
        press(page, "5")
        expect(page.locator("#saved")).to_have_text("saved in the run")
        assert report.errors == []
    kept = {said.pair_id: said for said in decisions_of(store)}
    assert [kept[row["pair_id"]].decision for row in rows[:2]] == ["accept", "reject"]
    after = kept[rows[3]["pair_id"]].seen_from(rows[3]["sha256_2"])
    assert (after.pattern, after.option_1, after.statement_2) == (5, "right", "kept")
    assert after.decided_at > before.decided_at
    assert len(kept) == 3


def test_a_server_that_is_gone_loses_nothing(browser: Browser, run: Run, index: Path) -> None:
    store, folder = run
    store.files.delete_folder("review")
    with serving(store, folder) as server, visiting(browser, server.url) as report:
        page = report.page
        sign_in(page)
        focus_first(page)
        page.context.set_offline(True)
        press(page, "a")
        expect(page.locator("#saved")).to_contain_text("not saved (the server does not answer)")
        expect(page.locator("#decided")).to_have_text("1 of 15 decided")
        assert decisions_of(store) == []
        page.context.set_offline(False)
        expect(page.locator("#saved")).to_have_text("saved in the run", timeout=20_000)
    assert [said.decision for said in decisions_of(store)] == ["accept"]


def test_what_the_server_refuses_is_said(browser: Browser, run: Run, index: Path) -> None:
    store, folder = run
    store.files.write("review/eve.jsonl", b"damaged\n")
    with serving(store, folder) as server, visiting(browser, server.url) as report:
        page = report.page
        sign_in(page, "eve")
        focus_first(page)
        press(page, "a")
        expect(page.locator("#saved")).to_contain_text("line 1 is no decision")
        expect(page.locator("#saved")).to_have_class("warning")
    store.files.delete_folder("review")


READ = re.compile(r"review\.jsonl\?reviewer=")


def test_what_was_said_before_is_read_before_anything_is_said(
    browser: Browser, run: Run, index: Path, rows: list[Json]
) -> None:
    store, folder = run
    before = said_of(rows[0], "ann", decision="accept", pattern=7, question="which?", option_1="x")
    store.files.write("review/ann.jsonl", encode_decisions([before]))
    held: list[Route] = []
    with serving(store, folder) as server, visiting(browser, server.url) as report:
        page = report.page
        page.route(READ, lambda route: held.append(route))
        focus_first(page)
        press(page, "R")
        page.keyboard.type("ann")
        press(page, "Enter")
        expect(page.locator("#saved")).to_have_text("reading what you said before …")
        # While one thing waits there is no second one.
        press(page, "r", "Enter")
        expect(page.locator("#decided")).to_have_text("0 of 15 decided")
        expect(page.locator("#question")).to_have_js_property("readOnly", True)
        assert decisions_of(store) == [before]
        held[0].continue_()
        expect(page.locator("#question")).to_have_value("which?")
        expect(page.locator("#question")).to_have_js_property("readOnly", False)
        expect(page.locator("#saved")).to_have_text("saved in the run")
        expect(page.locator("#decided")).to_have_text("1 of 15 decided")
    (after,) = decisions_of(store)
    assert (after.decision, after.pattern) == ("reject", 7)
    assert (after.question, after.option_1) == ("which?", "x")
    store.files.delete_folder("review")


def test_nothing_is_sent_before_what_was_said_is_read(
    browser: Browser, run: Run, index: Path, rows: list[Json]
) -> None:
    store, folder = run
    store.files.delete_folder("review")
    with serving(store, folder) as server, visiting(browser, server.url) as report:
        page = report.page
        sign_in(page)
        focus_first(page)
        press(page, "a")
        expect(page.locator("#saved")).to_have_text("saved in the run")
        # What another browser said since then, and an earlier state of this one.
        words = said_of(rows[0], "ann", question="which?")
        store.files.write("review/ann.jsonl", encode_decisions([words]))
        page.route(READ, lambda route: route.abort())
        page.reload()
        page.evaluate(PAINTED)
        expect(page.locator("#saved")).to_contain_text("decisions wait")
        focus_first(page)
        press(page, "r")
        expect(page.locator("#decided")).to_have_text("1 of 15 decided")
        assert decisions_of(store) == [words]
        page.unroute(READ)
        # The rejection that waited came to pass, and the words of the run were kept.
        expect(page.locator("#saved")).to_have_text("saved in the run", timeout=20_000)
        expect(page.locator(".card").first).to_have_class("card rejected")
        expect(page.locator("#saved")).to_have_text("saved in the run")
    (after,) = decisions_of(store)
    assert (after.decision, after.question) == ("reject", "which?")
    store.files.delete_folder("review")


def test_what_is_pending_is_sent_in_the_name_of_who_said_it(
    browser: Browser, run: Run, index: Path
) -> None:
    store, folder = run
    store.files.delete_folder("review")
    with serving(store, folder) as server, visiting(browser, server.url) as report:
        page = report.page
        sign_in(page)
        expect(page.locator("#saved")).to_have_text("saved in the run")
        focus_first(page)
        # The page's own wait is made endless: what is sent is sent by the change of the name.
        page.clock.install()
        press(page, "a")
        with page.expect_response(lambda answer: answer.request.method == "POST") as answered:
            sign_in(page, "bob")
        assert answered.value.status == 204
    assert [(said.reviewer, said.decision) for said in decisions_of(store)] == [("ann", "accept")]
    store.files.delete_folder("review")


def test_a_batch_fits_a_page_that_goes_away(browser: Browser, run: Run, index: Path) -> None:
    store, folder = run
    store.files.delete_folder("review")
    with serving(store, folder) as server, visiting(browser, server.url) as report:
        page = report.page
        sign_in(page)
        expect(page.locator("#saved")).to_have_text("saved in the run")
        page.route("**/review.jsonl", lambda route: route.abort())
        focus_first(page)
        press(page, "Enter")
        for _ in range(10):
            page.locator("#question").fill("\U0001f600" * 2000)
            press(page, "Escape", "j")
        with page.expect_request(lambda request: request.method == "POST") as sent:
            page.evaluate("() => dispatchEvent(new Event('pagehide'))")
        body = sent.value.post_data_buffer
        assert body is not None
        assert 0 < len(body) <= 60_000
        assert body.endswith(b"\n")
    store.files.delete_folder("review")


def test_a_damaged_line_is_named_and_the_others_are_read(
    browser: Browser, run: Run, index: Path, rows: list[Json]
) -> None:
    store, folder = run
    good = encode_decisions([said_of(rows[1], "eve", decision="accept")])
    store.files.write("review/eve.jsonl", b"damaged\n" + good)
    with serving(store, folder) as server, visiting(browser, server.url) as report:
        page = report.page
        sign_in(page, "eve")
        expect(page.locator("#saved")).to_contain_text("line 1 of review/eve.jsonl")
        expect(page.locator("#saved")).to_have_class("warning")
        expect(page.locator("#decided")).to_have_text("1 of 15 decided")
    store.files.delete_folder("review")


def test_escape_leaves_the_question_for_a_name(opened: Opened) -> None:
    page = opened.page
    focus_first(page)
    press(page, "Enter", "d")
    expect(page.locator("#name-dialog")).to_be_hidden()
    page.keyboard.type("x")
    expect(page.locator("#name-dialog")).to_be_visible()
    press(page, "Escape")
    expect(page.locator("#name-dialog")).to_be_hidden()
    expect(page.locator("#difference")).to_have_value("")
    page.keyboard.type("y")
    page.keyboard.type("ann")
    press(page, "Enter")
    expect(page.locator("#who")).to_have_text("Reviewer: ann")
    expect(page.locator("#difference")).to_have_value("y")


def test_what_a_full_browser_does_not_keep_is_said_until_it_is_kept(opened: Opened) -> None:
    page = opened.page
    sign_in(page)
    focus_first(page)
    page.evaluate("""() => {
      const { setItem } = Storage.prototype;
      Storage.prototype.setItem = function (name, value) {
        if (window.isFull && value.includes("accept")) throw new DOMException("full");
        setItem.call(this, name, value);
      };
      window.isFull = true;
    }""")
    press(page, "a", "r")
    expect(page.locator("#saved")).to_contain_text("did not keep what you said of 1")
    assert page.evaluate(LEAVES) is False
    page.evaluate("() => { window.isFull = false; }")
    press(page, "r")
    expect(page.locator("#saved")).to_have_text("kept in this browser")
    assert page.evaluate(LEAVES) is True
    page.reload()
    page.evaluate(PAINTED)
    expect(page.locator("#decided")).to_have_text("3 of 15 decided")


LEAVES = "() => dispatchEvent(new Event('beforeunload', { cancelable: true }))"


def test_a_key_that_is_held_decides_one_pair(opened: Opened) -> None:
    page = opened.page
    sign_in(page)
    focus_first(page)
    page.keyboard.down("a")
    page.keyboard.down("a")
    page.keyboard.down("a")
    page.keyboard.up("a")
    expect(page.locator("#decided")).to_have_text("1 of 15 decided")
    expect(page.locator(".card").nth(1)).to_be_focused()


def test_a_page_from_disk_asks_no_server(opened: Opened) -> None:
    page = opened.page
    sign_in(page)
    focus_first(page)
    press(page, "a")
    expect(page.locator("#saved")).to_have_text("kept in this browser")
    refused = page.evaluate("async () => fetch('review.jsonl').catch((error) => error.name)")
    assert refused == "TypeError"
    assert any("connect-src" in error or "default-src" in error for error in opened.errors)
    opened.errors.clear()


def test_decisions_are_json_lines(opened: Opened, tmp_path: Path) -> None:
    page = opened.page
    sign_in(page)
    focus_first(page)
    press(page, "a", "r")
    downloaded(page, tmp_path / "review.jsonl")
    lines = (tmp_path / "review.jsonl").read_text("utf-8").splitlines()
    assert {*json.loads(lines[0])} == {*Decision.model_fields}
