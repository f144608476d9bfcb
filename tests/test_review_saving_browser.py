"""Reviewing in a browser while a server saves: what is sent, when, and what is said of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Route, expect

from miner.records import Json
from miner.review import encode_decisions
from miner.reviewing.kept import decisions_of
from tests.browsing import PAINTED, Opened, browser, pytestmark
from tests.review_pages import focus_first, press, rows, sign_in
from tests.review_runs import Run
from tests.review_servers import listening
from tests.reviews import said_of

__all__ = ["browser", "pytestmark", "rows"]

READ = re.compile(r"review\.jsonl\?reviewer=")


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


def test_a_served_page_saves_by_itself(browser: Browser, review_run: Run, rows: list[Json]) -> None:
    store, folder = review_run
    store.files.delete_folder("review")
    turned = {
        f"{name}_{one}": rows[3][f"{name}_{two}"]
        for name in ("sha256", "image")
        for one, two in ((1, 2), (2, 1))
    }
    before = said_of(turned, "ann", decision="accept", option_1="right", statement_2="kept")
    store.files.write("review/ann.jsonl", encode_decisions([before]))
    with listening(store, folder) as server, visiting(browser, server.url) as report:
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


def test_a_server_that_is_gone_loses_nothing(browser: Browser, review_run: Run) -> None:
    store, folder = review_run
    store.files.delete_folder("review")
    with listening(store, folder) as server, visiting(browser, server.url) as report:
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


def test_what_the_server_refuses_is_said(browser: Browser, review_run: Run) -> None:
    store, folder = review_run
    store.files.write("review/eve.jsonl", b"damaged\n")
    with listening(store, folder) as server, visiting(browser, server.url) as report:
        page = report.page
        sign_in(page, "eve")
        focus_first(page)
        press(page, "a")
        expect(page.locator("#saved")).to_contain_text("line 1 is no decision")
        expect(page.locator("#saved")).to_have_class("warning")
    store.files.delete_folder("review")


def test_what_was_said_before_is_read_before_anything_is_said(
    browser: Browser, review_run: Run, rows: list[Json]
) -> None:
    store, folder = review_run
    before = said_of(rows[0], "ann", decision="accept", pattern=7, question="which?", option_1="x")
    store.files.write("review/ann.jsonl", encode_decisions([before]))
    held: list[Route] = []
    with listening(store, folder) as server, visiting(browser, server.url) as report:
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
    browser: Browser, review_run: Run, rows: list[Json]
) -> None:
    store, folder = review_run
    store.files.delete_folder("review")
    with listening(store, folder) as server, visiting(browser, server.url) as report:
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
    browser: Browser, review_run: Run
) -> None:
    store, folder = review_run
    store.files.delete_folder("review")
    with listening(store, folder) as server, visiting(browser, server.url) as report:
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


def test_a_batch_fits_a_page_that_goes_away(browser: Browser, review_run: Run) -> None:
    store, folder = review_run
    store.files.delete_folder("review")
    with listening(store, folder) as server, visiting(browser, server.url) as report:
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
    browser: Browser, review_run: Run, rows: list[Json]
) -> None:
    store, folder = review_run
    good = encode_decisions([said_of(rows[1], "eve", decision="accept")])
    store.files.write("review/eve.jsonl", b"damaged\n" + good)
    with listening(store, folder) as server, visiting(browser, server.url) as report:
        page = report.page
        sign_in(page, "eve")
        expect(page.locator("#saved")).to_contain_text("line 1 of review/eve.jsonl")
        expect(page.locator("#saved")).to_have_class("warning")
        expect(page.locator("#decided")).to_have_text("1 of 15 decided")
    store.files.delete_folder("review")
