from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from miner import shards
from miner.errors import ResourceError, ShardError
from miner.fetch import read_image_bytes
from miner.shards import Shard, list_shards
from tests.reading import KEYS, read
from tests.tars import good_tar, jpeg, put


def ids(found: list[Shard]) -> list[str]:
    return [shard.shard_id for shard in found]


def test_tars_by_path_brace_glob_and_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "laion", "00000.tar", "00001.tar", "00001.parquet", "00001_stats.json", ".x.tar")
    expected = ["laion.00000", "laion.00001"]
    for pattern in ("laion/{00000..00001}.tar", "laion/*.tar", "laion/*", "laion", "laion/"):
        assert ids(list_shards([str(tmp_path / pattern)])) == expected
    monkeypatch.chdir(tmp_path)
    (first, second) = list_shards(["laion/00001.tar", "./laion/*.tar", f"file://{tmp_path}/laion"])
    assert first.url == str(tmp_path / "laion" / "00000.tar")
    assert first.modified == str(os.stat(first.url).st_mtime_ns)
    assert (first.num_bytes, first.sidecar) == (len(good_tar()), None)
    assert second.sidecar == str(tmp_path / "laion" / "00001.parquet")


def test_names_of_shards(tmp_path: Path) -> None:
    put(tmp_path / "my set", "a/part 1.tar", "b/part 1.tar")
    pattern = str(tmp_path / "my set" / "*" / "*.tar")
    assert ids(list_shards([pattern])) == ["a.part-1", "b.part-1"]
    assert ids(list_shards([pattern], dataset="x", stem_depth=2)) == ["x.a.part-1", "x.b.part-1"]
    with pytest.raises(ShardError, match=r"both be x\.part-1: .*a/part.*b/part.*--stem-depth 2"):
        list_shards([pattern], dataset="x")


def test_a_literal_name_is_no_pattern(tmp_path: Path) -> None:
    put(tmp_path, "a[1].tar", "b{0,1}.tar")
    assert ids(list_shards([str(tmp_path / "a[1].tar")], dataset="x")) == ["x.a-1-"]
    assert ids(list_shards([str(tmp_path / "b{0,1}.tar")], dataset="x")) == ["x.b-0-1-"]


@pytest.mark.parametrize(
    ("pattern", "match"),
    [
        ("pipe:cat x.tar", "would run a shell"),
        ("x.tar | cat", "would run a shell"),
        ("a.tar::b.tar", "chains URLs"),
        ("${HOME}/x.tar", "reads the environment"),
        ("", "is empty"),
        ("{0..3.tar", "braces come in pairs"),
        ("ftp://host/x.tar", "scheme ftp:// is not one of"),
    ],
)
def test_patterns_that_are_refused(pattern: str, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        list_shards([pattern])


def test_arguments_that_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="stem_depth is 0"):
        list_shards([str(tmp_path)], stem_depth=0)
    with pytest.raises(ValueError, match="dataset is 'a/b'"):
        list_shards([str(tmp_path)], dataset="a/b")


def test_what_is_no_shard(tmp_path: Path) -> None:
    put(tmp_path / "sub", "00000.tar")
    put(tmp_path / "gz", "a.tar.gz")
    put(tmp_path, "a.jpg.txt", "z.tgz")
    for pattern in ("absent.tar", "*.zip", "{0..1}.tar"):
        with pytest.raises(ShardError, match=r"nothing found.*FOLDER/\*/\*\.tar"):
            list_shards([str(tmp_path / pattern)])
    with pytest.raises(ShardError, match="neither a tar nor a folder"):
        list_shards([str(tmp_path / "a.jpg.txt")])
    for name in ("z.tgz", "gz", "gz/*"):
        with pytest.raises(ShardError, match="compressed tars are not read"):
            list_shards([str(tmp_path / name)])


def test_a_missing_driver_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(url: str) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", absent)
    with pytest.raises(ResourceError, match=r's3:// is missing; pip install "blindpairs\[s3\]"'):
        list_shards(["s3://bucket/x.tar"])
    with pytest.raises(ResourceError, match=r'pip install "blindpairs\[gcs\]"'):
        list_shards(["gs://bucket/x.tar"])


def test_slices_do_not_split_a_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SLICE_FILES", 3)
    put(tmp_path / "t", *(f"{i}.jpg" for i in range(4)), *(f"{i}.json" for i in range(4)))
    found = list_shards([str(tmp_path / "t")])
    assert ids(found) == ["t.t-00000", "t.t-00001"]
    assert [len(shard.files) for shard in found] == [4, 4]
    assert [list(read(shard)[0]) for shard in found] == [["0", "1"], ["2", "3"]]


def test_a_folder_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "t", "a/1.jpg")

    def denied(path: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(ShardError, match="Permission denied"):
        list_shards([str(tmp_path / "t")])


@pytest.fixture
def memory() -> Iterator[fsspec.AbstractFileSystem]:
    fs = fsspec.filesystem("memory")
    for number in range(2):
        fs.pipe(f"/laion/0000{number}.tar", good_tar())
    fs.pipe("/laion/00001.parquet", b"no parquet")
    fs.pipe("/birds/hen/1.jpg", jpeg(1))
    yield fs
    for path in ("/laion", "/birds"):
        fs.rm(path, recursive=True)


@pytest.mark.usefixtures("memory")
@pytest.mark.parametrize(
    "pattern",
    ["memory://laion/*.tar", "memory://laion/{00000..00001}.tar", "memory://laion"],
)
def test_remote_globs(pattern: str) -> None:
    first, second = list_shards([pattern])
    assert (first.shard_id, first.url) == ("laion.00000", "memory:///laion/00000.tar")
    assert second.sidecar == "memory:///laion/00001.parquet"
    assert tuple(read(first)[0]) == KEYS
    assert read(second)[2].notes[0].startswith("sidecar not read")


@pytest.mark.usefixtures("memory")
def test_remote_tree() -> None:
    (shard,) = list_shards(["memory://birds"])
    kept, _, _ = read(shard)
    assert kept["hen/1"].label == "hen"
    assert read_image_bytes(shard.url, "hen/1.jpg", 0, len(jpeg(1))) == jpeg(1)
