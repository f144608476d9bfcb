"""Runs whose pairs are to be reviewed, with their reports."""

from __future__ import annotations

from pathlib import Path

import pytest

from miner.reviewing.suggestions import Suggestion
from miner.store import Store
from tests.report_runs import Shot, encoded, make_run, report_of
from tests.reviews import selected_rows

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


@pytest.fixture(scope="session")
def review_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of 15 pairs, its report, and a suggestion on the second pair."""
    store, folder = make_run(tmp_path_factory.mktemp("review"), SHOTS)
    report_of(store, folder, suggestions=suggestions_on(folder))
    return store, folder


def suggestions_on(folder: Path) -> dict[str, Suggestion]:
    """For the second pair, as whoever saw its images the other way round would say it."""
    row = selected_rows(folder)[1]
    said = Suggestion(
        pair_id=row["pair_id"],
        sha256_1=row["sha256_2"],
        pattern=4,
        difference="<b>more</b> of them",
        option_1="of image 2",
        option_2="of image 1",
    )
    return {said.pair_id: said}


@pytest.fixture(scope="session")
def served_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of 3 pairs and its report."""
    shots = [Shot(data=encoded(n)) for n in range(3)]
    store, folder = make_run(tmp_path_factory.mktemp("server"), shots)
    report_of(store, folder)
    return store, folder
