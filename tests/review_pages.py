"""Hands on the page of a report in which pairs are reviewed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from miner.records import Json
from miner.review import Decision, encode_decisions, parse_decisions
from tests.browsing import Opened, open_report
from tests.review_runs import Run
from tests.reviews import selected_rows


@pytest.fixture
def rows(review_run: Run) -> list[Json]:
    """The selected pairs of `review_run`, by rank."""
    return selected_rows(review_run[1])


@pytest.fixture
def opened(browser: Browser, review_run: Run) -> Iterator[Opened]:
    """The report of `review_run`, as it was never opened before."""
    with watched(browser, review_run[1] / "report" / "index.html") as report:
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
