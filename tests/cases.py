"""The law of a shard, case by case: a tar, and what has to come of it."""

from __future__ import annotations

import tarfile
from collections.abc import Mapping
from dataclasses import dataclass

from miner.schema import Reason
from tests.tars import (
    BLOCK,
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
    with_field,
)


@dataclass(frozen=True)
class Case:
    """A tar, and what has to come of it."""

    name: str
    tar: bytes
    kept: tuple[str, ...]
    rows: tuple[tuple[str, Reason], ...] = ()
    note: str = ""


def _whole_cases() -> list[Case]:
    three = ("000", "001", "002")
    long = tuple("deep/" * 40 + f"{'x' * 90}{i}" for i in range(3))
    two = sample("a", 1) + sample("b", 2)
    late = b"comment=made by a test\n"
    return [
        Case("good ustar", good_tar(), three),
        Case("good gnu, long names", good_tar(long, tar_format=tarfile.GNU_FORMAT), long),
        Case("good pax, long names", good_tar(long, tar_format=tarfile.PAX_FORMAT), long),
        Case("webdataset's writer", webdataset_tar(three), three),
        Case("zeros up to a whole record", good_tar() + bytes(9000), three),
        Case("one zero block at the end", good_tar()[:-BLOCK], three, note="instead of 1024"),
        Case("half a zero block at the end", good_tar()[:-700], three, note="instead of 1024"),
        Case("no members", END, ()),
        Case("folders", member("d/", kind=tarfile.DIRTYPE) + sample("d/a") + END, ("d/a",)),
        Case("upper case", member("a.JPG", jpeg(1)) + member("a.TXT", b"x") + END, ("a",)),
        Case("empty image", member("a.jpg") + END, ("a",)),
        Case("absolute and ..", sample("/etc/a") + sample("../b") + END, ("/etc/a", "../b")),
        Case("not in order", sample("b") + sample("a") + END, ("b", "a")),
        Case("meta members", member("__x__", b"1") + two + END, ("a", "b"), note="metadata"),
        Case(
            "reserved extension",
            member("a.__bad__", b"1") + two + END,
            ("a", "b"),
            note="metadata",
        ),
        Case("README", member("README", b"1") + two + END, ("a", "b"), note="extension"),
        Case("hidden twins", member("d/._a.jpg", b"1") + two + END, ("a", "b"), note="extension"),
        Case(
            "text is a link",
            member("a.jpg", jpeg(1)) + member("a.txt", kind=tarfile.SYMTYPE) + END,
            ("a",),
            note="link",
        ),
        Case("pickle", member("a.jpg", jpeg(1)) + member("a.pkl", noise(99)) + END, ("a",)),
        Case("large array", member("a.jpg", jpeg(1)) + member("a.npy", noise(9000)) + END, ("a",)),
        Case(
            "global comment",
            member("g", b"%d " % (len(late) + 3) + late, kind=tarfile.XGLTYPE) + two + END,
            ("a", "b"),
            note="global",
        ),
    ]


