from pathlib import Path

import pyarrow as pa
import pytest

from miner.errors import StoreError
from miner.handoff.settings import HandoffSettings
from miner.handoff.source import public_shard, public_url, read_source
from miner.records import replace_record
from miner.reviewing.kept import keep_decisions
from miner.store import Store
from tests.commands import Commands
from tests.handoff_runs import QUESTION, decision_on, many_shots, review, run_of, selected_of
from tests.mined import selected
from tests.small import write_corpus


def read(store: Store, **settings: object):  # type: ignore[no-untyped-def]
    return read_source(store, store.joins()[0], HandoffSettings(**settings))  # type: ignore[arg-type]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return run_of(tmp_path, many_shots(4))


def test_without_reviews_every_selected_pair_is_taken(store: Store) -> None:
    source = read(store)
    assert source.reviewed == "all"
    assert [pair["rank"] for pair in source.handoff.pairs] == [1, 2, 3, 4, 5, 6]
    assert source.handoff.facts.num_accepted is None
    assert source.handoff.pairs[0]["decision"] is None


def test_with_reviews_the_accepted_pairs_are_taken(store: Store) -> None:
    rows = selected_of(store)
    review(store, rows[1:3], **QUESTION)
    review(store, rows[3:4], decision="reject")
    review(store, rows[4:5], decision=None, difference="unsure")
    source = read(store)
    assert source.reviewed == "accepted"
    assert [pair["rank"] for pair in source.handoff.pairs] == [2, 3]
    assert source.handoff.facts.num_accepted == 2
    everything = read(store, reviewed="all").handoff.pairs
    assert [pair["decision"] for pair in everything] == [
        *(None, "accept", "accept", "reject", None, None)
    ]
    assert [pair["num_reviewers"] for pair in everything] == [0, 1, 1, 1, 0, 0]
    assert everything[4]["difference"] == "unsure"
    assert [pair["rank"] for pair in read(store, limit=1).handoff.pairs] == [2]


def test_words_without_a_decision_are_no_review(store: Store) -> None:
    review(store, selected_of(store)[:2], decision=None, difference="to be looked at")
    source = read(store)
    assert source.reviewed == "all"
    assert len(source.handoff.pairs) == 6
    assert source.handoff.facts.num_accepted is None
    assert source.handoff.pairs[0]["difference"] == "to be looked at"


def test_options_stand_for_statements_that_were_not_given(store: Store) -> None:
    review(store, selected_of(store)[:1], **QUESTION)
    (pair,) = read(store).handoff.pairs
    assert (pair["statement_1"], pair["statement_2"]) == ("one of 1", "two of 1")


def test_what_reviewers_do_not_agree_on_is_not_accepted(store: Store) -> None:
    row = selected_of(store)[0]
    words = [decision_on(row), decision_on(row, reviewer="bob", decision="reject")]
    keep_decisions(store, words)
    with pytest.raises(StoreError, match="none of 6 selected pairs is to be handed off"):
        read(store)
    assert read(store, reviewed="all").handoff.pairs[0]["num_reviewers"] == 2


def test_accepted_pairs_that_are_not_selected_are_counted(tmp_path: Path, store: Store) -> None:
    other = run_of(tmp_path / "other", many_shots(5))
    review(store, selected_of(other))
    assert len(read(store).handoff.pairs) == 6
    assert read(store).num_elsewhere == 4


def test_pairs_of_the_same_bytes_are_handed_off_once(store: Store) -> None:
    name = store.joins()[0]
    table = store.read_table(f"pairs/{name}/selected.parquet")
    record = store.join_record(name)
    assert record is not None
    again = store.write_table(pa.concat_tables([table, table]), f"pairs/{name}", "twice.parquet")
    record["selection"]["file"] = {"path": again.path, "rows": 12, "sha256": again.sha256}
    replace_record(store.root / "pairs" / name / "join.json", record)
    source = read(store)
    assert len(source.handoff.pairs) == 6
    assert source.num_repeated == 6


def test_a_selection_that_is_not_whole_is_refused(store: Store) -> None:
    name = store.joins()[0]
    (store.root / "pairs" / name / "selected.parquet").unlink()
    with pytest.raises(StoreError, match="holds no whole selection; run `blindpairs select"):
        read(store)


def test_missing_samples_are_told(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("miner.handoff.source.samples_of", lambda runs, wanted: {})
    with pytest.raises(StoreError, match="name 4 images that are no samples of"):
        read(store)


def test_a_mined_run_tells_its_encoders(commands: Commands, tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus", num_shards=2)
    assert commands.mine(*corpus, "--out", tmp_path / "run").code == 0
    store = Store(tmp_path / "run")
    facts = read(store).handoff.facts
    commit = store.record(f"vectors/{facts.clip.encoder_id}", store.committed("samples")[0])
    assert facts.clip.name == "small-clip"
    assert facts.clip.weights_sha256 == commit["encoder"]["weights_sha256"]
    assert len(facts.clip.weights_sha256 or "") == 64
    assert facts.dino.licence == commit["encoder"]["licence"]
    assert facts.clip_above == 0.9
    assert facts.datasets == (selected(tmp_path / "run")[0]["image_1"].split("/")[0],)
    assert facts.version


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (None, None),
        ("https://a.example/x.jpg?w=10&h=20", "https://a.example/x.jpg?w=10&h=20"),
        ("https://me:pw@a.example/x.jpg", "https://a.example/x.jpg"),
        ("https://a.example/x.jpg?X-Amz-Signature=1", "https://a.example/x.jpg"),
        ("http://[bad", "http://[bad"),
        ("http://me@[bad?token=1", "http://[bad"),
        ("javascript:alert(1)", "javascript:alert(1)"),
    ],
)
def test_urls_are_shown_without_secrets(url: str | None, shown: str | None) -> None:
    assert public_url(url) == shown


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("/home/ann/laion/00000.tar", "00000.tar"),
        ("file:///home/ann/laion/00000.tar", "00000.tar"),
        ("/home/ann/tree/", "tree"),
        ("s3://bucket/laion/00000.tar", "s3://bucket/laion/00000.tar"),
        ("https://me:pw@a.example/00000.tar", "https://a.example/00000.tar"),
    ],
)
def test_shards_are_shown_without_local_folders(url: str, shown: str) -> None:
    assert public_shard(url) == shown
