from __future__ import annotations

import hashlib
import io
import struct
import tarfile
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miner.tar import MAX_EXTENSION_BYTES, MAX_EXTENSIONS, Damage, Member, TarReader
from miner.tar_header import BLOCK
from tests.cases import CASES
from tests.tars import (
    END,
    flip,
    good_tar,
    header_of,
    jpeg,
    member,
    noise,
    overwrite,
    sample,
    webdataset_tar,
)

DATA = Path(__file__).parents[2] / "shared" / "data"


class Bytes:
    """A file in memory that refuses to be read beyond its end and remembers the longest read."""

    def __init__(self, data: bytes) -> None:
        self.data, self.longest = data, 0

    def read(self, offset: int, num_bytes: int) -> bytes:
        assert 0 <= offset < offset + num_bytes <= len(self.data)
        self.longest = max(self.longest, num_bytes)
        return self.data[offset : offset + num_bytes]


def read(tar: bytes, keep: bool = True) -> tuple[TarReader, list[Member], list[Damage]]:
    reader = TarReader(Bytes(tar), len(tar), lambda name, num_bytes: keep)
    entries = list(reader)
    assert sum(reader.num_bytes_of.values()) == len(tar)
    assert min(reader.num_bytes_of.values()) >= 0
    assert reader.sha256 == hashlib.sha256(tar).hexdigest()
    damaged = [entry for entry in entries if isinstance(entry, Damage)]
    return reader, [entry for entry in entries if isinstance(entry, Member)], damaged


GOOD = {
    "ustar": good_tar(),
    "gnu": good_tar(("x" * 120, "y" * 300), tar_format=tarfile.GNU_FORMAT),
    "pax": good_tar(("ü" * 90, "y" * 300), tar_format=tarfile.PAX_FORMAT),
    "webdataset": webdataset_tar(["a", "b"]),
    "all kinds": b"".join(
        member(f"a.{number}", kind=kind, tar_format=tarfile.GNU_FORMAT)
        for number, kind in enumerate((b"0", b"\0", b"1", b"2", b"3", b"4", b"5", b"6", b"7"))
    )
    + END,
}


@pytest.mark.parametrize("name", GOOD)
def test_good_tars_read_as_the_standard_library_reads_them(name: str) -> None:
    reader, members, damaged = read(GOOD[name])
    with tarfile.open(fileobj=io.BytesIO(GOOD[name])) as tar:
        expected = [
            (info.name, info.offset_data, tar.extractfile(info).read() if info.isreg() else None)
            for info in tar.getmembers()
        ]
    assert [(m.name, m.offset, m.data) for m in members] == expected
    assert not damaged
    assert reader.has_end
    assert reader.num_bytes_of["damaged"] == 0
    assert not reader.notes


@pytest.mark.skipif(not DATA.exists(), reason="sample shards are not beside the repository")
def test_real_shards_read_as_the_standard_library_reads_them() -> None:
    for path in sorted(DATA.glob("*.tar")):
        data = path.read_bytes()
        reader, members, damaged = read(data)
        with tarfile.open(path) as tar:
            assert [(m.name, m.offset, m.num_bytes) for m in members] == [
                (info.name, info.offset_data, info.size) for info in tar.getmembers()
            ]
        assert (damaged, reader.trailing, reader.has_end) == ([], None, True)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_byte_is_counted_and_hashed(case) -> None:
    read(case.tar)


def test_bytes_by_kind() -> None:
    reader, _, _ = read(member("a.jpg", b"x" * 700) + END)
    assert reader.num_bytes_of == {
        "headers": 512,
        "data": 700,
        "padding": 324,
        "damaged": 0,
        "end": 1024,
    }


def test_unwanted_contents_are_not_held() -> None:
    tar = member("a.npy", bytes(5 * 2**20)) + END
    source = Bytes(tar)
    (only,) = TarReader(source, len(tar), lambda name, num_bytes: False)
    assert only.data is None
    assert source.longest == 2**20


def test_damage_names_what_the_bad_header_names() -> None:
    tar = good_tar()
    start = header_of(tar, "001.txt")
    _, members, (damage,) = read(flip(tar, start + 110))
    assert (damage.name, damage.start, damage.end) == ("001.txt", start, start + 2 * BLOCK)
    assert damage.is_one_member
    assert len(members) == 8


def test_two_damaged_headers_are_two_regions() -> None:
    tar = good_tar()
    for name in ("001.jpg", "001.txt"):
        tar = flip(tar, header_of(good_tar(), name) + 110)
    _, members, damaged = read(tar)
    assert [damage.name for damage in damaged] == ["001.jpg", "001.txt"]
    assert len(members) == 7


def test_a_region_that_the_header_does_not_explain_may_hide_another_member() -> None:
    tar, start = good_tar(), header_of(good_tar(), "001.txt")
    second = header_of(tar, "001.json")
    _, _, (damage,) = read(overwrite(flip(tar, start + 110), second, noise(BLOCK)))
    assert damage.name == "001.txt"
    assert not damage.is_one_member


def test_old_header_without_magic_is_a_header_but_chance_is_not() -> None:
    block = bytearray(member("a.jpg", jpeg(1)))
    block[257:BLOCK] = bytes(BLOCK - 257)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block[:BLOCK])
    _, members, _ = read(bytes(block) + END)
    assert [m.name for m in members] == ["a.jpg"]
    block[156:157] = b"Q"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block[:BLOCK])
    _, members, (damage,) = read(bytes(block) + END)
    assert "neither ustar nor an old header" in damage.detail


