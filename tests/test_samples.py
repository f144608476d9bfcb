from __future__ import annotations

import hashlib
import os
import tarfile
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from miner.config import ImageLimits
from miner.errors import ShardError
from miner.fetch import ShardFile
from miner.samples import Sample, ShardReader
from miner.schema import Reason
from miner.shards import list_shards
from tests.reading import LIMITS, read, rows_of
from tests.tars import END, good_tar, header_of, jpeg, member, put, sample, shard_of

DATA = Path(__file__).parents[2] / "shared" / "data"


def test_samples_are_yielded_as_soon_as_they_are_whole(tmp_path: Path) -> None:
    tar = good_tar()
    reader = ShardReader(shard_of(tar, tmp_path), LIMITS)
    reads: list[int] = []
    original = ShardFile.read

    def spy(self: ShardFile, offset: int, num_bytes: int) -> bytes:
        reads.append(offset + num_bytes)
        return original(self, offset, num_bytes)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ShardFile, "read", spy)
        items = iter(reader)
        assert next(items).key == "000"
        assert max(reads) <= header_of(tar, "001.txt")
    assert not reader.report.complete
    assert reader.report.sha256 == ""


def test_memory_is_bounded_by_one_sample(tmp_path: Path) -> None:
    images = b"".join(member(f"a.{i}.jpg", bytes(10**6)) for i in range(40))
    arrays = b"".join(member(f"b.{i}.npy", bytes(10**6)) for i in range(10))
    shard = shard_of(images + arrays + END, tmp_path)
    limits = ImageLimits(max_member_bytes=2 * 10**6)
    tracemalloc.start()
    try:
        items = list(ShardReader(shard, limits))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert rows_of(items) == [("a", Reason.SEVERAL_IMAGES), ("b", Reason.NO_IMAGE)]
    assert peak < 12 * 10**6


def test_a_reader_reads_once(tmp_path: Path) -> None:
    reader = ShardReader(shard_of(good_tar(), tmp_path), LIMITS)
    list(reader)
    with pytest.raises(ValueError, match="a ShardReader reads once"):
        list(reader)


def test_a_shard_that_grew_since_it_was_listed(tmp_path: Path) -> None:
    shard = shard_of(good_tar(), tmp_path)
    Path(shard.url).write_bytes(good_tar() + good_tar())
    with pytest.raises(ShardError, match="were listed; it is being written"):
        list(ShardReader(shard, LIMITS))


def test_members_names_are_bounded(tmp_path: Path) -> None:
    name = "n" * 5000 + ".jpg"
    tar = member(name, jpeg(1), tar_format=tarfile.PAX_FORMAT) + sample("b") + END
    _, (refusal,), _ = read(shard_of(tar, tmp_path))
    assert (refusal.reason, len(refusal.key) < 300) == (Reason.UNSAFE_NAME, True)
    assert refusal.detail == "the name has 5004 characters, limit 4096"


def test_fields_of_a_sample_and_its_sidecar(tmp_path: Path) -> None:
    table = pa.table({"key": ["001", "000"], "punsafe": [0.5, 0.25], "URL": ["u", "v"]})
    pq.write_table(table, tmp_path / "00000.parquet")
    tar = member("000.jpg", jpeg(1)) + member("000.txt", b"a cat") + member("000.npy", b"1") + END
    shard = shard_of(tar, tmp_path)
    assert shard.sidecar == str(tmp_path / "00000.parquet")
    kept, _, report = read(shard)
    assert kept["000"] == Sample(
        key="000",
        member="000.jpg",
        offset=512,
        data=jpeg(1),
        caption="a cat",
        url="v",
        label=None,
        meta='{"_members": ["npy"], "punsafe": 0.25}',
    )
    data = (tmp_path / "00000.parquet").read_bytes()
    assert report.sidecar_sha256 == hashlib.sha256(data).hexdigest()


def test_metadata_of_dotted_names(tmp_path: Path) -> None:
    tar = member("1.0.jpg", jpeg(1)) + member("1.0.txt", b"dotted") + member("1.txt", b"plain")
    assert read(shard_of(tar + END, tmp_path / "a"))[0]["1"].caption == "dotted"
    tar = member("1.0.jpg", jpeg(1)) + member("1.txt", b"plain")
    assert read(shard_of(tar + END, tmp_path / "b"))[0]["1"].caption == "plain"


