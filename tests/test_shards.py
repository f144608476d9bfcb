from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from miner import filesystems, shards
from miner.errors import ResourceError, ShardError
from miner.fetch import read_image_bytes
from miner.names import MAX_STEM_CHARS
from miner.shards import Shard, list_shards
from tests.reading import KEYS, read
from tests.tars import good_tar, jpeg, put


def digest_of(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:6]


PART_1 = f"part-1-{digest_of('part 1')}"


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
    assert ids(list_shards([pattern])) == [f"a.{PART_1}", f"b.{PART_1}"]
    assert ids(list_shards([pattern], dataset="x", stem_depth=2)) == [
        f"x.a.{PART_1}",
        f"x.b.{PART_1}",
    ]
    with pytest.raises(
        ShardError, match=r"both be x\.part-1-\w{6}: .*a/part.*b/part.*--stem-depth 2"
    ):
        list_shards([pattern], dataset="x")


def test_a_literal_name_is_no_pattern(tmp_path: Path) -> None:
    put(tmp_path, "a[1].tar", "b{0,1}.tar")
    assert ids(list_shards([str(tmp_path / "a[1].tar")], dataset="x")) == [
        f"x.a-1--{digest_of('a[1]')}"
    ]
    assert ids(list_shards([str(tmp_path / "b{0,1}.tar")], dataset="x")) == [
        f"x.b-0-1--{digest_of('b{0,1}')}"
    ]


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
        raise ImportError("Install huggingface_hub to access HfFileSystem")

    monkeypatch.setattr(fsspec.core, "url_to_fs", absent)
    with pytest.raises(ResourceError, match=r'hf:// is missing; pip install "blindpairs"$'):
        list_shards(["hf://datasets/a/b/x.tar"])


def test_slices_do_not_split_a_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SLICE_FILES", 3)
    put(tmp_path / "t", *(f"{i}.jpg" for i in range(4)), *(f"{i}.json" for i in range(4)))
    found = list_shards([str(tmp_path / "t")])
    assert ids(found) == ["t.00000", "t.00001"]
    assert [len(shard.files) for shard in found] == [4, 4]
    assert [list(read(shard)[0]) for shard in found] == [["0", "1"], ["2", "3"]]


