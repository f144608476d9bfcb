import io
import json
import math
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas
import polars
import pytest

from miner.handoff.flat import COLUMNS
from miner.records import Json
from miner.store import Store
from tests.handoff_runs import HOSTILE, deliver, selected_of

TEXTS = ("caption_1", "caption_2", "url_1", "label_1", "question", "pair_id", "image_1", "key_2")
NUMBERS = ("rank", "clip_cos", "dino_cos", "gap", "offset_1", "width_2", "pattern")


@pytest.fixture(scope="module")
def folders(reviewed: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("flat")
    for name in ("csv", "jsonl"):
        deliver(reviewed, name, root / name, reviewed="all")
    return root


def with_pandas_csv(root: Path) -> list[Json]:
    # Texts as they are: without this pandas takes NA, null and an empty text for missing ones.
    text = dict.fromkeys([*TEXTS, "caption_1"], str)
    frame = pandas.read_csv(root / "csv/pairs.csv", dtype=text, keep_default_na=False)
    return [dict(zip(frame, row, strict=True)) for row in frame.itertuples(index=False)]


def with_pandas_jsonl(root: Path) -> list[Json]:
    frame = pandas.read_json(
        root / "jsonl/pairs.jsonl", lines=True, dtype=dict.fromkeys(TEXTS, str)
    )
    return [dict(zip(frame, row, strict=True)) for row in frame.itertuples(index=False)]


def with_duckdb_csv(root: Path) -> list[Json]:
    types = dict.fromkeys((*TEXTS, "label_2"), "VARCHAR")
    options = f"allow_quoted_nulls = false, types = {types}"
    return duckdb_rows(f"read_csv('{root}/csv/pairs.csv', {options})")


def with_duckdb_jsonl(root: Path) -> list[Json]:
    return duckdb_rows(f"read_json('{root}/jsonl/pairs.jsonl')")


def duckdb_rows(source: str) -> list[Json]:
    found = duckdb.sql(f"SELECT * FROM {source} ORDER BY rank")
    return [dict(zip(found.columns, row, strict=True)) for row in found.fetchall()]


def with_polars_csv(root: Path) -> list[Json]:
    schema = dict.fromkeys(TEXTS, polars.String)
    return polars.read_csv(root / "csv/pairs.csv", schema_overrides=schema).to_dicts()


def with_polars_jsonl(root: Path) -> list[Json]:
    return polars.read_ndjson(root / "jsonl/pairs.jsonl").to_dicts()


READERS = (
    *(with_pandas_csv, with_pandas_jsonl, with_duckdb_csv, with_duckdb_jsonl),
    *(with_polars_csv, with_polars_jsonl),
)


def is_missing(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.__name__)
def test_readers_get_back_the_very_same_values(reviewed: Store, folders: Path, reader: Any) -> None:
    found, rows = reader(folders), selected_of(reviewed)
    assert len(found) == len(rows) == 66
    for said, row in zip(found, rows, strict=True):
        expected = row | {"question": None, "pattern": None}
        if row["rank"] <= 64:
            expected |= {"question": f"How many, {row['rank']}?", "pattern": 4}
        for name in TEXTS:
            if name not in ("url_1", "image_1") and name in row:
                assert is_missing(said[name]) == is_missing(expected[name]), name
                assert is_missing(said[name]) or said[name] == expected[name], name
        for name in NUMBERS:
            value = expected.get(name)
            if value is not None:
                assert np.float32(said[name]) == np.float32(value), name


@pytest.mark.parametrize("reader", [with_duckdb_csv, with_polars_csv, with_polars_jsonl])
def test_an_empty_text_is_told_from_none(folders: Path, reader: Any) -> None:
    captions = [row[f"caption_{number}"] for row in reader(folders) for number in (1, 2)]
    assert {"", None, *HOSTILE} <= set(captions)


def test_csv_and_json_lines_say_the_same(folders: Path) -> None:
    lines = (folders / "jsonl/pairs.jsonl").read_text("utf-8").split("\n")
    said = [json.loads(line) for line in lines if line]
    assert {frozenset(row) for row in said} == {frozenset(COLUMNS)}
    for row, read in zip(said, with_duckdb_csv(folders), strict=True):
        assert {name: row[name] for name in COLUMNS} == read


def test_urls_hold_no_password_and_no_token(folders: Path) -> None:
    for path in (folders / "csv/pairs.csv", folders / "jsonl/pairs.jsonl"):
        text = path.read_text("utf-8")
        assert "https://a.example/c" in text
        assert "https://a.example/b?w=9" in text
        assert "pass" not in text.replace("passwd", "")
        assert "secret" not in text


def test_cosines_are_as_short_as_they_can_be(reviewed: Store, folders: Path) -> None:
    text = (folders / "csv/pairs.csv").read_text("utf-8")
    first = next(iter(selected_of(reviewed)))
    assert f",{np.float32(first['clip_cos'])!s}," in text
    assert io.StringIO(text).readline().startswith('"rank","pair_id","image_1"')