@pytest.mark.skipif(not DATA.exists(), reason="sample shards are not beside the repository")
def test_real_shards() -> None:
    for shard in list_shards([str(DATA)]):
        kept, refusals, report = read(shard, ImageLimits())
        assert (len(kept), refusals, report.damaged, report.notes) == (60, [], False, ())
        assert report.sha256 == hashlib.sha256(Path(shard.url).read_bytes()).hexdigest()
        assert all(found.caption and found.label for found in kept.values())
        assert all(found.data[:2] == b"\xff\xd8" for found in kept.values())


def test_a_folder_tree_of_classes(tmp_path: Path) -> None:
    root = tmp_path / "birds"
    put(root, "hen/1.jpg", "hen/2.JPEG", "owl/1.jpg", "top.png", ".hidden/1.jpg", "notes.csv")
    (root / "hen" / "1.txt").write_text("a hen")
    (root / "README.txt").write_text("about")
    (shard,) = list_shards([str(root)])
    assert shard.shard_id == "birds.00000"
    assert shard.files == (
        *("README.txt", "hen/1.jpg", "hen/1.txt", "hen/2.JPEG", "owl/1.jpg", "top.png"),
    )
    kept, refusals, report = read(shard)
    assert refusals == []
    assert {key: (s.member, s.label, s.caption, s.offset) for key, s in kept.items()} == {
        "hen/1": ("hen/1.jpg", "hen", "a hen", 0),
        "hen/2": ("hen/2.JPEG", "hen", None, 0),
        "owl/1": ("owl/1.jpg", "owl", None, 0),
        "top": ("top.png", None, None, 0),
    }
    assert report.notes == ("1 x metadata file without an image, first 'README.txt'",)
    assert report.bytes["data"] == report.num_bytes
    lines = "".join(
        f"{name}\t{len(data)}\t{hashlib.sha256(data).hexdigest()}\n"
        for name in shard.files
        for data in [(root / name).read_bytes()]
    )
    assert report.sha256 == hashlib.sha256(lines.encode()).hexdigest()


def test_images_of_one_stem_have_their_full_name_as_key(tmp_path: Path) -> None:
    put(tmp_path / "t", "a.jpg", "a.png", "b.jpg")
    (tmp_path / "t" / "a.txt").write_text("both")
    kept, _, _ = read(list_shards([str(tmp_path / "t")])[0])
    assert {key: found.caption for key, found in kept.items()} == {
        "a.jpg": "both",
        "a.png": "both",
        "b": None,
    }


def test_what_a_tree_refuses(tmp_path: Path) -> None:
    root = tmp_path / "t"
    put(root, "good.jpg", "ctrl\x01.jpg")
    (root / "large.jpg").write_bytes(bytes(5000))
    os.symlink("nowhere", root / "dangling.jpg")
    os.mkfifo(root / "pipe.jpg")
    Path(os.fsdecode(os.fsencode(str(root)) + b"/\xff.jpg")).write_bytes(jpeg(1))
    os.symlink(root, root / "loop")
    kept, refusals, _ = read(list_shards([str(root)])[0])
    assert list(kept) == ["good"]
    assert rows_of(refusals) == [
        ("\\udcff", Reason.UNSAFE_NAME),
        ("ctrl\\x01", Reason.UNSAFE_NAME),
        ("dangling", Reason.NOT_A_FILE),
        ("large", Reason.TOO_MANY_BYTES),
        ("pipe", Reason.NOT_A_FILE),
    ]


def test_a_tree_that_changed_since_it_was_listed(tmp_path: Path) -> None:
    put(tmp_path / "t", "a.jpg")
    (shard,) = list_shards([str(tmp_path / "t")])
    (tmp_path / "t" / "a.jpg").write_bytes(b"longer" * 1000)
    with pytest.raises(ShardError, match="were listed; it is being written"):
        list(ShardReader(shard, LIMITS))
