from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from miner.reporting.clusters import MAX_CLUSTERS, MIN_PAIRS, cluster_pairs, k_means, num_clusters
from miner.store import Store
from tests.report_runs import Shot, encoded, make_run


def blobs(sizes: tuple[int, ...], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Points around far centres, shuffled, and the centre of each."""
    random = np.random.default_rng(seed)
    truth = random.permutation(np.repeat(np.arange(len(sizes)), sizes))
    centres = 10 * np.eye(len(sizes), 16)
    points = centres[truth] + 0.1 * random.standard_normal((len(truth), 16))
    return points.astype(np.float32), truth


def test_blobs_are_found_the_largest_first() -> None:
    points, truth = blobs((10, 40, 25))
    labels, distances = k_means(points, 3)
    assert [sorted(set(truth[labels == k])) for k in range(3)] == [[1], [2], [0]]
    for k in range(3):
        centre = points[labels == k].mean(axis=0)
        wanted = ((points[labels == k] - centre) ** 2).sum(axis=1)
        assert distances[labels == k] == pytest.approx(wanted, abs=1e-3)


def test_every_point_is_with_its_nearest_centre() -> None:
    points = np.random.default_rng(1).standard_normal((300, 8)).astype(np.float32)
    labels, _ = k_means(points, 7)
    sizes = np.bincount(labels)
    assert len(sizes) == 7
    assert sizes.tolist() == sorted(sizes, reverse=True)
    centres = np.stack([points[labels == k].mean(axis=0) for k in range(7)])
    nearest = ((points[:, None] - centres[None]) ** 2).sum(axis=2).argmin(axis=1)
    assert np.array_equal(labels, nearest)


def test_groups_depend_on_the_seed_alone() -> None:
    points = np.random.default_rng(2).standard_normal((200, 8)).astype(np.float32)
    first, again, other = (k_means(points, 5, seed=seed)[0] for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_equal_points_are_one_group() -> None:
    labels, distances = k_means(np.full((30, 4), 0.5, np.float32), 5)
    assert set(labels) == {0}
    assert distances.max() < 1e-6


def test_the_number_of_groups_grows_slowly_and_ends() -> None:
    assert [num_clusters(n) for n in (20, 90, 1000, 10**6)] == [2, 3, 10, MAX_CLUSTERS]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Path]:
    words = ("a red fox in the snow", "a blue boat at sea")
    shots = [Shot(data=encoded(n), caption=words[n % 2]) for n in range(8)]
    return make_run(tmp_path_factory.mktemp("clusters"), shots)


def selected_of(run: tuple[Store, Path]) -> tuple[dict, pa.Table]:
    store, folder = run
    record = store.read_record(f"pairs/{folder.name}/join.json")
    return record, store.read_table(record["selection"]["file"]["path"])


def test_pairs_of_a_run_are_grouped_and_named(run: tuple[Store, Path]) -> None:
    record, selected = selected_of(run)
    found = cluster_pairs(run[0], record, selected)
    assert isinstance(found, list)
    assert sum(each.num_pairs for each in found) == len(selected) == 28
    assert len(found) == 2
    said = {"red", "fox", "snow", "blue", "boat", "sea"}
    for each in found:
        assert selected["pair_id"][each.rank - 1].as_py() == each.pair_id
        assert set(each.words) <= said
    # Pairs of two equal captions differ by their words from the others.
    assert any(each.words for each in found)


def test_the_order_of_the_images_does_not_count(run: tuple[Store, Path]) -> None:
    record, selected = selected_of(run)
    names = [
        name[:-1] + {"1": "2", "2": "1"}[name[-1]] if name[-2:] in ("_1", "_2") else name
        for name in selected.column_names
    ]
    turned = selected.rename_columns(names)
    assert cluster_pairs(run[0], record, turned) == cluster_pairs(run[0], record, selected)


def test_few_pairs_make_no_groups(run: tuple[Store, Path]) -> None:
    record, selected = selected_of(run)
    said = cluster_pairs(run[0], record, selected.slice(0, MIN_PAIRS - 1))
    assert said == "fewer than 20 selected pairs make no groups"


def test_vectors_that_are_gone_are_the_reason(tmp_path: Path) -> None:
    store, folder = make_run(tmp_path, [Shot(data=encoded(n)) for n in range(8)])
    record, selected = selected_of((store, folder))
    for file in (store.root / "vectors" / record["clip"]).iterdir():
        file.unlink()
    said = cluster_pairs(Store(store.root), record, selected)
    assert isinstance(said, str)
    assert said.startswith("the vectors of the selected pairs cannot be had: ")
    assert "blindpairs verify" in said
    for commit in (store.root / "commits/vectors" / record["clip"]).iterdir():
        commit.unlink()
    said = cluster_pairs(Store(store.root), record, selected)
    assert isinstance(said, str)
    assert f"8 images have no vector of {record['clip']} (set/00000/000000, ...)" in said
