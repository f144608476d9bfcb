from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from miner.errors import ResourceError
from miner.selecting.hash_lists import read_hashes

SHA, OTHER = "ab" * 32, "cd" * 32
PHASH = "8000000000000005"


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        (
            "a.txt",
            f"\ufeff{SHA.upper()}\n\n {PHASH}\r\n",
            [("line 1", "sha256", SHA), ("line 3", "phash", PHASH)],
        ),
        (
            "a.csv",
            f"x,SHA256_1,sha256_2,phash\n1,{SHA},{OTHER},{PHASH}\n2,,{SHA},\n",
            [
                ("row 2, column SHA256_1", "sha256", SHA),
                ("row 2, column sha256_2", "sha256", OTHER),
                ("row 2, column phash", "phash", PHASH),
                ("row 3, column sha256_2", "sha256", SHA),
            ],
        ),
        (
            "a.txt",
            f"{SHA}  a b.jpg\n\\{OTHER} *a\\nb.jpg\n",
            [("line 1", "sha256", SHA), ("line 2", "sha256", OTHER)],
        ),
        (
            "a.csv",
            f"phash\n{int(PHASH, 16)}\n{int(PHASH, 16) - 2**64}\n1234567890123456\n",
            [
                ("row 2, column phash", "phash", PHASH),
                ("row 3, column phash", "phash", PHASH),
                ("row 4, column phash", "phash", f"{1234567890123456:016x}"),
            ],
        ),
        ("a.csv", f"phash\n{'1' * 16}\n", [("row 2, column phash", "phash", "1" * 16)]),
    ],
)
def test_texts(tmp_path: Path, name: str, text: str, found: list[tuple[str, str, str]]) -> None:
    (tmp_path / name).write_bytes(text.encode())
    assert read_hashes(tmp_path / name) == found


@pytest.mark.parametrize("kind", [pa.uint64(), pa.int64(), pa.string()])
def test_tables_know_a_phash_as_number_or_as_digits(tmp_path: Path, kind: pa.DataType) -> None:
    number = int(PHASH, 16)
    value = {"uint64": number, "int64": number - 2**64}.get(str(kind), PHASH)
    table = pa.table({"phash_1": pa.array([value, None], kind), "sha256": [None, SHA]})
    pq.write_table(table, tmp_path / "list")
    assert read_hashes(tmp_path / "list") == [
        ("row 1", "phash", PHASH),
        ("row 2", "sha256", SHA),
    ]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.txt", b"cat.jpg\n", r"line 1: 'cat.jpg' is no phash, which has 16 hex digits"),
        ("a.txt", f"{SHA[1:]}\n".encode(), "is no sha256, which has 64 hex digits"),
        ("a.txt", b"\xff\xfe\0", "cannot be read"),
        ("a.csv", b"image,url\n1,2\n", r"none of its columns \(image, url\) is sha256 or phash"),
        ("a.csv", b"phash\n99999999999999999999\n", "row 2, column phash: '9+' is no phash"),
        ("a.csv", b"phash\n123\n800000000000000f\n", "row 2, column phash: '123' is no phash"),
        ("a.csv", b'sha256\n"open\n', "cannot be read"),
        ("a.csv", b"", "is sha256 or phash"),
        ("a", b"PAR1 and no more", "cannot be read"),
    ],
)
def test_files_that_are_no_lists(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ResourceError, match=message):
        read_hashes(tmp_path / name)
