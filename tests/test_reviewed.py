"""Pairs of a run as labelled sets: those that reviewers wrote about, and the selected."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from miner.errors import LabelError, ShardError, StoreError
from miner.measuring.reviewed import read_reviews, read_selected
from miner.review import Decision
from miner.reviewing.kept import keep_decisions
from miner.store import Store
from tests.report_runs import Shot, encoded, make_run

SHOTS = [Shot(data=encoded(seed)) for seed in range(5)]


@pytest.fixture
def run(tmp_path: Path) -> Store:
    store, _ = make_run(tmp_path, SHOTS)
    return store


def pairs_of(store: Store) -> list[dict[str, Any]]:
    (name,) = store.joins()
    rows: list[dict[str, Any]] = store.read_table(f"pairs/{name}/selected.parquet").to_pylist()
    return rows


def decide(store: Store, pair: dict[str, Any], **said: Any) -> None:
    ids = {name: pair[name] for name in ("pair_id", "sha256_1", "sha256_2", "image_1", "image_2")}
    fields = {"reviewer": "a", "decision": "accept", "decided_at": datetime.now(UTC)}
    keep_decisions(store, [Decision(**{**ids, **fields, **said})])


def test_accepted_pairs_with_statements(run: Store) -> None:
    one, two, three, four = pairs_of(run)[:4]
    decide(run, one, pattern=4, statement_1="three", statement_2="four", option_1="3", option_2="4")
    decide(run, two, option_1="left", option_2="right")
    decide(run, three, statement_1="only one")
    decide(run, four, decision="reject", statement_1="x", statement_2="y")
    found = read_reviews(run)
    assert found.layout == "review"
    assert found.limits.max_pixels == 10**6
    items = {item.name: item for item in found.items}
    assert set(items) == {one["pair_id"], two["pair_id"]}
    first = items[one["pair_id"]]
    assert (first.subset, first.statements) == ("quantity and count", ("three", "four"))
    assert first.questions[0].options == ("3", "4")
    assert [q.id for q in first.questions] == [f"{one['pair_id']}-1", f"{one['pair_id']}-2"]
    bytes_of = {f"set/00000/{number:06d}": shot.data for number, shot in enumerate(SHOTS)}
    assert [image.read() for image in first.images] == [
        bytes_of[one["image_1"]],
        bytes_of[one["image_2"]],
    ]
    second = items[two["pair_id"]]
    assert (second.subset, second.statements) == ("no pattern", ("left", "right"))
    assert found.notes == (
        "1 of 3 accepted pairs have no two statements or options and are left out",
    )


def test_nothing_to_measure(run: Store) -> None:
    with pytest.raises(LabelError, match="no labelled pair; no reviewer has accepted a pair"):
        read_reviews(run)
    decide(run, pairs_of(run)[0])
    with pytest.raises(LabelError, match="1 of 1 accepted pairs have no two statements"):
        read_reviews(run)


def test_a_pair_of_another_run(run: Store, tmp_path: Path) -> None:
    other, _ = make_run(tmp_path / "other", [Shot(data=encoded(seed)) for seed in range(20, 23)])
    decide(run, pairs_of(other)[0], statement_1="x", statement_2="y")
    with pytest.raises(LabelError, match=r"was accepted, but no sample has the sha256 [0-9a-f]+"):
        read_reviews(run)


def test_a_changed_shard_is_noticed(run: Store, tmp_path: Path) -> None:
    decide(run, pairs_of(run)[0], statement_1="x", statement_2="y")
    found = read_reviews(run)
    tar = tmp_path / "corpus" / "00000.tar"
    tar.write_bytes(tar.read_bytes().replace(b"JFIF", b"JFIX"))
    with pytest.raises(ShardError, match=r"the bytes of set/00000/.* the shard was changed"):
        found.items[0].images[0].read()


def test_selected_pairs(run: Store) -> None:
    (name,) = run.joins()
    pairs = pairs_of(run)
    decide(run, pairs[0], pattern=1)
    decide(run, pairs[1], decision="reject", pattern=2)
    found = read_selected(run, name)
    assert [item.name for item in found.items] == [
        pair["pair_id"] for pair in pairs if pair is not pairs[1]
    ]
    assert [item.subset for item in found.items[:2]] == ["orientation and direction", "no pattern"]
    assert found.notes == ("1 pairs that reviewers rejected are left out",)
    few = read_selected(run, name, limit=2)
    assert [item.name for item in few.items] == [pairs[0]["pair_id"], pairs[2]["pair_id"]]
    assert few.notes[-1] == f"the first 2 of {len(pairs) - 1} pairs by rank"


def test_no_selection(run: Store) -> None:
    with pytest.raises(StoreError, match="holds no whole selection; run `blindpairs select"):
        read_selected(run, "none")


def test_samples_that_are_gone(run: Store) -> None:
    (name,) = run.joins()
    run.withdraw("samples", "set.00000")
    with pytest.raises(LabelError, match=r"name 5 images that are no samples of .*/000000"):
        read_selected(run, name)
