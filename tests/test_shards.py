from __future__ import annotations

import hashlib
import json
import os
import tarfile
import threading
import tracemalloc
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from miner import shards
from miner.config import ImageLimits
from miner.errors import ResourceError, ShardError
from miner.schema import Reason
from miner.shards import (
    ImageFetcher,
    Refusal,
    Sample,
    Shard,
    ShardReader,
    ShardReport,
    checksum,
    list_shards,
    read_image_bytes,
)
from tests.tars import (
    BLOCK,
    CASES,
    END,
    Case,
    flip,
    good_tar,
    header_of,
    jpeg,
    member,
    noise,
    overwrite,
    sample,
    shard_of,
)

DATA = Path(__file__).parents[2] / "shared" / "data"
LIMITS = ImageLimits(max_member_bytes=4000)
KEYS = ("000", "001", "002")


def read(
    shard: Shard, limits: ImageLimits = LIMITS
) -> tuple[dict[str, Sample], list[Refusal], ShardReport]:
    """What is left of a shard's samples, its refusals and its report, the law checked."""
    reader = ShardReader(shard, limits)
    kept: dict[str, Sample] = {}
    refusals: list[Refusal] = []
    for item in reader:
        if isinstance(item, Sample):
            assert item.key not in kept
            kept[item.key] = item
        else:
            if item.retracts:
                del kept[item.key]
            refusals.append(item)
    report = reader.report
    assert report.complete
    assert report.num_samples == len(kept) + len(refusals)
    assert sum(report.bytes.values()) == report.num_bytes == shard.num_bytes
    assert report.sha256 == checksum(shard)
    for found in kept.values():
        where = (shard.url, found.member, found.offset, len(found.data))
        assert read_image_bytes(*where) == found.data
        json.loads(found.meta)
    for text in (text for row in refusals for text in (row.key, row.member, row.detail)):
        text.encode()
    return kept, refusals, report


def rows_of(refusals: list[Refusal]) -> list[tuple[str, Reason]]:
    return sorted((refusal.key, refusal.reason) for refusal in refusals)


# ---- the law of a shard


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_law_of_the_shard(case: Case, tmp_path: Path) -> None:
    shard = shard_of(case.tar, tmp_path)
    kept, refusals, report = read(shard)
    assert tuple(kept) == case.kept
    assert rows_of(refusals) == sorted(case.rows)
    assert report.sha256 == hashlib.sha256(case.tar).hexdigest()
    assert case.note in " ".join(report.notes)
    assert bool(report.notes) >= bool(case.note)
    is_damage = {Reason.DAMAGED_HEADER, Reason.TRUNCATED_SHARD, Reason.TRAILING_BYTES}
    assert report.damaged == any(reason in is_damage for _, reason in case.rows)


def test_the_law_has_enough_cases() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 30


NAMES = ("a.jpg", "b.jpg", "a.txt", "b.txt", "a.png", "c.txt")
SIX = tuple(f"{number:03d}" for number in range(6))
SIX_TAR = good_tar(SIX)


def law_holds(tar: bytes, folder: Path) -> tuple[dict[str, Sample], list[Refusal]]:
    """Every key is kept or named, or a row says that something unknown is lost."""
    kept, refusals, report = read(shard_of(tar, folder))
    named = {refusal.key for refusal in refusals}
    unknown = "" in named or any(r.reason is Reason.TRUNCATED_SHARD for r in refusals)
    assert unknown or set(SIX) <= kept.keys() | named
    if refusals:
        assert report.damaged
    return kept, refusals


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_flips_and_cuts_anywhere(tmp_path_factory: pytest.TempPathFactory, data) -> None:
    # One flip a block is always seen by a header's checksum; two can cancel out.
    blocks = st.sets(st.integers(0, len(SIX_TAR) // BLOCK - 1), max_size=4)
    tar = SIX_TAR
    for block in sorted(data.draw(blocks)):
        offset = data.draw(st.integers(0, BLOCK - 1))
        tar = flip(tar, block * BLOCK + offset, data.draw(st.integers(0, 7)))
    cut = data.draw(st.none() | st.integers(0, len(tar)))
    kept, refusals = law_holds(tar[:cut], tmp_path_factory.mktemp("flips"))
    if not any(refusal.key == "" for refusal in refusals):
        assert all(
            found.caption and (found.url or "_error" in found.meta) for found in kept.values()
        )


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_pages_overwritten_anywhere(tmp_path_factory: pytest.TempPathFactory, data) -> None:
    start = data.draw(st.integers(0, len(SIX_TAR) - 1))
    length = data.draw(st.sampled_from([16, 512, 1024, 4096]))
    page = noise(length) if data.draw(st.booleans()) else bytes(length)
    # Zeros up to the end mark leave a shorter tar that is whole.
    assume(any(page) or start + length < header_of(SIX_TAR, "005.json") + BLOCK)
    tar = overwrite(SIX_TAR, start, page)[: len(SIX_TAR)]
    law_holds(tar, tmp_path_factory.mktemp("pages"))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(NAMES), max_size=9))
