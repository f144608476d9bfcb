"""Columns of ids and vectors, and lists of ids."""

from datetime import datetime
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from miner.errors import StoreError
from miner.importing.columns import fields_of, id_column_of, listed_ids, rows_of, vector_column_of


def table(path: Path, **columns: object) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def test_ids_are_found_by_usual_names(tmp_path: Path) -> None:
    path = table(tmp_path / "a.parquet", URL=["u"], Image_Path=["p"], other=["o"], KEY=[1])
    assert id_column_of(path, None) == "KEY"
    assert id_column_of(path, "other") == "other"
    with pytest.raises(StoreError, match=r"no column nothing.*columns are URL, Image_Path, other"):
        id_column_of(path, "nothing")
    with pytest.raises(StoreError, match=r"no usual column of ids.*\(--id-column\)"):
        id_column_of(table(tmp_path / "b.parquet", x=["u"]), None)
    floats = table(tmp_path / "c.parquet", key=[1.0])
    with pytest.raises(StoreError, match="column key is double; ids are text or whole numbers"):
        id_column_of(floats, None)
    frame = pd.DataFrame({"key": pd.Categorical(["a", "b"])})
    frame.to_parquet(tmp_path / "d.parquet")
    assert [row["key"] for row in rows_of(tmp_path / "d.parquet", ["key"])] == ["a", "b"]
    assert id_column_of(tmp_path / "d.parquet", None) == "key"
    double = pa.table([pa.array(["a"]), pa.array(["b"])], names=["key", "key"])
    pq.write_table(double, tmp_path / "e.parquet")
    with pytest.raises(StoreError, match="or several of one name"):
        id_column_of(tmp_path / "e.parquet", None)


def test_vectors_are_the_only_lists_or_have_a_usual_name(tmp_path: Path) -> None:
    one = table(tmp_path / "a.parquet", id=["a"], strange=[[1.0]])
    assert vector_column_of(one, None) == "strange"
    two = table(tmp_path / "b.parquet", Embedding=[[1.0]], tags=[["x"]])
    assert vector_column_of(two, None) == "Embedding"
    assert vector_column_of(two, "tags") == "tags"
    with pytest.raises(StoreError, match=r"no usual column of vectors.*\(--vector-column\)"):
        vector_column_of(table(tmp_path / "c.parquet", id=["a"]), None)


@pytest.mark.parametrize(
    ("name", "text", "ids"),
    [
        ("a.txt", "000123\n\nb c\n", ["000123", "", "b c"]),
        ("a.csv", 'n,id\n1,000123\n2,"a,b"\n', ["000123", "a,b"]),
        ("a.csv", "key\n=cmd()\n../../x\n", ["=cmd()", "../../x"]),
    ],
)
def test_lists_are_text(tmp_path: Path, name: str, text: str, ids: list[str]) -> None:
    (tmp_path / name).write_text(text)
    assert listed_ids(tmp_path / name, None) == ids


def test_list_in_parquet(tmp_path: Path) -> None:
    path = table(tmp_path / "ids", id=["a", None, "b"])
    assert listed_ids(path, None) == ["a", "", "b"]


def test_broken_lists(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(StoreError, match=r"--ids .*latin\.txt cannot be read"):
        listed_ids(tmp_path / "latin.txt", None)
    (tmp_path / "no.csv").write_text("a,b\n1,2\n")
    with pytest.raises(StoreError, match="no usual column of ids"):
        listed_ids(tmp_path / "no.csv", None)
    (tmp_path / "long.csv").write_text("id\n" + "x" * 200_000 + "\n")
    with pytest.raises(StoreError, match="field larger than field limit"):
        listed_ids(tmp_path / "long.csv", None)


def test_rows_that_cannot_be_read(tmp_path: Path) -> None:
    bad = pa.Array.from_buffers(
        pa.string(),
        1,
        [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe")],
    )
    path = table(tmp_path / "a.parquet", key=bad)
    with pytest.raises(StoreError, match="key cannot be read"):
        [*rows_of(path, ["key"])]


def test_a_field_that_cannot_be_read_costs_itself(tmp_path: Path) -> None:
    odd = pa.array([1, 86_400_000_000_000, None], pa.timestamp("ns"))
    path = table(tmp_path / "a.parquet", at=odd, width=[3, 4, 5])
    first, second, third = fields_of(path, ["at", "width"])
    assert str(first["at"]).startswith("<unreadable: ")
    assert first["width"] == 3
    assert second == {"at": datetime(1970, 1, 2), "width": 4}
    assert third == {"at": None, "width": 5}
    assert [*fields_of(path, [])] == [{}, {}, {}]
    (tmp_path / "cut.parquet").write_bytes(path.read_bytes()[:-20])
    with pytest.raises(StoreError, match="is no Parquet that can be read"):
        [*fields_of(tmp_path / "cut.parquet", ["at"])]
