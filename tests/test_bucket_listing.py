import pytest

from miner.bucket_listing import BucketListing
from miner.errors import ShardError
from miner.shards import checksum, list_shards
from tests.buckets import put
from tests.reading import KEYS, read
from tests.tars import good_tar

TARS = ("laion/00000.tar", "laion/00001.tar", "laion/more/00002.tar", "other/a.tar")


@pytest.fixture
def corpus(s3: str) -> str:
    for name in TARS:
        put(f"{s3}/{name}", good_tar())
    put(f"{s3}/laion/00000.parquet", b"")
    return s3


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("laion/{00000..00001}.tar", ["laion.00000", "laion.00001"]),
        ("laion/*.tar", ["laion.00000", "laion.00001"]),
        ("laion/0000?.tar", ["laion.00000", "laion.00001"]),
        ("laion", ["laion.00000", "laion.00001"]),
        ("laion/", ["laion.00000", "laion.00001"]),
        ("*/*.tar", ["laion.00000", "laion.00001", "other.a"]),
        ("**/*.tar", ["laion.00000", "laion.00001", "more.00002", "other.a"]),
        ("other/a.tar", ["other.a"]),
    ],
)
def test_patterns_and_folders(corpus: str, pattern: str, found: list[str]) -> None:
    shards = list_shards([f"{corpus}/{pattern}"])
    assert [shard.shard_id for shard in shards] == found
    assert all(shard.url.startswith(f"{corpus}/") for shard in shards)
    assert all(shard.num_bytes == len(good_tar()) for shard in shards)
    has_sidecar = [shard.shard_id for shard in shards if shard.sidecar]
    assert has_sidecar == [name for name in found if name == "laion.00000"]


def test_a_shard_in_a_bucket_is_read_as_one_on_disk(corpus: str) -> None:
    (shard,) = list_shards([f"{corpus}/other/a.tar"])
    kept, refused, report = read(shard)
    assert (tuple(kept), refused) == (KEYS, [])
    assert report.num_bytes == len(good_tar())
    before = checksum(shard)
    assert shard.modified
    put(shard.url, good_tar() + bytes(1024))
    (again,) = list_shards([shard.url])
    assert again.modified != shard.modified
    assert checksum(again) != before


def test_what_is_not_there(corpus: str) -> None:
    for pattern in ("nothing.tar", "lai", "laion/*.zip", "nothing/*.tar"):
        with pytest.raises(ShardError, match="nothing found"):
            list_shards([f"{corpus}/{pattern}"])
    with pytest.raises(ShardError, match="no such bucket; create it"):
        list_shards([f"{corpus}-gone/*.tar"])


def test_listings_are_told_as_fsspec_has_them(corpus: str) -> None:
    listing = BucketListing("s3")
    bucket = corpus.removeprefix("s3://")
    assert listing.unstrip_protocol(f"{bucket}/laion/") == f"{corpus}/laion"
    assert listing.ls(f"{bucket}/other", detail=False) == [f"{bucket}/other/a.tar"]
    assert listing.info(f"{bucket}/laion")["type"] == "directory"
    assert listing.info(bucket)["type"] == "directory"
    with pytest.raises(FileNotFoundError, match=f"{corpus}/none"):
        listing.ls(f"{bucket}/none")
