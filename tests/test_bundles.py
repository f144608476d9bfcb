from collections.abc import Iterable, Iterator

import pytest

from miner import bundles
from miner.bundles import PATH, read_records
from miner.errors import StoreError
from miner.files import Bytes
from miner.object_files import ObjectFiles


class Counting(ObjectFiles):
    """A bucket that counts what is asked for singly."""

    num_read = 0

    def read_many(self, paths: Iterable[str]) -> Iterator[bytes]:
        asked = list(paths)
        self.num_read += len(asked)
        return super().read_many(asked)


@pytest.fixture
def files(s3: str, monkeypatch: pytest.MonkeyPatch) -> Counting:
    monkeypatch.setattr(bundles, "WORTH", 4)
    files = Counting(f"{s3}/run")
    for number in range(6):
        files.write(f"commits/samples/{number}.json", str(number).encode())
    return files


def read(files: Counting) -> list[bytes]:
    return list(read_records(files, files.below("commits")))


def test_records_are_asked_for_singly_once(files: Counting) -> None:
    assert read(files) == [b"0", b"1", b"2", b"3", b"4", b"5"]
    assert files.num_read == 6
    assert read(files) == [b"0", b"1", b"2", b"3", b"4", b"5"]
    assert files.num_read == 6


def test_what_came_changed_or_went_since_is_seen(files: Counting) -> None:
    read(files)
    files.write("commits/samples/1.json", b"other")
    files.write("commits/samples/9.json", b"9")
    files.delete("commits/samples/2.json")
    assert read(files) == [b"0", b"other", b"3", b"4", b"5", b"9"]
    assert files.num_read == 6 + 2


def test_few_records_need_no_bundle(files: Counting) -> None:
    for number in range(1, 6):
        files.delete(f"commits/samples/{number}.json")
    assert read(files) == [b"0"]
    assert not files.exists(PATH)


def test_a_damaged_bundle_is_made_anew(files: Counting, caplog: pytest.LogCaptureFixture) -> None:
    files.write(PATH, b"PAR1 half")
    assert read(files) == [b"0", b"1", b"2", b"3", b"4", b"5"]
    assert "cannot be read and is made anew" in caplog.text
    assert read(files)[5] == b"5"
    assert files.num_read == 6


class ReadOnly(Counting):
    """A bucket that one may only look at."""

    def write(self, path: str, data: Bytes) -> None:
        raise StoreError("access is denied")


def test_who_may_only_read_does_without(files: Counting) -> None:
    read_only = ReadOnly(files.address)
    assert read(read_only)[5] == b"5"
    assert read(read_only)[5] == b"5"
    assert read_only.num_read == 12
