from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from miner import object_files, objects
from miner.errors import StoreError
from miner.files import Bytes, put_own
from miner.object_files import ObjectFiles
from tests.buckets import free_port, reach


@pytest.fixture
def files(s3: str) -> ObjectFiles:
    return ObjectFiles(f"{s3}/a run")


def test_one_of_many_racing_writers_wins(files: ObjectFiles) -> None:
    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(lambda n: files.put("deep/record.json", str(n).encode()), range(16)))
    assert sum(won) == 1
    assert files.read("deep/record.json") == str(won.index(True)).encode()
    assert files.names("deep") == ["record.json"]


def test_no_update_is_lost(files: ObjectFiles) -> None:
    def count(_: int) -> None:
        files.update("n", lambda data: str(int(data or b"0") + 1).encode())

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(count, range(24)))
    assert files.read("n") == b"24"
    files.update("n", lambda _: None)
    assert files.read("n") == b"24"


def test_an_update_gives_up_where_others_are_always_faster(
    files: ObjectFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_files, "MAX_SWAPS", 2)

    def late(data: bytes | None) -> bytes:
        files.write("n", (data or b"") + b"x")
        return b"mine"

    with pytest.raises(StoreError, match=r"replaced it 2 times .* run the same command again"):
        files.update("n", late)


def test_what_lies_where(files: ObjectFiles) -> None:
    for path in ("b/2", "b/c/1", "a~b 95%", "bb"):
        files.write(path, path.encode())
    assert [entry.path for entry in files.below("b")] == ["b/2", "b/c/1"]
    assert [entry.num_bytes for entry in files.below("b")] == [3, 5]
    assert files.names("b") == ["2", "c"]
    assert files.names("") == ["a~b 95%", "b", "bb"]
    assert files.below("x") == files.names("x") == []
    assert files.exists("a~b 95%")
    assert not files.exists("b")
    assert list(files.read_many(["b/c/1", "bb"])) == [b"b/c/1", b"bb"]
    with pytest.raises(FileNotFoundError, match="run/nope is not there"):
        files.read("nope")
    (before,) = (entry.version for entry in files.below("") if entry.path == "bb")
    files.write("bb", b"other")
    assert before not in {entry.version for entry in files.below("")}


def test_deleting_and_moving(files: ObjectFiles) -> None:
    for path in ("a/1", "a/b/2", "c"):
        files.write(path, path.encode())
    files.move_folder("a", "moved")
    assert [entry.path for entry in files.below("")] == ["c", "moved/1", "moved/b/2"]
    assert files.read("moved/b/2") == b"a/b/2"
    files.delete("c", prune=True)
    files.delete("c")
    files.delete_folder("moved")
    files.delete_folder("moved")
    assert files.below("") == []


def test_new_folder_takes_the_old_ones_place_or_leaves_it(files: ObjectFiles) -> None:
    files.write("report/old", b"")
    with pytest.raises(FileNotFoundError), files.new_folder("report") as folder:
        (folder / "no folder" / "file").touch()
    assert files.names("report") == ["old"]
    assert not folder.exists()
    with files.new_folder("report") as folder:
        (folder / "in").mkdir()
        (folder / "in" / "new").write_bytes(b"n")
    assert [entry.path for entry in files.below("report")] == ["report/in/new"]
    assert not folder.exists()


def test_lines_are_files_of_their_own(files: ObjectFiles) -> None:
    files.append("metrics/embed.jsonl", "{}")
    files.append("metrics/embed.jsonl", "[]")
    names = files.names("metrics")
    assert len(names) == 2
    assert all(name.startswith("embed.") and name.endswith(".jsonl") for name in names)
    assert sorted(files.read(f"metrics/{name}") for name in names) == [b"[]\n", b"{}\n"]


def test_large_objects_have_large_parts(
    files: ObjectFiles, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """S3 takes 10,000 parts of at least 5 MiB."""
    assert object_files.part_bytes(1) == object_files.part_bytes(40 * 2**30) == 5 * 2**20
    assert 100 * 2**30 / object_files.part_bytes(100 * 2**30) < 10_000
    monkeypatch.setattr(object_files, "MOST_PARTS", 2)
    data = np.random.default_rng(0).bytes(13 * 2**20)
    files.write("written", data)
    with files.new_folder("folder") as folder:
        (folder / "uploaded").write_bytes(data)
    for path in ("written", "folder/uploaded"):
        assert files.read(path) == data
        # The storage's own mark tells the number of parts.
        (entry,) = (entry for entry in files.below("") if entry.path == path)
        assert '-2"' in entry.version


@pytest.mark.parametrize("whole_bytes", [0, 2**30])
def test_a_table_is_read_whole_or_in_parts(
    files: ObjectFiles, monkeypatch: pytest.MonkeyPatch, whole_bytes: int
) -> None:
    table = pa.table({"a": np.arange(400_000), "b": np.random.default_rng(0).random(400_000)})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="none")
    files.write("t.parquet", memoryview(sink.getvalue()).cast("B"))
    monkeypatch.setattr(object_files, "WHOLE_BYTES", whole_bytes or 2**20)
    with files.open("t.parquet") as file:
        assert pq.ParquetFile(file).read(["b"]) == table.select(["b"])
    assert len(files.sha256("t.parquet")) == 64
    with pytest.raises(FileNotFoundError):
        files.open("nope")
    with pytest.raises(FileNotFoundError):
        files.sha256("nope")


class LosingAnswers(ObjectFiles):
    """A bucket that does what is asked, and then says that it failed."""

    def put(self, path: str, data: Bytes) -> bool:
        super().put(path, data)
        raise StoreError("the answer is lost")


def test_own_commit_is_known_after_a_lost_answer(s3: str) -> None:
    assert put_own(LosingAnswers(s3), "mine", b"own")
    assert not put_own(LosingAnswers(s3), "mine", b"other")


def test_a_bucket_that_is_not_there(s3: str) -> None:
    files = ObjectFiles(f"{s3}-gone/run")
    for ask in (
        lambda: files.read("a"),
        lambda: files.put("a", b""),
        lambda: files.write("a", b""),
        lambda: files.update("a", lambda _: b""),
        lambda: files.below(""),
    ):
        with pytest.raises(StoreError, match=r"no such bucket; create it, or see to the URL"):
            ask()


def test_an_endpoint_that_is_down_is_told_and_never_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reach(monkeypatch, f"http://127.0.0.1:{free_port()}")
    monkeypatch.setattr(objects, "MAX_RETRIES", 1)
    files = ObjectFiles("s3://bucket/down")
    for ask in (lambda: files.read("a"), lambda: files.put("a", b""), lambda: files.below("")):
        with pytest.raises(StoreError, match=r"after 1 retries.*see whether the storage can be"):
            ask()


def test_scratch_is_no_part_of_the_bucket(s3: str, tmp_path: Path) -> None:
    from miner.run_place import SCRATCH
    from miner.store import Store

    assert Store(s3).scratch.is_relative_to(SCRATCH.expanduser())
    assert Store(tmp_path).scratch == tmp_path / "packed"
    assert Store(s3).name == s3.removeprefix("s3://")
