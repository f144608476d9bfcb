"""Reviewing in a real browser: pairs decided, sorted and described by keyboard."""

from __future__ import annotations

import json
import re
from pathlib import Path

from playwright.sync_api import Browser, expect

from miner.records import Json
from miner.review import Decision
from miner.reviewing.kept import decisions_of
from tests.browsing import Opened, browser, pytestmark
from tests.commands import Commands
from tests.report_runs import Shot, encoded, make_run, report_of
from tests.review_pages import downloaded, focus_first, opened, press, rows, sign_in, watched
from tests.review_runs import HOSTILE
from tests.reviews import selected_rows

__all__ = ["browser", "opened", "pytestmark", "rows"]


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


def test_decisions_are_json_lines(opened: Opened, tmp_path: Path) -> None:
    page = opened.page
    sign_in(page)
    focus_first(page)
    press(page, "a", "r")
    downloaded(page, tmp_path / "review.jsonl")
    lines = (tmp_path / "review.jsonl").read_text("utf-8").splitlines()
    assert {*json.loads(lines[0])} == {*Decision.model_fields}
