import csv
import io

import pyarrow as pa
import pytest

from miner import schema
from miner.reporting.csv_text import COSINES, cosine_rows, csv_text


def read(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text, newline=""), strict=True))


def test_lines_end_as_the_standard_says() -> None:
    assert csv_text(("a", "b"), [(1, 0.5), ("x", -2)]) == "a,b\r\n1,0.5\r\nx,-2\r\n"


def test_any_text_comes_back() -> None:
    rows = [('say "x", y', "two\r\nlines"), ("", " lead"), ("a,b", "ünï\u2028")]
    assert read(csv_text(("a", "b"), rows))[1:] == [list(row) for row in rows]


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_no_text_is_a_formula(start: str) -> None:
    hostile = start + "cmd|' /C calc'!A0"
    [[cell, number]] = read(csv_text(("a", "b"), [(hostile, -0.25)]))[1:]
    assert cell == "'" + hostile
    assert number == "-0.25"


def test_bins_have_their_edges() -> None:
    rows = [
        {"source": "candidates", "clip_bin": 95, "dino_bin": -1, "count": 7},
        {"source": "random", "clip_bin": -100, "dino_bin": 29, "count": 10**12},
    ]
    table = pa.Table.from_pylist(rows, schema=schema.HISTOGRAM)
    assert csv_text(COSINES, cosine_rows(table)).splitlines() == [
        "source,clip_from,clip_to,dino_from,dino_to,count",
        "candidates,0.95,0.96,-0.01,0.0,7",
        "random,-1.0,-0.99,0.29,0.3,1000000000000",
    ]