def _quarantine_cases() -> list[Case]:
    first = sample("a", 1)
    jpg, txt = member("a.jpg", jpeg(1)), member("a.txt", b"x")
    other = member("b.jpg", jpeg(2))
    link = member("a.jpg", kind=tarfile.SYMTYPE)
    return [
        Case("same key, adjacent", first + sample("a", 2) + END, ("a",), _rows("a duplicate_key")),
        Case(
            "same key, later",
            first + sample("b") + sample("a", 2) + END,
            ("a", "b"),
            _rows("a duplicate_key"),
        ),
        Case("scattered", jpg + other + txt + END, ("b",), _rows("a scattered_key")),
        Case(
            "scattered twice",
            jpg + other + txt + member("c.jpg", jpeg(3)) + member("a.json", b"{}") + END,
            ("b", "c"),
            _rows("a scattered_key"),
        ),
        Case("scattered, text first", txt + other + jpg + END, ("b",), _rows("a scattered_key")),
        Case(
            "two images",
            member("a.l.jpg", jpeg(1)) + member("a.r.jpg", jpeg(2)) + other + END,
            ("b",),
            _rows("a several_images"),
        ),
        Case("no image", txt + other + END, ("b",), _rows("a no_image")),
        Case("image is a link", link + txt + other + END, ("b",), _rows("a not_a_file")),
        Case(
            "image is a device",
            member("a.jpg", kind=tarfile.CHRTYPE) + other + END,
            ("b",),
            _rows("a not_a_file"),
        ),
        Case(
            "old sparse member",
            member("a.jpg", jpeg(1), kind=tarfile.GNUTYPE_SPARSE, tar_format=tarfile.GNU_FORMAT)
            + other
            + END,
            ("b",),
            _rows("a not_a_file"),
        ),
        Case(
            "PAX sparse member",
            _pax({"GNU.sparse.major": "1", "GNU.sparse.name": "a.jpg"}, "tmp.jpg") + other + END,
            ("b",),
            _rows("a not_a_file"),
        ),
        Case(
            "name is not UTF-8",
            member(b"\xff.jpg", jpeg(1)) + member(b"\xff.txt", b"x") + other + END,
            ("b",),
            _rows("\\udcff unsafe_name"),
        ),
        Case(
            "control character",
            member("a\x07.jpg", jpeg(1)) + other + END,
            ("b",),
            _rows("a\\x07 unsafe_name"),
        ),
        Case("empty name", member("", jpeg(1)) + other + END, ("b",), _rows(" unsafe_name")),
        Case(
            "large image",
            member("a.jpg", noise(5000)) + other + END,
            ("b",),
            _rows("a too_many_bytes"),
        ),
    ]


def _damage_cases() -> list[Case]:
    tar = good_tar()
    jpg, txt, last = (header_of(tar, f"001.{kind}") for kind in ("jpg", "txt", "json"))
    four = good_tar(("000", "001", "002", "003"))
    images = b"".join(member(f"{i}.jpg", jpeg(i)) for i in range(3)) + END
    lie = member("a.jpg", jpeg(1), size=10**6)
    around = ("000", "002")
    lost, more = "001 damaged_header", " damaged_header"
    long_name = "x" * 120 + ".jpg"
    pax = member(long_name, jpeg(1), tar_format=tarfile.PAX_FORMAT)
    return [
        Case("flip: mode, first member", flip(tar, jpg + 101), around, _rows(lost)),
        Case("flip: mode, second member", flip(tar, txt + 101), around, _rows(lost)),
        Case("flip: mode, last member", flip(tar, last + 101), around, _rows(lost)),
        Case("flip: checksum", flip(tar, txt + 150), around, _rows(lost)),
        Case("flip: magic", flip(tar, txt + 258), around, _rows(lost)),
        Case(
            "flip: name becomes a new one",
            flip(tar, jpg, 6),
            around,
            _rows(lost, "p01 damaged_header"),
        ),
        Case("flip: name becomes another's", flip(tar, last + 2, 0), around, _rows(lost)),
        Case(
            "flip: name becomes a later one's",
            flip(four, last + 2, 1),
            ("000", "002", "003"),
            _rows(lost),
        ),
        Case("flip: size", flip(tar, jpg + 131), around, _rows(lost, more)),
        Case("flip: data", flip(tar, jpg + BLOCK + 300), ("000", "001", "002")),
        Case("noise over a header", overwrite(tar, jpg, noise(BLOCK)), around, _rows(lost, more)),
        Case("zeros over a header", overwrite(tar, txt, bytes(BLOCK)), around, _rows(lost, more)),
        Case(
            "noise over a lone image", overwrite(images, 0, noise(BLOCK)), ("1", "2"), _rows(more)
        ),
        Case(
            "noise over two samples",
            overwrite(tar, jpg, noise(header_of(tar, "002.txt") - jpg)),
            ("000",),
            _rows("002 damaged_header", more),
        ),
        Case(
            "zeros over two headers",
            overwrite(tar, txt, bytes(3 * BLOCK)),
            ("000",),
            _rows("001 trailing_bytes", " trailing_bytes"),
        ),
        Case("no tar at all", b"<html>Not found</html>" * 100, (), _rows(more, " truncated_shard")),
        Case("lying size", lie + sample("b") + END, ("b",), _rows("a damaged_header")),
        Case(
            "negative size",
            _negative() + sample("b") + END,
            ("b",),
            _rows("a damaged_header", more),
        ),
        Case("huge PAX header", _huge_pax() + sample("b") + END, ("b",), _rows("a damaged_header")),
        Case(
            "flip: PAX header",
            flip(pax, 101) + sample("b") + END,
            ("b",),
            _rows(more),
        ),
        Case(
            "flip: behind a PAX header",
            flip(pax, 2 * BLOCK + 101) + sample("b") + END,
            ("b",),
            _rows("x" * 120 + " damaged_header"),
        ),
        Case(
            "global path",
            _pax({"path": "b.jpg"}, "", kind=tarfile.XGLTYPE) + sample("b") + END,
            (),
            _rows("b damaged_header"),
        ),
    ]


