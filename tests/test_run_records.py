from pathlib import Path

import pytest

from miner.config import JoinSettings, SelectSettings
from miner.errors import StoreError
from miner.files import LocalFiles
from miner.join import join
from miner.run_records import RunRecords, is_record
from miner.select import select
from miner.store import Store
from tests.runs import CLIP, DINO, make_store


class Counting(LocalFiles):
    """A folder that counts what is looked for."""

    num_asked = 0

    def read(self, path: str) -> bytes:
        self.num_asked += 1
        return super().read(path)

    def exists(self, path: str) -> bool:
        self.num_asked += 1
        return super().exists(path)


def test_commits_are_read_once_while_they_are_remembered(tmp_path: Path) -> None:
    make_store(tmp_path, num_shards=2)
    files = Counting(tmp_path)
    store = Store(tmp_path, files=files)
    stages = store.stages()
    assert len(stages) == 3
    with store.remembering():
        assert files.num_asked == 6
        for _ in range(2):
            for stage in stages:
                for shard_id in store.committed(stage):
                    assert store.is_committed(stage, shard_id)
                    assert store.record(stage, shard_id)["files"]
        assert files.num_asked == 6
        # What is committed meanwhile is found; what is taken back is not there any more.
        assert not store.is_committed("samples", "set.00007")
        assert store.commit("samples", "set.00007", [], {})
        assert store.is_committed("samples", "set.00007")
        store.withdraw(f"vectors/{CLIP}", "set.00001")
        assert not store.is_committed(f"vectors/{CLIP}", "set.00001")
    number = files.num_asked
    assert store.record("samples", "set.00000")["files"]
    assert files.num_asked == number + 1


def test_records_are_told_by_their_place() -> None:
    assert is_record("commits/samples/a.1.json")
    assert is_record("pairs/a~b/join.json")
    assert not is_record("commits/samples/.a.1.json.aa.unfinished")
    assert not is_record("commits/samples/.a.json")
    assert not is_record("pairs/a~b/raw/part-00000.parquet")
    assert not is_record("pairs/a~b/report/join.json")
    assert not is_record("join.json")


@pytest.mark.parametrize("damage", [b"", b"{", b'{"files": []}'])
def test_damaged_records_are_told_with_their_place(tmp_path: Path, damage: bytes) -> None:
    records = RunRecords(LocalFiles(tmp_path), "s3://bucket/run", in_bucket=False)
    records.replace("commits/samples/a.json", {"files": []})
    assert records.read("commits/samples/a.json") == {"files": []}
    (tmp_path / "commits" / "samples" / "a.json").write_bytes(damage)
    with pytest.raises(StoreError, match=r"^s3://bucket/run/commits/samples/a.json .*remove it"):
        records.read("commits/samples/a.json")
    with pytest.raises(StoreError, match=r"^s3://bucket/run/commits/samples/b.json cannot be"):
        records.read("commits/samples/b.json")


def test_records_are_read_once_to_know_what_they_name(tmp_path: Path) -> None:
    make_store(tmp_path, num_shards=2)
    files = Counting(tmp_path)
    records = RunRecords(files, str(tmp_path), in_bucket=False)
    named = records.named()
    number = files.num_asked
    assert records.named() == named
    assert files.num_asked == number
    Store(tmp_path).withdraw(f"vectors/{CLIP}", "set.00001")
    assert len(records.named()) == len(named) - 1
    assert records.leftovers() == []


def test_leftovers_are_what_no_record_names(tmp_path: Path) -> None:
    store = make_store(tmp_path, num_shards=1)
    join(store, CLIP, DINO, JoinSettings(clip_above=0.9, dino_below=0.3), SelectSettings())
    (name,) = store.joins()
    select(store, name, SelectSettings())
    assert store.leftovers() == []
    planted = [
        "samples/set.00000.dead.parquet",
        "quarantine/set.00000.dead.parquet",
        f"vectors/{DINO}/set.00000.dead.parquet",
        "samples/.set.00000.dead2.parquet.unfinished",
        "samples/set.00001.never-committed.parquet",
        "commits/samples/.set.00000.json.aa.unfinished",
        ".run.json.aa.unfinished",
        f"pairs/{name}/.join.json.aa.unfinished",
        f"pairs/{name}/report/.index.html.aa.unfinished",
        f"pairs/{name}/raw.dead/part-00000.parquet",
    ]
    for path in planted:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    assert sorted(store.leftovers()) == sorted(planted)
