"""A real browser, and reports opened in it, for tests of what pages do."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Request, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
ARGUMENTS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium on the path; on Debian: apt-get install chromium"
)

PAINTED = """() => new Promise((done, fail) => {
  setTimeout(() => fail(new Error("no pair was painted within 10 s")), 10_000);
  new PerformanceObserver((list, observer) => {
    const [mark] = list.getEntriesByName("first pair painted");
    if (mark) { observer.disconnect(); done(mark.startTime); }
  }).observe({ type: "mark", buffered: true });
})"""


@dataclass
class Opened:
    """A report in a browser, and everything it did that could be wrong."""

    page: Page
    folder: Path
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    painted_ms: float = 0.0


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One for each file: while it is open an event loop runs, and no test could start its own."""
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        yield started
        started.close()


def open_report(
    browser: Browser, index: Path, *, scheme: str = "light", fragment: str = "", height: int = 900
) -> Opened:
    """Open a report from the disk and wait until its first pair is painted."""
    context = browser.new_context(
        color_scheme=scheme,  # type: ignore[arg-type]
        viewport={"width": 1280, "height": height},
    )
    report = Opened(page=context.new_page(), folder=index.parent)
    page = report.page

    def failed(request: Request) -> None:
        report.errors.append(f"{request.url}: {request.failure}")

    page.on("console", lambda message: report.errors.append(message.text))
    page.on("pageerror", lambda error: report.errors.append(str(error)))
    page.on("dialog", lambda dialog: report.errors.append(dialog.message))
    page.on("request", lambda request: report.requests.append(request.url))
    page.on("requestfailed", failed)
    page.goto(index.as_uri() + fragment, wait_until="commit")
    report.painted_ms = page.evaluate(PAINTED)
    return report
