from __future__ import annotations

import pytest

from miner import object_reader
from miner.errors import ShardError
from miner.fetch import ShardFile
from miner.object_reader import ObjectFile, open_object
from tests.breaking import DATA, Breaking
from tests.buckets import put


def test_a_read_goes_on_where_its_connection_broke(server: Breaking) -> None:
    server.sends = [200_000, 300_000, 0, 0, len(DATA)]
    with ShardFile("s3://bucket/a.tar", in_order=False) as file:
        assert file.num_bytes == len(DATA)
        assert file.read(0, len(DATA)) == DATA
    starts = [int(asked.removeprefix("bytes=").split("-")[0]) for asked in server.ranges]
    assert starts[0] == 0
    assert 0 < starts[1] <= 200_000 < starts[-1] <= 500_000
    assert starts == sorted(starts)


def test_a_connection_that_brings_nothing_is_given_up(server: Breaking) -> None:
    server.sends = [0]
    with pytest.raises(ShardError, match=r"s3://bucket/a.tar: .*run the same command again"):
        open_object("s3://bucket/a.tar").read(0, 10)
    assert len(server.ranges) == 1 + object_reader.MAX_FAILURES


def test_an_object_that_changes_while_it_is_read_is_refused(server: Breaking) -> None:
    file = ShardFile("s3://bucket/a.tar")
    assert file.read(0, 10) == DATA[:10]
    server.etag = '"two"'
    with ShardFile("s3://bucket/a.tar", in_order=False) as fresh:
        assert fresh.read(5, 10) == DATA[5:15]
    one = open_object("s3://bucket/a.tar")
    server.etag = '"three"'
    number = len(server.ranges)
    with pytest.raises(ShardError, match="was changed while it was read; restore it"):
        one.read(0, 10)
    assert len(server.ranges) == number + 1


@pytest.mark.parametrize(
    ("status", "message"),
    [(403, "access is denied .* give credentials that may read"), (503, "see whether the storage")],
)
def test_refusals_say_what_to_do(server: Breaking, status: int, message: str) -> None:
    reader = open_object("s3://bucket/a.tar")
    server.status = status
    with pytest.raises(ShardError, match=message):
        reader.read(0, 10)


def test_shards_are_read_ahead_in_order(server: Breaking) -> None:
    with ShardFile("s3://bucket/a.tar") as file:
        parts = [file.read(offset, 512) for offset in range(0, len(DATA), 512)]
    assert b"".join(parts) == DATA
    assert len(server.ranges) == 1


def test_an_object_is_a_file(s3: str) -> None:
    put(f"{s3}/a b/c.tar", DATA)
    file = ObjectFile(open_object(f"{s3}/a b/c.tar"))
    assert (file.readable(), file.seekable()) == (True, True)
    assert file.seek(-10, 2) == len(DATA) - 10
    assert file.read(100) == DATA[-10:]
    assert file.read(100) == b""
    file.seek(4)
    assert file.seek(1, 1) == file.tell() == 5
    assert file.read(3) == DATA[5:8]
    with pytest.raises(FileNotFoundError, match=r"nope.tar is not there"):
        open_object(f"{s3}/nope.tar")
