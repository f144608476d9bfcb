"""Fixtures and options that several test files use."""

from collections.abc import Generator

import pytest

from tests.breaking import server
from tests.buckets import s3, s3_server
from tests.commands import commands
from tests.exports import exported, large_clip, large_weights
from tests.handoff_runs import reviewed
from tests.report_pages import page, page_run
from tests.review_runs import review_run, served_run
from tests.serving import held, index, live

__all__ = [
    "commands",
    "exported",
    "held",
    "index",
    "large_clip",
    "large_weights",
    "live",
    "page",
    "page_run",
    "review_run",
    "reviewed",
    "s3",
    "s3_server",
    "served_run",
    "server",
]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-skips", action="store_true", help="a skipped test is a failure")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if item.config.getoption("--no-skips") and report.skipped:
        report.outcome = "failed"
    return report
