import logging
from pathlib import Path

import numpy as np
import pytest

from miner.audit import collect_garbage, verify
from miner.config import JoinSettings, SelectSettings
from miner.errors import StoreError
from miner.join import join
from miner.records import read_record, replace_record
from miner.reviewing.kept import keep_decisions
from miner.run_records import RunRecords
from miner.select import select
from miner.store import Store
from miner.tables import vector_table
from tests.reviews import said_of_number
from tests.runs import CLIP, DINO, commit_shard, make_store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = make_store(tmp_path)
    settings = JoinSettings(clip_above=0.9, dino_below=0.3)
    join(store, CLIP, DINO, settings, SelectSettings())
    select(store, store.joins()[0], SelectSettings())
    return store


def problems(store: Store) -> list[str]:
    return [f"{finding.path}: {finding.problem}" for finding in verify(store)]


def test_sound_run_has_no_findings(store: Store) -> None:
    assert verify(store) == []


@pytest.mark.parametrize(
    "pattern",
    [
        "samples/*.parquet",
        "quarantine/*.parquet",
        "vectors/clip*/*.parquet",
        "pairs/*/raw/*.parquet",
        "pairs/*/histogram.parquet",
        "pairs/*/selected.parquet",
    ],
)
@pytest.mark.parametrize("how", ["missing", "changed"])
def test_any_damaged_file_is_named(store: Store, pattern: str, how: str) -> None:
    path = next(store.root.glob(pattern))
    if how == "missing":
        path.unlink()
    else:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    assert any(path.relative_to(store.root).as_posix() in line for line in problems(store))


@pytest.mark.parametrize(
    "pattern", ["commits/samples/*", "commits/vectors/*/*", "pairs/*/join.json"]
)
def test_edited_record_is_named(store: Store, pattern: str) -> None:
    path = next(store.root.glob(pattern))
    path.write_text(path.read_text().replace("0", "1", 1))
    assert any("was cut or edited" in line for line in problems(store))


def change(store: Store, stage: str, **fields: object) -> None:
    path = store.root / store.commit_path(stage, "set.00000")
    record = read_record(path)
    replace_record(path, {**record, **fields})


def test_law_of_the_shard_is_checked(store: Store) -> None:
    change(store, "samples", num_samples=61)
    assert any("61 samples were read, but 60 are decodable and 0" in p for p in problems(store))


def test_bytes_are_checked(store: Store) -> None:
    change(store, "samples", bytes={"headers": 512})
    assert any("512 of 10240 bytes are accounted for" in p for p in problems(store))


def test_vectors_of_other_samples_are_found(store: Store) -> None:
    change(store, f"vectors/{CLIP}", samples_sha256="0" * 64)
    assert any("made from other samples" in p for p in problems(store))


def test_wrong_length_and_missing_vectors_are_found(store: Store) -> None:
    image_ids, vectors = store.vectors(CLIP, "set.00000")
    for rows, message in (
        (vectors * np.float16(0.5), "has length 0."),
        (vectors * np.float16("nan"), "has length nan"),
        (vectors[:-1], "59 vectors and 0 refusals for 60 samples"),
    ):
        entry = store.write_table(
            vector_table(image_ids[: len(rows)], rows), f"vectors/{CLIP}", "set.00000.x.parquet"
        )
        change(
            store,
            f"vectors/{CLIP}",
            files=[{"path": entry.path, "rows": entry.rows, "sha256": entry.sha256}],
        )
        assert any(message in p for p in problems(store)), message


def test_garbage_is_what_no_commit_names(store: Store) -> None:
    stray = store.root / "samples" / "set.00000.dead.parquet"
    dead = store.root / "pairs" / store.joins()[0] / "raw.dead" / "part-00000.parquet"
    dead.parent.mkdir()
    for path in (stray, dead):
        path.write_bytes(b"half")
    with store.writing():
        assert collect_garbage(store) == []
    assert len(collect_garbage(store)) == 2
    assert not stray.exists()
    assert not dead.parent.exists()
    assert verify(store) == []


def test_it_is_said_that_garbage_is_kept(
    store: Store, s3: str, caplog: pytest.LogCaptureFixture
) -> None:
    bucket = Store(f"{s3}/run")
    with caplog.at_level(logging.INFO):
        for each, level in ((store, logging.INFO), (bucket, logging.WARNING)):
            collect_garbage(each)
            assert caplog.records == []
            with each.writing():
                assert collect_garbage(each) == []
            (record,) = caplog.records
            assert record.levelno == level
            assert "`blindpairs verify --gc` removes it later" in record.getMessage()
            caplog.clear()


def test_a_folder_that_joins_left_empty_goes(store: Store) -> None:
    store.scratch.mkdir(exist_ok=True)
    collect_garbage(store, spare=("packed",))
    with store.writing():
        collect_garbage(store)
    assert store.scratch.is_dir()
    collect_garbage(store)
    assert not store.scratch.exists()


def test_what_is_committed_during_garbage_collection_stays(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = RunRecords.named

    def commit_late(self: RunRecords) -> set[str]:
        vectors = [store.vectors(encoder, "set.00000")[1][:4] for encoder in (CLIP, DINO)]
        commit_shard(store, "00007", *vectors)
        monkeypatch.setattr(RunRecords, "named", real)
        return real(self)

    monkeypatch.setattr(RunRecords, "named", commit_late)
    assert collect_garbage(store) == []
    assert verify(store) == []
    assert "set.00007" in store.committed("samples")


def test_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="holds no run"):
        verify(Store(tmp_path / "nowhere"))


def test_decisions_of_reviewers_are_checked_and_never_garbage(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    keep_decisions(store, [said_of_number(1, "ann", decision="accept")])
    store.files.write("review/disputes.csv", b"about,pair_id,reviewer,said\n")
    unfinished = tmp_path / "review" / ".ann.jsonl.0123.unfinished"
    unfinished.touch()
    assert verify(store) == []
    assert collect_garbage(store) == ["review/.ann.jsonl.0123.unfinished"]
    assert store.files.names("review") == ["ann.jsonl", "disputes.csv"]
    store.files.write("review/bob.jsonl", store.files.read("review/ann.jsonl"))
    store.files.write("review/cyd.jsonl", b"{}\n")
    foreign, damaged = verify(store)
    assert foreign.path == "review/bob.jsonl"
    assert foreign.problem == "holds decisions of ann; `blindpairs review merge` sorts them"
    assert damaged.path == "review/cyd.jsonl"
    assert "the file: line 1 is no decision" in damaged.problem
    assert collect_garbage(store) == []