def _end_cases() -> list[Case]:
    tar = good_tar()
    three, two = ("000", "001", "002"), ("000", "001")
    jpg, txt = header_of(tar, "002.jpg"), header_of(tar, "002.txt")
    named, unnamed = "002 truncated_shard", " truncated_shard"
    lie = member("c.jpg", jpeg(1), size=10**6)
    return [
        Case("empty file", b"", (), _rows(unnamed)),
        Case("cut in an image", tar[: jpg + BLOCK + 100], two, _rows(named)),
        Case("cut in the last member", tar[: -len(END) - BLOCK + 9], two, _rows(named)),
        Case("cut between samples", tar[:jpg], two, _rows(unnamed)),
        Case("cut between members", tar[:txt], two, _rows(named)),
        Case("cut in a header", tar[: txt + 200], two, _rows(named)),
        Case("cut in the padding", tar[: -len(END) - 9], three, _rows(unnamed)),
        Case("no end mark", tar[: -len(END)], three, _rows(unnamed)),
        Case("last size lies", sample("b") + lie + END, ("b",), _rows("c truncated_shard")),
        Case("a second tar", tar + good_tar(["9"]), three, _rows(" trailing_bytes")),
        Case("garbage behind", tar + bytes(4096) + b"x", three, _rows(" trailing_bytes")),
        Case(
            "cut and damaged",
            flip(tar, header_of(tar, "000.txt") + 101)[: jpg + 700],
            ("001",),
            _rows("000 damaged_header", named),
        ),
    ]


def _rows(*texts: str) -> tuple[tuple[str, Reason], ...]:
    pairs = (text.rsplit(" ", 1) for text in texts)
    return tuple((key, Reason(reason)) for key, reason in pairs)


def _pax(fields: Mapping[str, str], name: str, kind: bytes = tarfile.XHDTYPE) -> bytes:
    payload = b""
    for field, value in fields.items():
        record = f" {field}={value}\n".encode()
        payload += b"%d" % (len(record) + 2) + record
    extension = member("././@PaxHeader", payload, kind=kind)
    return extension + (member(name, jpeg(1)) if name else b"")


def _negative() -> bytes:
    whole = member("a.jpg", jpeg(1))
    return with_field(whole[:BLOCK], 124, b"\xff" * 11 + b"\x00") + whole[BLOCK:]


def _huge_pax() -> bytes:
    return member("././@PaxHeader", bytes(2**20 + 1), kind=tarfile.XHDTYPE) + sample("a", 1)


CASES = [*_whole_cases(), *_quarantine_cases(), *_damage_cases(), *_end_cases()]
