"""Pages: where `/` leads, and under which policies what is shown is shown."""

from __future__ import annotations

import asyncio

import pytest

from tests.serving import Live, called, settings_of


def test_without_an_index_home_is_the_description() -> None:
    async def run() -> None:
        async with called(settings_of()) as client:
            home = await client.get("/")
            assert (home.status_code, home.headers["location"]) == (307, "docs")
            report = await client.get("/report/index.html")
            assert (report.status_code, report.json()["error"]["code"]) == (404, "no_index")

    asyncio.run(run())


def test_the_page_about_the_api_runs_and_loads_nothing(live: Live) -> None:
    with live.client() as client:
        page = client.get("/docs")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "frame-ancestors 'none'" in policy
    assert "script" not in policy


@pytest.mark.parametrize("name", ["", "index.html"])
def test_the_report_has_a_policy_of_its_own(live: Live, name: str) -> None:
    with live.client() as client:
        page = client.get(f"/report/{name}")
    assert page.status_code == 200
    # A report carries its own policy inside; the service only keeps it out of others' frames.
    assert page.headers["content-security-policy"] == "frame-ancestors 'none'"
    assert "Content-Security-Policy" in page.text
