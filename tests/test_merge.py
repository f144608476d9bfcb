"""Files of several reviewers, merged into a run."""

from collections import Counter
from pathlib import Path

import pytest

from miner.errors import StoreError
from miner.reviewing import merge
from miner.reviewing.kept import decisions_of
from miner.reviewing.merge import merge_reviews
from miner.store import Store
from tests.report_runs import Shot, encoded, make_run
from tests.reviews import said_of, said_of_number, selected_rows, write_review


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Path]:
    return make_run(tmp_path_factory.mktemp("merge"), [Shot(data=encoded(n)) for n in range(5)])


@pytest.fixture
def store(run: tuple[Store, Path]) -> Store:
    run[0].files.delete_folder("review")
    return run[0]


def test_files_are_kept_and_compared(store: Store, run: tuple[Store, Path], tmp_path: Path) -> None:
    rows = selected_rows(run[1])
    ann = [
        said_of(rows[0], "ann", decision="accept", pattern=3),
        said_of(rows[1], "ann", decision="reject"),
    ]
    bob = [
        said_of(rows[0], "bob", decision="accept", pattern=3),
        said_of(rows[1], "bob", decision="accept"),
        said_of(rows[2], "bob", decision=None, difference="not sure"),
    ]
    found = merge_reviews(
        store, [write_review(tmp_path / "1", *ann), write_review(tmp_path / "2", *bob)]
    )
    assert {who: dict(counts) for who, counts in found.reviewers.items()} == {
        "ann": {"accept": 1, "reject": 1, "pattern": 1},
        "bob": {"accept": 2, "undecided": 1, "pattern": 1},
    }
    assert found.outcome == Counter(accept=1, undecided=2, pattern=1)
    assert [(each.pair_id, each.about) for each in found.disputes] == [
        (rows[1]["pair_id"], "decision")
    ]
    assert found.unknown == []
    assert len(found.agreements) == 2
    assert {said.line() for said in decisions_of(store)} == {said.line() for said in ann + bob}
    assert store.files.read("review/disputes.csv").decode().count("\n") == 3


def test_later_decisions_stand_whichever_file_comes_first(
    store: Store, run: tuple[Store, Path], tmp_path: Path
) -> None:
    row = selected_rows(run[1])[0]
    new = write_review(tmp_path / "new", said_of(row, "ann", decision="reject", minutes=5))
    old = write_review(tmp_path / "old", said_of(row, "ann", decision="accept"))
    merge_reviews(store, [new, old])
    merge_reviews(store, [old])
    assert [said.decision for said in decisions_of(store)] == ["reject"]


def test_unknown_pairs_are_named_and_kept(
    store: Store, run: tuple[Store, Path], tmp_path: Path
) -> None:
    known = said_of(selected_rows(run[1])[0], "ann", decision="accept")
    unknown = said_of_number(1, "ann", decision="accept")
    found = merge_reviews(store, [write_review(tmp_path / "1", known, unknown)])
    assert found.unknown == [unknown.pair_id]
    assert len(decisions_of(store)) == 2


def test_nothing_is_kept_where_a_line_is_damaged(
    store: Store, run: tuple[Store, Path], tmp_path: Path
) -> None:
    good = write_review(tmp_path / "1", said_of(selected_rows(run[1])[0], "ann"))
    bad = tmp_path / "2"
    bad.write_text('{"pair_id": 1}\n')
    with pytest.raises(StoreError, match="line 1 is no decision"):
        merge_reviews(store, [good, bad])
    assert decisions_of(store) == []


def test_a_file_that_is_too_large_is_refused(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merge, "MAX_FILE_BYTES", 10)
    (tmp_path / "large").write_text(" " * 11)
    with pytest.raises(StoreError, match="has 11 bytes, limit 10; is it a file of decisions"):
        merge_reviews(store, [tmp_path / "large"])


def test_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="holds no run"):
        merge_reviews(Store(tmp_path / "nowhere"), [])
    assert not (tmp_path / "nowhere").exists()
