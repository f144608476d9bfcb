from itertools import product
from typing import Literal

import numpy as np
import pyarrow as pa
import pytest

from miner import schema
from miner.records import Json
from miner.reporting.figures import (
    DECIMALS,
    ThresholdGrid,
    bins_of,
    blind_mask,
    edges,
    gap_rows,
    partner_rows,
    reach_of,
    survival_rows,
    threshold_grid,
)
from tests.cosine_tables import RECORD, histogram_of, random_cosines, raw_table

WIDER = RECORD | {"keep_clip": 0.93, "keep_dino": 0.7}


def kept(grid: ThresholdGrid, k: int, m: int) -> int:
    """What the page's script sums."""
    return int(grid.cells[(grid.cells[:, 0] >= k) & (grid.cells[:, 1] < m), 2].sum())


def test_bins_are_those_of_comparing_with_every_edge() -> None:
    random = np.random.default_rng(0)
    values = np.concatenate([random.uniform(-1, 1, 500), np.round(random.uniform(-1, 1, 500), 3)])
    values = np.concatenate([values, values.astype(np.float32)])
    places = np.arange(-2000, 2001)
    at = edges(0.95, places, 0.001)
    left, right = (bins_of(values, 0.95, 0.001, closed=side) for side in ("left", "right"))
    for value, closed_left, closed_right in zip(values, left, right, strict=True):
        assert closed_left == places[at <= value].max()
        assert closed_right == places[at < value].max()


def test_edges_are_the_numbers_that_people_write() -> None:
    assert edges(0.95, np.arange(4), 0.001).tolist() == [0.95, 0.951, 0.952, 0.953]
    assert DECIMALS >= 6


@pytest.mark.parametrize("record", [RECORD, WIDER], ids=["raw", "wider"])
def test_the_grid_counts_as_a_query_of_raw_would(record: Json) -> None:
    keep_clip, keep_dino = reach_of(record)
    raw = raw_table(*random_cosines(3000, low=keep_clip, high=keep_dino), record)
    grid = threshold_grid(raw, record)
    assert grid.step == 0.001
    clip, dino = (raw[name].to_numpy().astype(np.float64) for name in ("clip_cos", "dino_cos"))
    for k, m in product((-20, -7, 0, 1, 3, 25, 49), (-400, -51, -1, 0, 60, 99)):
        above, below = round(0.95 + k * 0.001, 9), round(0.6 + m * 0.001, 9)
        if above < keep_clip or below > keep_dino:
            continue
        wanted = (clip > above) & (dino < below)
        # At the thresholds themselves the join has decided, in float64.
        if (k, m) == (0, 0):
            wanted = blind_mask(raw)
        elif above == keep_clip or below == keep_dino or k == 0 or m == 0:
            continue
        assert kept(grid, k, m) == wanted.sum(), (above, below)


# float32 rounds 0.9 + 1e-9 to less than 0.9, and 0.8 - 1e-9 to more than 0.8.
WIDEST = RECORD | {"keep_clip": 0.9, "keep_dino": 0.8}


@pytest.mark.parametrize("record", [RECORD, WIDEST], ids=["raw", "wider"])
def test_the_grid_is_on_the_sides_on_which_the_join_put_a_pair(record: Json) -> None:
    """float32 rounds 0.95 + 1e-9 to less than 0.95, and 0.6 - 1e-9 to more than 0.6."""
    tiny = 1e-9
    keep_clip, keep_dino = reach_of(record)
    blind = [(0.95 + tiny, 0.5), (0.97, 0.6 - tiny), (0.95 + tiny, 0.6 - tiny)]
    others = [(0.95 - tiny, 0.5), (0.97, 0.6 + tiny), (keep_clip + tiny, keep_dino - tiny)]
    pairs = np.array([*blind, *(others if record is WIDEST else [])])
    raw = raw_table(pairs[:, 0], pairs[:, 1], record)
    grid = threshold_grid(raw, record)
    reach = [round((keep_clip - 0.95) / 0.001), round((keep_dino - 0.6) / 0.001)]
    assert kept(grid, 0, 0) == int(blind_mask(raw).sum()) == 3
    assert kept(grid, *reach) == len(pairs)


def test_pairs_that_float32_rounds_across_a_threshold_stay_not_blind() -> None:
    """float32 rounds 0.953 - 1e-9 to more than 0.953, and 0.58 + 1e-9 to less than 0.58."""
    record = WIDER | {"clip_above": 0.953, "dino_below": 0.58}
    raw = raw_table(np.array([0.953 - 1e-9, 0.97]), np.array([0.5, 0.58 + 1e-9]), record)
    assert raw["clip_cos"][0].as_py() > 0.953
    assert raw["dino_cos"][1].as_py() < 0.58
    grid = threshold_grid(raw, record)
    assert kept(grid, 0, 0) == 0
    assert kept(grid, -1, 0) == kept(grid, 0, 1) == 1


