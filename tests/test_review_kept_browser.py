"""Who reviews in a browser, and what it keeps of that without a server."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import expect

from tests.browsing import PAINTED, Opened, browser, pytestmark
from tests.review_pages import downloaded, focus_first, opened, press, sign_in

__all__ = ["browser", "opened", "pytestmark"]

LEAVES = "() => dispatchEvent(new Event('beforeunload', { cancelable: true }))"


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