def test_a_folder_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "t", "a/1.jpg")

    def denied(path: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(ShardError, match="Permission denied"):
        list_shards([str(tmp_path / "t")])


def test_a_folder_below_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "t", "a/1.jpg", "b.jpg")
    scandir = os.scandir

    def denied(path: str) -> object:
        if path.endswith("/a"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(ShardError, match=r"t/a: Permission denied; make it readable"):
        list(filesystems.walk(str(tmp_path / "t")))


def test_the_name_of_a_tree_is_in_no_stem(tmp_path: Path) -> None:
    put(tmp_path / "birds" / "t", "a.jpg")
    tree = tmp_path / "birds" / "t"
    assert ids(list_shards([str(tree)], dataset="x")) == ["x.00000"]
    assert ids(list_shards([str(tree)], stem_depth=2)) == ["t.t.00000"]
    assert ids(list_shards([str(tree)], stem_depth=3)) == ["t.birds.t.00000"]
    stem = list_shards([str(tree)])[0].stem
    assert list_shards([str(tree.rename(tmp_path / "renamed"))])[0].stem == stem


def test_two_trees_of_one_dataset(tmp_path: Path) -> None:
    put(tmp_path, "a/x/1.jpg", "b/x/1.jpg")
    trees = [str(tmp_path / "a" / "x"), str(tmp_path / "b" / "x")]
    with pytest.raises(ShardError, match=r"both be x\.00000: .*give --stem-depth 2 "):
        list_shards(trees)
    with pytest.raises(ShardError, match=r"both be x\.x\.00000: .*give --stem-depth 3 "):
        list_shards(trees, stem_depth=2)
    assert ids(list_shards(trees, stem_depth=3)) == ["x.a.x.00000", "x.b.x.00000"]


def test_links_to_tars_and_to_folders_of_tars(tmp_path: Path) -> None:
    put(tmp_path / "store", "one.tar", "two.tar")
    links = tmp_path / "links"
    links.mkdir()
    for number, name in enumerate(("one.tar", "two.tar")):
        os.symlink(f"../store/{name}", links / f"0000{number}.tar")
    os.symlink("nowhere", links / "notes.txt")
    os.symlink("store", tmp_path / "linked")
    expected = ["links.00000", "links.00001"]
    for pattern in ("links", "links/*.tar", "l*s/*", "links/{00000..00001}.tar", "**/0*.tar"):
        found = list_shards([str(tmp_path / pattern)])
        assert ids(found) == expected
        assert {shard.num_bytes for shard in found} == {len(good_tar())}
        assert found[0].modified == str(os.stat(tmp_path / "store" / "one.tar").st_mtime_ns)
    assert tuple(read(found[1])[0]) == KEYS
    for pattern in ("linked", "linked/*", "linke?/*.tar", "linke[d]"):
        assert ids(list_shards([str(tmp_path / pattern)])) == ["linked.one", "linked.two"]
    os.symlink("nowhere", links / "gone.tar")
    for pattern in ("links", "links/*"):
        with pytest.raises(
            ShardError, match=r"gone\.tar: no file that may be read is there; mend the link"
        ):
            list_shards([str(tmp_path / pattern)])


def test_a_run_inside_a_tree_of_images_is_no_part_of_it(tmp_path: Path) -> None:
    put(tmp_path / "t", "a.jpg", "b/c.jpg", "b/run.json", "commits/d.jpg")
    before = list_shards([str(tmp_path / "t")])
    assert before[0].files == ("a.jpg", "b/c.jpg", "b/run.json", "commits/d.jpg")
    for out in ("out", "b/runs/1"):
        put(tmp_path / "t" / out, "run.json", "commits/s.json", "pairs/x/report/images/1.jpg")
    assert list_shards([str(tmp_path / "t")]) == before
    with pytest.raises(
        ShardError, match=r"out is a run directory.*an --out that is another folder"
    ):
        list_shards([str(tmp_path / "t" / "out")])


def test_odd_names_do_not_collide(tmp_path: Path) -> None:
    put(tmp_path / "日本", "日本.tar", "中国.tar", "a b.tar", "a-b.tar", "_a-b.tar")
    put(tmp_path / "x", *(f"{'n' * 200}{end}.tar" for end in "12"), "00000.tar")
    found = list_shards([str(tmp_path / "日本"), str(tmp_path / "x")])
    assert len({shard.stem for shard in found}) == len(found) == 8
    assert {shard.dataset for shard in found} == {f"shards-{digest_of('日本')}", "x"}
    stems = {shard.stem for shard in found}
    assert {f"shards-{digest_of('中国')}", "a-b", f"a-b-{digest_of('a b')}", "00000"} <= stems
    assert max(map(len, stems)) == MAX_STEM_CHARS
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", shard.shard_id) for shard in found)
    deep = list_shards([str(tmp_path / "x" / "n*.tar")], stem_depth=2)
    assert len({shard.stem for shard in deep}) == 2
    assert max(len(shard.stem) for shard in deep) == MAX_STEM_CHARS


@pytest.mark.parametrize("name", [b"\xff.tar", b"\xff/a.jpg", b"\xff/a.tar"])
def test_a_path_that_is_not_utf8(tmp_path: Path, name: bytes) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path / "x") + b"/" + name))
    path.parent.mkdir(parents=True)
    path.write_bytes(good_tar() if path.suffix == ".tar" else jpeg(1))
    for pattern in (str(tmp_path / "x" / "*"), str(path)):
        with pytest.raises(ShardError, match=r"\\udcff.*is not UTF-8; rename it"):
            list_shards([pattern])


def test_tars_of_any_case(tmp_path: Path) -> None:
    put(tmp_path / "laion", "00000.parquet", "00001.tar")
    (tmp_path / "laion" / "00000.TAR").write_bytes(good_tar())
    for pattern in ("laion", "laion/*", "laion/0000[01].*"):
        found = list_shards([str(tmp_path / pattern)])
        assert ids(found) == ["laion.00000", "laion.00001"]
    assert found[0].sidecar == str(tmp_path / "laion" / "00000.parquet")
    assert tuple(read(found[0])[0]) == KEYS


def test_what_is_left_out_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    put(tmp_path / "quiet", "a.tar", "a.parquet", "a_stats.json", "b.jpg/c.tar")
    put(tmp_path / "laion", "00000.tar", "b.png", "a.jpg", ".hidden.jpg")
    put(tmp_path / "tree", "a.jpg", "b/c.tar", "e/d.tgz")
    list_shards([str(tmp_path / "quiet")])
    assert not caplog.messages
    for pattern in ("laion", "laion/*"):
        caplog.clear()
        list_shards([str(tmp_path / pattern)])
        (said,) = caplog.messages
        assert re.match(r".*laion.*: 2 image files, such as '.*/a\.jpg', are not read.*name", said)
    caplog.clear()
    list_shards([str(tmp_path / "tree")])
    (said,) = caplog.messages
    assert re.match(r".*tree: 2 tars in this tree.*not read, such as 'b/c\.tar'; name them", said)


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
