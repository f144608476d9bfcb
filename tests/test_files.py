import errno
import multiprocessing
import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from miner.files import Bytes, LocalFiles, put_own


def test_put_never_overwrites(tmp_path: Path) -> None:
    files = LocalFiles(tmp_path)
    assert files.put("deep/record.json", b"first")
    assert not files.put("deep/record.json", b"second")
    assert files.read("deep/record.json") == b"first"
    assert files.names("deep") == ["record.json"]


def _race(root: str, number: int) -> bool:
    return LocalFiles(Path(root)).put("record.json", str(number).encode())


def test_one_of_many_racing_writers_wins(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        won = pool.starmap(_race, [(str(tmp_path), number) for number in range(32)])
    assert sum(won) == 1
    assert LocalFiles(tmp_path).read("record.json") == str(won.index(True)).encode()
    assert len(list(tmp_path.iterdir())) == 1


def _count(root: str, times: int) -> None:
    for _ in range(times):
        LocalFiles(Path(root)).update("n", lambda data: str(int(data or b"0") + 1).encode())


def test_no_update_is_lost(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        pool.starmap(_count, [(str(tmp_path), 20)] * 3)
    assert LocalFiles(tmp_path).read("n") == b"60"


def test_what_lies_where(tmp_path: Path) -> None:
    files = LocalFiles(tmp_path)
    for path in ("b/2", "b/c/1", "a"):
        files.write(path, path.encode())
    assert [entry.path for entry in files.below("b")] == ["b/2", "b/c/1"]
    assert [entry.num_bytes for entry in files.below("b")] == [3, 5]
    assert files.names("b") == ["2", "c"]
    assert files.below("x") == files.names("x") == []
    assert files.exists("a")
    assert not files.exists("b")
    assert list(files.read_many(["b/c/1", "a"])) == [b"b/c/1", b"a"]
    (before,) = (entry.version for entry in files.below("") if entry.path == "a")
    files.write("a", b"a")
    assert before not in {entry.version for entry in files.below("")}


def test_deleting_prunes_folders_that_are_empty_only_when_asked(tmp_path: Path) -> None:
    files = LocalFiles(tmp_path)
    for path in ("a/b/1", "a/b/2", "a/3"):
        files.write(path, b"")
    files.delete("a/b/1", prune=True)
    files.delete("a/b/2")
    assert files.names("a") == ["3", "b"]
    files.write("a/b/2", b"")
    files.delete("a/b/2", prune=True)
    files.delete("a/b/2")
    assert files.names("a") == ["3"]
    files.delete_folder("a")
    files.delete_folder("a")
    assert files.names("") == []


def test_a_folder_that_cannot_be_deleted_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = LocalFiles(tmp_path)
    files.delete_folder("not/there")
    files.write("a/b", b"")

    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr("os.unlink", refuse)
        with pytest.raises(PermissionError, match="Permission denied"):
            files.delete_folder("a")
    files.delete_folder("a")
    assert files.names("") == []


def test_new_folder_takes_the_old_ones_place_or_leaves_it(tmp_path: Path) -> None:
    files = LocalFiles(tmp_path)
    files.write("x/report/old", b"")
    with pytest.raises(FileNotFoundError), files.new_folder("x/report") as folder:
        (folder / "no folder" / "file").touch()
    assert files.names("x") == ["report"]
    assert files.names("x/report") == ["old"]
    with files.new_folder("x/report") as folder:
        (folder / "new").touch()
    assert files.names("x") == ["report"]
    assert files.names("x/report") == ["new"]


class LosingAnswers(LocalFiles):
    """A folder on which a put does what is asked, and then goes wrong."""

    def __init__(self, root: Path, before: Callable[[LocalFiles], object], error: bool) -> None:
        super().__init__(root)
        self.before, self.error = before, error

    def put(self, path: str, data: Bytes) -> bool:
        self.before(LocalFiles(self.root))
        won = super().put(path, data)
        if self.error:
            raise OSError(errno.EIO, "the answer is lost")
        return won


def test_own_file_is_known_after_a_lost_answer(tmp_path: Path) -> None:
    assert put_own(LosingAnswers(tmp_path, lambda _: None, error=True), "mine", b"own")
    assert LocalFiles(tmp_path).read("mine") == b"own"


@pytest.mark.parametrize("error", [True, False])
def test_the_storages_second_try_is_no_other_writer(tmp_path: Path, error: bool) -> None:
    files = LosingAnswers(tmp_path, lambda local: local.put("mine", b"own"), error)
    assert put_own(files, "mine", b"own")


@pytest.mark.parametrize("error", [True, False])
def test_another_writers_file_is_none_of_ours(tmp_path: Path, error: bool) -> None:
    files = LosingAnswers(tmp_path, lambda local: local.put("theirs", b"other"), error)
    assert not put_own(files, "theirs", b"own")
    assert files.read("theirs") == b"other"


class Failing(LocalFiles):
    """A folder to which nothing can be written."""

    def put(self, path: str, data: Bytes) -> bool:
        raise OSError(errno.ENOSPC, "no space left")


def test_a_put_that_did_nothing_still_fails(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="no space left"):
        put_own(Failing(tmp_path), "mine", b"own")


class Withdrawn(LocalFiles):
    """A folder in which another writer's file is there once, and is gone when it is read."""

    refused = 0

    def put(self, path: str, data: Bytes) -> bool:
        self.refused += 1
        return self.refused > 1 and super().put(path, data)


def test_a_file_that_was_taken_back_meanwhile_leaves_room(tmp_path: Path) -> None:
    files = Withdrawn(tmp_path)
    assert put_own(files, "mine", b"own")
    assert files.refused == 2


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    files = LocalFiles(tmp_path)
    files.write("a", b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            files.write("a", bytes(2000))
        with pytest.raises(OSError, match="File too large"):
            files.put("b", bytes(2000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert files.names("") == ["a"]
    assert files.read("a") == b"old"
