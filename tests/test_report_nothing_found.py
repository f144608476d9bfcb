from pathlib import Path

import pytest

from miner.config import JoinSettings, SelectSettings
from miner.join import join
from miner.report import write_report
from miner.reporting.nothing_found import why_nothing
from miner.select import select
from miner.store import Store
from tests.report_runs import Shot, encoded, make_run
from tests.runs import CLIP, DINO


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A run all of whose pairs have one CLIP cosine and one DINO cosine."""
    shots = [Shot(data=encoded(number)) for number in range(4)]
    return make_run(tmp_path_factory.mktemp("nothing"), shots)[0]


def said(store: Store, **how: float) -> tuple[str | None, str]:
    """What is said of a join with these thresholds, and its report."""
    before = set(store.joins())
    join(store, CLIP, DINO, JoinSettings(**how), SelectSettings())
    (name,) = set(store.joins()) - before
    select(store, name, SelectSettings())
    record = store.read_record(f"pairs/{name}/join.json")
    return why_nothing(store, name, record), Path(write_report(store, name)).read_text("utf-8")


def test_a_join_with_pairs_says_nothing(store: Store) -> None:
    name = store.joins()[0]
    assert why_nothing(store, name, store.read_record(f"pairs/{name}/join.json")) is None


def test_without_a_candidate_the_highest_cosine_is_told(store: Store) -> None:
    why, page = said(store, clip_above=0.999)
    assert why is not None
    assert why.startswith("No pair has a CLIP cosine > 0.999; of 6 random pairs, all are below 1.")
    assert "Give a smaller --clip-above" in why
    assert "all are below 1." in page


def test_without_a_blind_pair_the_lowest_cosine_is_told(store: Store) -> None:
    why, _ = said(store, dino_below=-0.9)
    assert why is not None
    assert why.startswith("No candidate has a DINO cosine < -0.9; the lowest is above ")
    assert "Give a larger --dino-below" in why
