import numpy as np

from miner.reporting.corner import GRID_COLUMNS, corner_data, grid_rows
from miner.reporting.figures import threshold_grid
from tests.cosine_tables import RECORD, histogram_of, random_cosines, raw_table


def test_cells_have_the_edges_that_hold_their_pairs() -> None:
    raw = raw_table(*random_cosines(500))
    rows = grid_rows(threshold_grid(raw, RECORD), RECORD)
    clip, dino = (raw[name].to_numpy().astype(np.float64) for name in ("clip_cos", "dino_cos"))
    assert sum(int(row[-1]) for row in rows) == 500
    assert len(rows[0]) == len(GRID_COLUMNS)
    for clip_from, clip_to, dino_from, dino_to, number in rows[1::9]:
        inside = (clip > clip_from) & (clip <= clip_to) & (dino >= dino_from) & (dino < dino_to)
        assert inside.sum() == number


def test_the_page_has_the_random_pairs_near_the_corner_alone() -> None:
    random = random_cosines(5000, low=0.2, high=0.9)
    candidates = random_cosines(300, high=0.9)
    histogram = histogram_of(random=random, candidates=candidates)
    record = RECORD | {"counts": {"pairs": 10**7, "blind": 200, "cut_pairs": 3}}
    raw = raw_table(*(values[candidates[1] < 0.6] for values in candidates))
    data = corner_data(threshold_grid(raw, record), histogram, record)
    assert data["reach"] == [0.95, 0.6]
    assert data["clip_from"] == 0.95 - 0.05
    assert data["num_random"] == 5000
    assert (data["num_pairs"], data["num_blind"], data["num_cut"]) == (10**7, 200, 3)
    near = (random[0] >= data["clip_from"]).sum()
    assert near <= sum(data["random"][2::3]) < 2 * near
    assert sum(data["candidates"][2::3]) == 300
    assert sum(data["cells"][2::3]) == len(raw)


def test_without_random_pairs_clip_moves_no_further_than_raw() -> None:
    histogram = histogram_of(candidates=random_cosines(10))
    record = RECORD | {"keep_clip": 0.94}
    raw = raw_table(*random_cosines(10, low=0.94), record)
    data = corner_data(threshold_grid(raw, record), histogram, record)
    assert data["clip_from"] == 0.94
    assert data["random"] == []
