"""Pages of reports, taken apart, for tests of what is written."""

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

from miner.records import Json
from miner.store import Store
from tests.report_runs import Shot, encoded, make_run, report_of, turned

HOSTILE = (
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(1)>",
    "<!-- <script> a \u2028 b \u2029 c",
    "NUL \x00 and \u202e right to left",
    "&quot; ' \" {{ 7*7 }} &lt;",
    "x" * 10_000,
)
SHOTS = (
    *(Shot(data=encoded(n), caption=text) for n, text in enumerate(HOSTILE)),
    Shot(data=encoded(10, "PNG"), extension="png", format="PNG", label="7", caption=None),
    Shot(data=encoded(11, "TIFF"), extension="tif", format="TIFF"),
    Shot(data=turned(12), exif_orientation=6),
    Shot(data=encoded(13, size=(900, 700)), url="https://example.org/a.jpg"),
    Shot(data=encoded(14, "WEBP"), url="javascript:alert(1)", format="WEBP"),
    Shot(data=encoded(15), url="HTTPS://example.org/ <b>"),
)


class Page(HTMLParser):
    """The elements of a page with their attributes, and the text of its script elements."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.inside: dict[str, str] = {}
        self.open = ""
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.open = dict(attrs).get("id") or tag

    def handle_endtag(self, tag: str) -> None:
        self.open = ""

    def handle_data(self, data: str) -> None:
        self.inside[self.open] = self.inside.get(self.open, "") + data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def rows(self, name: str) -> list[Json]:
        table = json.loads(self.inside["data"])[name]
        return [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]


def page_of(store: Store, folder: Path, **wishes: object) -> Page:
    """Write the report of a join and read its page."""
    return Page(report_of(store, folder, **wishes))


@pytest.fixture(scope="session")
def page_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Path]:
    """A run with every kind of shot, and the folder of its join."""
    return make_run(tmp_path_factory.mktemp("report"), SHOTS)


@pytest.fixture(scope="session")
def page(page_run: tuple[Store, Path]) -> Page:
    """Its page, to be looked at only."""
    return page_of(*page_run)
