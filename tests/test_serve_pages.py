"""Pages: where `/` leads, and an API page that says all of the document and runs nothing of it."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from pipelines.serving.pages import DOCS
from tests.serving import Live, called, settings_of


def test_without_an_index_home_is_the_description() -> None:
    async def run() -> None:
        async with called(settings_of()) as client:
            home = await client.get("/")
            assert (home.status_code, home.headers["location"]) == (307, "docs")
            report = await client.get("/report/index.html")
            assert (report.status_code, report.json()["error"]["code"]) == (404, "no_index")

    asyncio.run(run())


def test_the_page_says_every_route_and_parameter(live: Live) -> None:
    document = live.app.openapi()
    with live.client() as client:
        page = client.get("/docs")
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
    headings = re.findall(r"<h2>([A-Z]+) (\S+)</h2>", page.text)
    assert sorted(headings) == sorted(
        (method.upper(), path) for path, methods in document["paths"].items() for method in methods
    )
    words = set(re.findall(r"<code>(\w+)</code>", page.text))
    assert {"encoders", "min_gap", "cursor", "input", "image_id", "clip_above"} <= words


def test_what_stands_in_a_description_is_text() -> None:
    evil = "<script>alert(1)</script>"
    route: dict[str, Any] = {
        "summary": evil,
        "parameters": [{"name": evil, "in": "query", "description": evil}],
        "requestBody": {
            "content": {evil: {"schema": {"properties": {evil: {"description": evil}}}}}
        },
        "responses": {evil: {}},
    }
    given = {"title": evil, "version": evil, "description": evil}
    page = DOCS.render(**given, paths={evil: {"get": route}})
    assert "<script" not in page
    assert page.count("&lt;script&gt;") == 12


@pytest.mark.parametrize("name", ["", "index.html"])
def test_the_report_has_a_policy_of_its_own(live: Live, name: str) -> None:
    with live.client() as client:
        page = client.get(f"/report/{name}")
    assert page.status_code == 200
    # A report carries its own policy inside; the service only keeps it out of others' frames.
    assert page.headers["content-security-policy"] == "frame-ancestors 'none'"
    assert "Content-Security-Policy" in page.text
