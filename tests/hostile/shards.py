"""Bad and odd shards: which samples are whole, what is said of the others, and why each is here."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field

from miner.schema import Reason
from tests.hostile.sidecars import SIDECARS
from tests.tars import (
    BLOCK,
    END,
    flip,
    good_tar,
    header_of,
    jpeg,
    member,
    noise,
    sample,
    with_field,
)

Rows = tuple[tuple[str, Reason], ...]
DAMAGED, CUT, TRAILING = Reason.DAMAGED_HEADER, Reason.TRUNCATED_SHARD, Reason.TRAILING_BYTES
UNSAFE, LINK, NONE, TWICE = (
    Reason.UNSAFE_NAME,
    Reason.NOT_A_FILE,
    Reason.NO_IMAGE,
    Reason.DUPLICATE_KEY,
)


@dataclass(frozen=True, kw_only=True)
class HostileShard:
    """A tar, what has to come of it, and maybe the table beside it.

    Attributes:
        name: of the case.
        tar: the whole file.
        kept: keys of the samples that are whole, in order.
        rows: key and reason of each row of the quarantine.
        why: what it attacks.
        sidecar: a Parquet file, or what is there in its place.
        says: for a key, columns of `samples`; a string in `meta` has to be contained in it.
    """

    name: str
    tar: bytes
    kept: tuple[str, ...]
    rows: Rows = ()
    why: str
    sidecar: bytes | None = None
    says: dict[str, dict[str, str | None]] = field(default_factory=dict)


B = sample("b", 2)
"""The good neighbour of most cases."""


def _case(
    name: str, tar: bytes, kept: str, rows: Rows = (), *, why: str, end: bytes = END
) -> HostileShard:
    """A case with a good neighbour behind it; `kept` are its own keys, in one word."""
    return HostileShard(name=name, tar=tar + B + end, kept=(*kept.split(), "b"), rows=rows, why=why)


def _cuts() -> Iterator[HostileShard]:
    """A tar of two samples cut at every block."""
    tar = good_tar(("a", "b"))
    starts = {key: header_of(tar, f"{key}.jpg") for key in "ab"}
    parts = [header_of(tar, f"{key}.{kind}") for key in "ab" for kind in ("jpg", "txt", "json")]
    for stop in range(0, len(tar) - len(END) + 1, BLOCK):
        kept = tuple(key for key in "ab" if stop >= starts.get(chr(ord(key) + 1), len(tar) - 1024))
        named = "" if stop in (0, starts["b"], len(tar) - len(END)) else "ab"[len(kept)]
        if named == "a" and stop in parts:
            # Nobody knows yet that its samples have further members.
            kept, named = ("a",), ""
        rows = ((named, CUT),)
        why = "the tar ends at a block's boundary"
        yield HostileShard(name=f"cut-{stop}", tar=tar[:stop], kept=kept, rows=rows, why=why)


FIELDS = {
    **{"mode": 100, "uid": 108, "gid": 116, "mtime": 136, "checksum": 150, "type": 156},
    **{"link": 157, "magic": 257, "version": 263, "user": 265, "group": 297, "major": 329},
    **{"minor": 337, "behind": 501},
}


def _flips() -> Iterator[HostileShard]:
    """One bit turned in each field of a header."""
    tar = good_tar(("a", "b", "c"))
    start = header_of(tar, "b.txt")
    for name, offset in FIELDS.items():
        yield HostileShard(
            name=f"flip-{name}",
            tar=flip(tar, start + offset),
            kept=("a", "c"),
            rows=(("b", DAMAGED),),
            why="a bit turned in a header",
        )


def _sizes() -> Iterator[HostileShard]:
    """Sizes that lie; the checksum is right."""
    whole = member("a.jpg", jpeg(1))
    fields = {
        "8-GiB": b"77777777777\0",
        "8-GiB-in-256": b"\x80" + (2**33).to_bytes(11, "big"),
        "2-to-the-80": b"\x80\0" + b"\xff" * 10,
        "no-number": b"lots of it\0\0",
        "minus": b"-0000000100\0",
        "negative-in-256": b"\xff" * 11 + b"\x00",
        "float": b"1e3\0".ljust(12, b"\0"),
    }
    hidden = {"no-number", "minus", "negative-in-256", "float"}
    for name, value in fields.items():
        rows = (("", DAMAGED),) * (name in hidden) + (("a", DAMAGED),)
        tar = with_field(whole[:BLOCK], 124, value) + whole[BLOCK:]
        yield _case(f"size-{name}", tar, "", rows, why="a size that lies")
    empty = with_field(whole[:BLOCK], 124, b"00000000000\0")
    why = "a size of nothing in front of contents"
    yield _case("size-0", empty + whole[BLOCK:], "", (("", DAMAGED), ("a", DAMAGED)), why=why)


def _kinds() -> Iterator[HostileShard]:
    """What may stand where a file is expected."""
    names = {b"1": "hard-link", b"2": "link", b"3": "device", b"4": "disk", b"6": "pipe"}
    for kind, name in names.items():
        tar = member("a.jpg", kind=kind) + member("a.txt", b"x")
        yield _case(f"kind-{name}", tar, "", (("a", LINK),), why="no file, and not followed")
    contiguous = member("a.jpg", jpeg(1), kind=b"7")
    yield _case("kind-contiguous", contiguous, "a", why="a kind that is a file")
    others = {b"V": "label", b"M": "volume", b"D": "dump", b"q": "unknown"}
    for kind, name in others.items():
        tar = member("a.jpg", jpeg(1), kind=kind)
        yield _case(f"kind-{name}", tar, "", (("a", LINK),), why="contents, but of no file")
    gnu = member("a.jpg", jpeg(1), kind=b"S", tar_format=tarfile.GNU_FORMAT)
    yield _case("kind-sparse", gnu, "", (("a", LINK),), why="bytes that are not in the tar")


def pax(payload: bytes, name: str = "a.jpg", kind: bytes = tarfile.XHDTYPE) -> bytes:
    """A member behind a PAX header."""
    return member("././@PaxHeader", payload, kind=kind) + member(name, jpeg(1))


def record(keyword: str, value: str | bytes) -> bytes:
    """One record of a PAX header, with its own length in front."""
    body = b" " + keyword.encode() + b"=" + (value.encode() if isinstance(value, str) else value)
    length = next(n for n in range(len(body), len(body) + 9) if len(b"%d" % n + body) + 1 == n)
    return b"%d" % length + body + b"\n"


def _extensions() -> Iterator[HostileShard]:
    """Extension headers that rename, resize, chain or take for ever."""
    long = member("././@LongLink", b"a.jpg\0", kind=tarfile.GNUTYPE_LONGNAME)
    hidden: Rows = (("", DAMAGED),)
    # Who cannot be sure of its name is not kept.
    lost: Rows = (("a", DAMAGED),)
    why = "an extension header"
    cases: dict[str, tuple[bytes, str, Rows]] = {
        "sparse-0.1": (pax(record("GNU.sparse.map", "0,9")), "", (("a", LINK),)),
        "sparse-1.0": (
            pax(record("GNU.sparse.major", "1") + record("GNU.sparse.name", "a.jpg"), "x.jpg"),
            *("", (("a", LINK),)),
        ),
        "size-larger": (pax(record("size", str(10**12))), "", (("a", DAMAGED),)),
        "size-negative": (pax(record("size", "-512")), "", lost),
        "size-no-number": (pax(record("size", "many")), "", lost),
        "path-not-UTF-8": (pax(record("path", b"\xff.jpg")), "", (("\\udcff", UNSAFE),)),
        "path-with-NUL": (pax(record("path", "a\0.jpg")), "", (("a\\x00", UNSAFE),)),
        "path-empty": (pax(record("path", "")), "", (("", UNSAFE),)),
        "path-up": (pax(record("path", "../../a.jpg")), "../../a", ()),
        "path-absolute": (pax(record("path", "/etc/a.jpg")), "/etc/a", ()),
        "path-twice": (pax(record("path", "x.jpg") + record("path", "a.jpg")), "a", ()),
        "binary-charset": (pax(record("hdrcharset", "BINARY")), "a", ()),
        "comment-of-lines": (pax(record("comment", "9 path=x.jpg\n" * 99)), "a", ()),
        "digits": (pax(b"1" * 10**6), "", lost),
        "far-equals-sign": (pax(b"5 ab\n" * 200_000 + b"5 a=\n"), "", lost),
        "digits-within": (pax(record("comment", b"1" * 10**6)), "a", ()),
        "too-large": (pax(record("comment", b"x" * 2**20)), "", lost),
        "16-of-them": (long * 16 + member("x.jpg", jpeg(1)), "a", ()),
        "17-of-them": (long * 17 + member("x.jpg", jpeg(1)), "", hidden),
        "long-name-empty": (
            member("././@LongLink", b"\0", kind=b"L") + member("a.jpg", jpeg(1)),
            *("", (("", UNSAFE),)),
        ),
        "long-name-no-end": (
            member("././@LongLink", b"a.jpg", kind=b"L") + member("x.jpg", jpeg(1)),
            *("a", ()),
        ),
    }
    for name, (tar, kept, rows) in cases.items():
        yield _case(f"extension-{name}", tar, kept, rows, why=why)
    last = member("././@PaxHeader", record("path", "a.jpg"), kind=b"x")
    why = "an extension header of nothing"
    rows = (("", DAMAGED), ("", CUT), ("a", DAMAGED))
    yield _case("extension-dangling", b"", "", rows, why=why, end=last + END)
    everything = pax(record("path", "b.jpg"), kind=tarfile.XGLTYPE)
    yield _case("extension-global-path", everything, "", (("a", DAMAGED),), why="renames all")


ODD_NAMES = {
    **{"quote": "a'b", "double-quote": 'a"b', "markup": "<script>alert(1)</script>"},
    **{"sql": "'; DROP TABLE samples; --", "shell": "$(touch pwned)`id`", "format": "%s{0}%n"},
    **{"percent": "%2e%2e%00", "back-slash": "a\\b\\c", "drive": "C:a", "glob": "*?[a]"},
    **{"dash": "-rf", "tilde": "~root", "space": " a ", "up": "../../../../tmp/a", "root": "/a"},
    **{"dots": "....//....//a", "right-to-left": "a\u202egpj", "line-separator": "a\u2028b"},
    **{"zero-width": "a\u200bb", "combining": "e\u0301" * 9, "emoji": "\U0001f600"},
    **{"noncharacter": "a\uffffb", "markup-of-rich": "[red]a[/red]", "equals": "=1+1"},
    **{"wide": "\uff41", "bom": "\ufeffa"},
}
CONTROLS = {
    **{"newline": "a\nb", "tab": "a\tb", "return": "a\rb", "bell": "a\x07", "escape": "a\x1b[31m"},
    **{"delete": "a\x7f", "next-line": "a\x85b"},
}


def _names() -> Iterator[HostileShard]:
    """Names that mean something to a shell, a page, a query or a path."""
    for name, key in ODD_NAMES.items():
        tar = b"".join(
            member(f"{key}.{kind}", data, tar_format=tarfile.PAX_FORMAT)
            for kind, data in (("jpg", jpeg(1)), ("txt", b"x"), ("json", b"{}"))
        )
        yield HostileShard(
            name=f"name-{name}", tar=tar + B + END, kept=(key, "b"), why="a name that means more"
        )
    for name, key in CONTROLS.items():
        tar = member(f"{key}.jpg", jpeg(1))
        shown = key.encode("unicode_escape").decode()
        rows = ((shown, UNSAFE),)
        yield _case(f"name-{name}", tar, "", rows, why="a name with a control character")
    why = "webdataset takes no such name"
    for name in (".jpg", "..jpg", "d/.jpg", "a", "a.jpg/"):
        kind = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
        tar = member(name, b"" if kind == tarfile.DIRTYPE else jpeg(1), kind=kind)
        yield _case(f"name-{name.replace('/', '-')}", tar, "", why=why)
    long = "x" * 5000 + ".jpg"
    digest = "x" * 200 + "~" + hashlib.sha256(long.encode()).hexdigest()[:16]
    tar = member(long, jpeg(1), tar_format=tarfile.PAX_FORMAT)
    yield _case("name-long", tar, "", ((digest, UNSAFE),), why="a name of 5,000 letters")


def _metadata() -> Iterator[HostileShard]:
    """Members that describe the image, broken or huge: each costs a field, never the image."""
    deep, script = b"[" * 100_000, "</script><script>alert(1)"
    texts: dict[str, tuple[str, bytes, dict[str, str | None]]] = {
        "json-not-UTF-8": ("json", b'{"caption": "\xff"}', {"meta": "json: not UTF-8"}),
        "json-NaN": ("json", b'{"x": NaN, "y": -Infinity}', {"meta": '"x": null, "y": null'}),
        "json-1e999": ("json", b'{"x": 1e999}', {"meta": '"x": null'}),
        "json-10-MB": ("json", b'{"x": "' + b"y" * 10**7 + b'"}', {"meta": "json: more than"}),
        "json-deep": ("json", b'{"x": ' + deep, {"meta": "nested too deeply"}),
        "json-33-deep": ("json", b'{"x": ' + b"[" * 33 + b"]" * 33 + b"}", {"meta": "deeper than"}),
        "json-digits": ("json", b'{"x": ' + b"9" * 5000 + b"}", {"meta": "json: Exceeds"}),
        "json-list": ("json", b"[1]", {"meta": "not an object"}),
        "json-no-json": ("json", b"<html>", {"meta": "json: "}),
        "json-empty": ("json", b"", {"meta": "json: "}),
        "json-same-name": ("json", b'{"caption": "x", "caption": "y"}', {"caption": "y"}),
        "json-NUL": ("json", b'{"caption": "a\\u0000b\\ud800"}', {"caption": "ab\ufffd"}),
        "json-object-caption": ("json", b'{"caption": {"a": 1}}', {"caption": None}),
        "json-names": ("json", b'{"__proto__": {"x": 1}, "\\u0000": 3}', {"meta": "__proto"}),
        "json-100000-fields": (
            "json",
            json.dumps({f"f{n}": n for n in range(50_000)}).encode(),
            {"meta": "meta: more than"},
        ),
        "txt-NUL": ("txt", b"a\0b", {"caption": "ab"}),
        "txt-surrogates": ("txt", b"\xed\xa0\x80", {"caption": "\ufffd" * 3}),
        "txt-script": ("txt", script.encode(), {"caption": script}),
        "txt-escapes": ("txt", b"\x1b]0;pwned\x07", {"caption": "\x1b]0;pwned\x07"}),
        "txt-2-MB": ("txt", b"x" * 2 * 10**6, {"caption": None, "meta": "txt: more than"}),
        "txt-long": ("txt", b"x" * 20_000, {"caption": "x" * 10_000}),
        "cls-nonsense": ("cls", b"\x80\x04cos\nsystem\n.", {"meta": "cls: not UTF-8"}),
        "url-javascript": ("url", b"javascript:alert(1)", {"url": "javascript:alert(1)"}),
    }
    for seed, (name, (kind, data, says)) in enumerate(texts.items(), 100):
        # Each has an image of its own, so that its caption comes into the report.
        tar = member("a.jpg", jpeg(seed)) + member(f"a.{kind}", data)
        case = _case(name, tar, "a", why="metadata that is broken or too much")
        yield HostileShard(**{**vars(case), "says": {"a": says}})
    for kind in ("pkl", "pyd", "npy", "npz", "pth", "pt", "ten", "mp", "cbor", "gz", "jpg.gz"):
        tar = member("a.jpg", jpeg(1)) + member(f"a.{kind}", b"\x80\x04cos\nsystem\n(S'id'\ntR.")
        yield _case(f"member-{kind}", tar, "a", why="what webdataset would decode")
    same = json.dumps({"url": "https://example.org/1"}).encode()
    tar = b"".join(
        member(f"{k}.jpg", jpeg(s)) + member(f"{k}.json", same) for s, k in enumerate("ac")
    )
    yield _case("same-url-twice", tar, "a c", why="two samples of one URL are two samples")


def _wholes() -> Iterator[HostileShard]:
    """Whole files that are no tar, or more than one."""
    tar = good_tar(("a", "b"))
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        file.writestr(zipfile.ZipInfo("a.jpg"), jpeg(1))
    nothing: Rows = (("", DAMAGED), ("", CUT))
    files: dict[str, tuple[bytes, str, Rows]] = {
        "gzip": (gzip.compress(noise(4000) + tar, mtime=0), "", nothing),
        "zip": (packed.getvalue(), "", nothing),
        "html": (b"<html>503</html>" * 64, "", nothing),
        "noise": (noise(50_000), "", nothing),
        "one-byte": (b"x", "", (("", CUT),)),
        "half-a-block": (noise(BLOCK - 1), "", (("", CUT),)),
        "zeros": (bytes(5000), "", ()),
        "half-an-end": (bytes(BLOCK - 1), "", ()),
        "two-ends": (tar + END, "a b", ()),
        "megabytes-of-zeros": (tar + bytes(3 * 2**20), "a b", ()),
        "two-tars": (tar + good_tar(("c",)), "a b", (("", TRAILING),)),
        "garbage-behind": (tar + noise(999), "a b", (("", TRAILING),)),
        "end-first": (END + tar, "", (("", TRAILING),)),
        "nested": (member("a.tar", tar) + member("b.jpg", jpeg(2)) + END, "b", (("a", NONE),)),
        "same-key-300-times": (sample("a") * 300 + END, "a", (("a", TWICE),) * 299),
    }
    for name, (data, kept, rows) in files.items():
        why = "a whole file that is not what its name says"
        yield HostileShard(name=name, tar=data, kept=tuple(kept.split()), rows=rows, why=why)
    other = member("b.jpg", jpeg(2)) + END
    for name, (table, says) in SIDECARS.items():
        yield HostileShard(
            name=f"sidecar-{name}",
            tar=member("a.jpg", jpeg(1)) + other,
            kept=("a", "b"),
            sidecar=table,
            why="a hostile table beside a good tar",
            says={"a": {"meta": says}},
        )


SHARDS = [
    *_cuts(),
    *_flips(),
    *_sizes(),
    *_kinds(),
    *_extensions(),
    *_names(),
    *_metadata(),
    *_wholes(),
]