def test_a_lone_zero_block_is_a_lost_header() -> None:
    _, members, (damage,) = read(sample("a") + bytes(BLOCK) + sample("b") + END)
    assert len(members) == 6
    assert damage.detail.startswith("one zero block instead of a header")


def test_extension_headers_are_bounded() -> None:
    large = member("././@PaxHeader", bytes(MAX_EXTENSION_BYTES + 1), kind=tarfile.XHDTYPE)
    chain = member("././@LongLink", b"a.jpg\0", kind=tarfile.GNUTYPE_LONGNAME)
    for tar in (large + sample("a") + END, chain * (MAX_EXTENSIONS + 1) + sample("a") + END):
        _, members, damaged = read(tar)
        assert [damage.detail.split(",")[0] for damage in damaged] == [
            f"extension header of {MAX_EXTENSION_BYTES + 1} bytes"
            if tar.startswith(large)
            else f"more than {MAX_EXTENSIONS} extension headers"
        ]
        assert members[0].suspect == tar.startswith(large)


@pytest.mark.parametrize(
    ("payload", "detail"),
    [
        (b"99 path=a.jpg\n", "do not fit"),
        (b"0 path=a.jpg\n", "do not fit"),
        (b"path=a.jpg\n", "do not fit"),
        (b"14 size=-1024\n", "announces b'-1024' bytes"),
        (b"12 size=1_0\n", "announces b'1_0' bytes"),
        (b"5 =a\n", "do not fit"),
        (b"5 ab\n6 c=d\n", "do not fit"),
    ],
)
def test_broken_pax_records_are_damage(payload: bytes, detail: str) -> None:
    header = member("././@PaxHeader", payload, kind=tarfile.XHDTYPE)
    _, _, damaged = read(header + sample("a") + sample("b") + END)
    assert detail in damaged[0].detail


@pytest.mark.parametrize(
    "payload",
    [
        b"1" * MAX_EXTENSION_BYTES,
        b"5 ab\n" * (MAX_EXTENSION_BYTES // 5 - 1) + b"5 a=\n",
        b"%d c=%s\n" % (10**6, b"1" * (10**6 - 11)),
        b"1 path=" * (MAX_EXTENSION_BYTES // 7),
        b"6 a=b\n" * (MAX_EXTENSION_BYTES // 6),
    ],
    ids=["digits", "far equals sign", "digits in a record", "paths", "records"],
)
@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
@pytest.mark.parametrize("flipped", [False, True], ids=["", "flipped"])
def test_a_large_extension_header_takes_no_long_time(
    payload: bytes, kind: bytes, flipped: bool
) -> None:
    """What is not linear takes minutes over a megabyte."""
    extension = member("././@LongLink", payload, kind=kind)
    tar = extension + sample("a") + sample("b") + END
    start_s = time.process_time()
    read(flip(tar, len(extension) + 101) if flipped else tar)
    assert time.process_time() - start_s < 10


def test_the_first_of_several_extension_headers_has_the_last_word_as_in_tarfile() -> None:
    long = member("././@LongLink", b"b.jpg\0", kind=tarfile.GNUTYPE_LONGNAME)
    pax = member("././@PaxHeader", b"14 path=a.jpg\n9 size=2\n", kind=tarfile.XHDTYPE)
    for chain in (long + pax, pax + long, pax + long + pax, long + long):
        tar = chain + member("c.jpg", b"xyz") + END
        _, members, damaged = read(tar)
        with tarfile.open(fileobj=io.BytesIO(tar)) as file:
            assert [(m.name, m.num_bytes) for m in members] == [(i.name, i.size) for i in file]
        assert damaged == []


def test_old_sparse_map_blocks_are_headers() -> None:
    block = bytearray(member("a.jpg", b"xy", kind=tarfile.GNUTYPE_SPARSE)[:BLOCK])
    block[257:265] = b"ustar  \0"
    block[345:BLOCK] = bytes(BLOCK - 345)
    block[482] = 1
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    tar = bytes(block) + bytes(BLOCK) + b"xy".ljust(BLOCK, b"\0")
    reader, (sparse, other), _ = read(tar + member("b.jpg", b"z") + END)
    assert (sparse.kind, sparse.offset, other.name) == ("other", 2 * BLOCK, "b.jpg")
    assert reader.num_bytes_of["headers"] == 3 * BLOCK
    block[482:483] = struct.pack("B", 1)
    reader, members, _ = read(bytes(block) + b"x")
    assert (members, reader.has_end) == ([], False)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=3000), st.sampled_from([b"", member("a.jpg", jpeg(1)), END]))
def test_any_bytes_at_all(data: bytes, lead: bytes) -> None:
    read(lead + data)
    read(lead + data, keep=False)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_header_fields(data) -> None:
    block = bytearray(sample("a")[:BLOCK])
    for _ in range(data.draw(st.integers(1, 3))):
        field = data.draw(st.sampled_from([(0, 100), (100, 8), (124, 12), (156, 1), (257, 8)]))
        value = data.draw(st.binary(min_size=1, max_size=field[1]))
        block[field[0] : field[0] + len(value)] = value
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    read(bytes(block) + sample("b") + END)