def test_thresholds_off_the_round_numbers_have_a_grid_of_their_own() -> None:
    record = RECORD | {"clip_above": 0.95337, "dino_below": 0.58123}
    clip, dino = random_cosines(500, low=0.95337, high=0.58123)
    raw = raw_table(clip, dino, record)
    grid = threshold_grid(raw, record)
    assert kept(grid, 0, 0) == 500
    assert kept(grid, 5, -7) == ((clip > 0.95837) & (dino < 0.57423)).sum()


def test_many_cells_make_the_grid_coarser_and_lose_no_pair() -> None:
    raw = raw_table(*random_cosines(3000))
    finest = threshold_grid(raw, RECORD)
    coarse = threshold_grid(raw, RECORD, max_cells=len(finest.cells) - 1)
    assert (finest.step, coarse.step) == (0.001, 0.002)
    assert len(coarse.cells) < len(finest.cells)
    assert kept(coarse, 5, -10) == kept(finest, 10, -20) > 0
    least = threshold_grid(raw, RECORD, max_cells=0)
    assert least.step == 0.01
    assert kept(least, 0, 0) == 3000


def test_gaps_are_counted_between_their_edges() -> None:
    raw = raw_table(*random_cosines(2000, low=0.93, high=0.7), WIDER)
    gaps = raw["gap"].to_numpy()[blind_mask(raw)].astype(np.float64)
    rows = gap_rows(raw)
    assert 0 < len(gaps) < 2000
    assert sum(number for *_, number in rows) == len(gaps)
    for low, high, number in rows:
        assert number == ((gaps >= low) & (gaps < high)).sum()
    assert [row[1] for row in rows[:-1]] == [row[0] for row in rows[1:]]


@pytest.mark.parametrize("kind", ["clip", "dino"])
def test_survival_is_what_a_threshold_leaves(kind: Literal["clip", "dino"]) -> None:
    candidates = random_cosines(4000, high=1.0, seed=3)
    histogram = histogram_of(candidates=candidates, random=random_cosines(50))
    is_blind = candidates[1] < 0.6
    raw = raw_table(*(values[is_blind] for values in candidates))
    values = {"candidates": candidates[kind == "dino"]}
    values["blind pairs"] = raw[f"{kind}_cos"].to_numpy().astype(np.float64)
    rows = survival_rows(raw, histogram, RECORD, kind)
    assert {row[0] for row in rows} == values.keys()
    for whose, at, number, share in rows:
        those = values[whose]
        passed = those > at if kind == "clip" else those < at
        # A bin of the histogram holds its lower edge, which the threshold leaves out.
        slack = (np.abs(those - at) < 1e-9).sum() if whose == "candidates" else 0
        assert abs(int(number) - int(passed.sum())) <= slack
        assert share == pytest.approx(number / len(those))
    starts = [at for whose, at, *_ in rows if whose == "candidates"]
    if kind == "clip":
        assert starts == [0.95, 0.96, 0.97, 0.98, 0.99, *([1.0] if len(starts) > 5 else [])]


def test_candidates_survive_from_the_threshold_on_not_from_its_bin() -> None:
    record = RECORD | {"clip_above": 0.953}
    histogram = histogram_of(candidates=(np.array([0.955, 0.965]), np.array([0.1, 0.2])))
    rows = survival_rows(raw_table(np.empty(0), np.empty(0)), histogram, record, "clip")
    assert rows == [("candidates", 0.953, 2, 1.0), ("candidates", 0.96, 1, 0.5)]


def test_counts_beyond_memory_are_added_not_listed() -> None:
    bins = [{"source": "candidates", "clip_bin": 95, "dino_bin": 99, "count": 10**12}]
    histogram = pa.Table.from_pylist(bins, schema=schema.HISTOGRAM)
    rows = survival_rows(raw_table(np.empty(0), np.empty(0)), histogram, RECORD, "dino")
    assert rows == [("candidates", 1.0, 10**12, 1.0)]


def test_partners_are_counted_over_both_columns() -> None:
    raw = raw_table(*random_cosines(150))
    images = [*raw["image_1"].to_pylist(), *raw["image_2"].to_pylist()]
    degrees = [images.count(image) for image in set(images)]
    assert partner_rows(raw) == [(n, degrees.count(n)) for n in sorted(set(degrees))]
    assert sum(n * number for n, number in partner_rows(raw)) == 300


def test_partners_are_those_of_blind_pairs() -> None:
    raw = raw_table(np.array([0.97, 0.94]), np.array([0.5, 0.5]), WIDER)
    assert partner_rows(raw) == [(1, 2)]


def test_an_empty_raw_has_no_figures() -> None:
    raw, histogram = raw_table(np.empty(0), np.empty(0)), histogram_of()
    assert gap_rows(raw) == partner_rows(raw) == []
    assert survival_rows(raw, histogram, RECORD, "clip") == []
    assert threshold_grid(raw, RECORD).cells.shape == (0, 3)