def test_members_in_any_order(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    tar = b"".join(member(name, jpeg(seed)) for seed, name in enumerate(names)) + END
    kept, refusals, report = read(shard_of(tar, tmp_path_factory.mktemp("order")))
    named = {refusal.key for refusal in refusals}
    assert {name[0] for name in names} == kept.keys() | named
    assert "" not in named
    assert not report.damaged
    for key in kept.keys() & named:
        assert {r.reason for r in refusals if r.key == key} == {Reason.DUPLICATE_KEY}


def test_one_row_for_one_lost_sample_and_what_it_says(tmp_path: Path) -> None:
    tar = good_tar()
    start = header_of(tar, "001.json")
    _, (refusal,), _ = read(shard_of(flip(tar, start + 101), tmp_path))
    assert refusal == Refusal(
        key="001",
        member="001.json",
        reason=Reason.DAMAGED_HEADER,
        detail=f"bad checksum, bytes {start} to {start + 2 * BLOCK}",
        retracts=False,
    )


def test_late_damage_takes_a_sample_back(tmp_path: Path) -> None:
    tar = sample("a", 1) + sample("b", 2) + flip(member("a.extra.json", b"{}"), 101) + END
    items = list(ShardReader(shard_of(tar, tmp_path), LIMITS))
    assert [(item.key, getattr(item, "retracts", None)) for item in items] == [
        ("a", None),
        ("a", True),
        ("b", None),
    ]


def test_zeros_over_the_end_leave_a_note(tmp_path: Path) -> None:
    tar = good_tar()
    start = header_of(tar, "002.txt")
    kept, refusals, report = read(shard_of(tar[:start] + bytes(2**21), tmp_path))
    assert (tuple(kept), refusals) == (KEYS, [])
    assert report.notes == (
        "2097152 zero bytes at the end, as of an unfinished copy",
        "002.jpg: the shard's last sample, without the usual json, txt",
    )


def test_samples_are_yielded_as_soon_as_they_are_whole(tmp_path: Path) -> None:
    reader = ShardReader(shard_of(good_tar(SIX), tmp_path), LIMITS)
    reads: list[int] = []
    original = shards.ShardFile.read

    def spy(self: shards.ShardFile, offset: int, num_bytes: int) -> bytes:
        reads.append(offset + num_bytes)
        return original(self, offset, num_bytes)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards.ShardFile, "read", spy)
        items = iter(reader)
        assert next(items).key == "000"
        assert max(reads) <= header_of(SIX_TAR, "001.txt")
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


# ---- where shards are


