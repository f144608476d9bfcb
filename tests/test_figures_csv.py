"""The tables as other programs read them."""

from __future__ import annotations

import math
from pathlib import Path

import duckdb
import polars
import pytest

from miner.evaluate import Evaluation, Outcome, figures
from miner.measuring.compare import Compared
from miner.measuring.figures_csv import compared_csv, figures_csv, pairs_csv
from miner.measuring.labelled import ImageSource, Item, LabelledSet, by_statements
from miner.measuring.measures import Estimate

EVIL = '=HYPERLINK("http://example.org")'
STATEMENTS = ('a, \n"b"', "@sum")


@pytest.fixture
def evaluation() -> Evaluation:
    items = tuple(
        Item(
            name=name,
            subset=subset,
            images=(ImageSource(name="1.jpg", read=bytes), ImageSource(name="2.jpg", read=bytes)),
            statements=(*STATEMENTS, "c", "d"),
            questions=by_statements(name, STATEMENTS),
        )
        for name, subset in (("p", EVIL), ("q", "plain"))
    )
    outcomes: tuple[Outcome, ...] = (
        {("individual", 2): [True, False], ("pair", 4): [False], ("relaxed", 2): []},
        {("individual", 2): [True, True], ("pair", 4): [True], ("relaxed", 2): [True]},
    )
    labelled = LabelledSet(layout="jsonl", place="here", items=items)
    return Evaluation(
        model="m",
        labelled=labelled,
        figures=tuple(figures(items, outcomes)),
        outcomes=outcomes,
        notes=(),
    )


def test_figures(evaluation: Evaluation, tmp_path: Path) -> None:
    path = tmp_path / "figures.csv"
    path.write_text(figures_csv(evaluation))
    rows = duckdb.sql(
        f"SELECT subset, value, num, chance FROM '{path}' WHERE measure = 'individual'"
    ).fetchall()
    assert rows == [(f"'{EVIL}", 0.5, 2, 0.5), ("plain", 1.0, 2, 0.5), ("all", 0.75, 4, 0.5)]
    relaxed = polars.read_csv(path).filter(polars.col("measure") == "relaxed")
    assert relaxed["num"].to_list() == [0, 1, 1]
    assert math.isnan(float(relaxed["value"][0]))


def test_pairs(evaluation: Evaluation, tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text(pairs_csv(evaluation), newline="")
    first, second = polars.read_csv(path).to_dicts()
    assert first["subset"] == f"'{EVIL}"
    assert (first["statement_1"], first["statement_2"]) == (STATEMENTS[0], "'@sum")
    assert (first["image_1"], first["image_2"]) == ("1.jpg", "2.jpg")
    names = ("individual_1", "individual_2", "pair_of_4", "relaxed")
    assert [first[name] for name in names] == [1, 0, 0, None]
    assert [second[name] for name in names] == [1, 1, 1, 1]


def test_compared(tmp_path: Path) -> None:
    row = Compared(
        encoder_id="e",
        pixels=64,
        parameters_m=1.23456,
        above=0.95,
        shares={"x": Estimate(0.5, 0.1, 0.9, 4), "all": Estimate(0.5, 0.1, 0.9, 4)},
        average=0.5,
    )
    path = tmp_path / "compared.csv"
    path.write_text(compared_csv([row], "pair"))
    rows = polars.read_csv(path).to_dicts()
    assert [each["subset"] for each in rows] == ["x", "all", "average of the subsets"]
    assert rows[0] == {
        **{"encoder": "e", "pixels": 64, "parameters_m": 1.235, "above": 0.95},
        **{"measure": "pair", "subset": "x", "num": 4, "value": 0.5, "low": 0.1, "high": 0.9},
    }
    assert rows[-1]["num"] is None