def put(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(good_tar() if name.endswith(".tar") else jpeg(len(name)))


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


# ---- folder trees


def test_a_folder_tree_of_classes(tmp_path: Path) -> None:
    root = tmp_path / "birds"
    put(root, "hen/1.jpg", "hen/2.JPEG", "owl/1.jpg", "top.png", ".hidden/1.jpg", "notes.csv")
    (root / "hen" / "1.txt").write_text("a hen")
    (root / "README.txt").write_text("about")
    (shard,) = list_shards([str(root)])
    assert shard.shard_id == "birds.birds-00000"
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


def test_slices_do_not_split_a_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SLICE_FILES", 3)
    put(tmp_path / "t", *(f"{i}.jpg" for i in range(4)), *(f"{i}.json" for i in range(4)))
    found = list_shards([str(tmp_path / "t")])
    assert ids(found) == ["t.t-00000", "t.t-00001"]
    assert [len(shard.files) for shard in found] == [4, 4]
    assert [list(read(shard)[0]) for shard in found] == [["0", "1"], ["2", "3"]]


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


def test_a_folder_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "t", "a/1.jpg")

    def denied(path: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(ShardError, match="Permission denied"):
        list_shards([str(tmp_path / "t")])


# ---- single images


def test_fetcher_keeps_few_files_open(tmp_path: Path) -> None:
    tars = [shard_of(good_tar(), tmp_path, f"{number}.tar") for number in range(4)]
    with ImageFetcher(max_open=2) as fetcher:
        for shard in (*tars, *tars):
            assert fetcher.read(shard.url, "000.jpg", BLOCK, len(jpeg(0))) == jpeg(0)
            assert len(fetcher._open) <= 2
    assert not fetcher._open


def test_images_that_are_not_there(tmp_path: Path) -> None:
    shard = shard_of(good_tar(), tmp_path)
    with pytest.raises(ShardError, match=r"10 of 100 bytes came at offset"):
        read_image_bytes(shard.url, "", shard.num_bytes - 10, 100)
    with pytest.raises(ShardError, match=r"opening failed \(FileNotFoundError"):
        read_image_bytes(str(tmp_path / "gone.tar"), "", 0, 1)
    for member_name in ("../a.jpg", "/etc/passwd", "a/../../b", ""):
        with pytest.raises(ShardError, match="leads out of the folder"):
            read_image_bytes(str(tmp_path), member_name, 0, 1)


def test_a_pipe_is_no_shard(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.tar")
    shard = Shard(dataset="d", stem="a", url=str(tmp_path / "a.tar"), num_bytes=0, modified="")
    with pytest.raises(ShardError, match="not a regular file"):
        checksum(shard)


# ---- remote


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


class Server:
    """Files over HTTP on loopback, with ranges and, if asked for, failures."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.num_failures, self.num_requests, self.has_size = 0, 0, True
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: object) -> None:
                pass

            def do_HEAD(self) -> None:
                self.do_GET(has_body=False)

            def do_GET(self, has_body: bool = True) -> None:
                server.num_requests += 1
                data = server.files.get(self.path)
                status, first, last = 200, 0, len(data or b"") - 1
                if asked := self.headers.get("Range"):
                    first, last = (int(end) for end in asked.removeprefix("bytes=").split("-"))
                    status = 206
                body = (data or b"")[first : last + 1]
                if data is None:
                    status, body = 404, b""
                elif has_body and server.num_failures:
                    server.num_failures -= 1
                    status, body = 503, b""
                self.send_response(status)
                if server.has_size:
                    self.send_header("Content-Length", str(len(body)))
                self.send_header("ETag", '"tag"')
                self.send_header("Connection", "close")
                self.end_headers()
                if has_body:
                    self.wfile.write(body)

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(shards, "RETRY_WAIT_S", 0)
    server = Server()
    yield server
    server.close()


def test_shards_over_http(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "READAHEAD_BYTES", 4096)
    server.files = {f"/laion/0000{number}.tar": good_tar() for number in range(2)}
    first, second = list_shards([f"{server.url}/laion/{{00000..00001}}.tar"])
    assert (first.shard_id, first.modified, first.sidecar) == ("laion.00000", '"tag"', None)
    before = server.num_requests
    list(ShardReader(first, LIMITS))
    assert server.num_requests - before <= 2 + len(good_tar()) // 4096 + 1
    assert tuple(read(second)[0]) == KEYS


def test_passing_failures_are_survived_and_lasting_ones_named(server: Server) -> None:
    server.files = {"/laion/00000.tar": good_tar()}
    (shard,) = list_shards([f"{server.url}/laion/00000.tar"])
    server.num_failures = shards.MAX_ATTEMPTS - 1
    assert tuple(read(shard)[0]) == KEYS
    server.num_failures = 1000
    with pytest.raises(ShardError, match=r"00000\.tar: reading failed \(ClientResponseError: 503"):
        list(ShardReader(shard, LIMITS))


def test_a_server_that_does_not_tell_sizes(server: Server) -> None:
    server.files, server.has_size = {"/laion/00000.tar": good_tar()}, False
    with pytest.raises(ShardError, match="does not tell its size"):
        list_shards([f"{server.url}/laion/00000.tar"])


def test_nothing_at_a_url(server: Server) -> None:
    with pytest.raises(ShardError, match="nothing found"):
        list_shards([f"{server.url}/laion/00000.tar"])
