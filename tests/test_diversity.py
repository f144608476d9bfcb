from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from miner.selecting import diversity
from miner.selecting.diversity import SCALE, Features, farthest_first, pair_features


def by_hand(features: Features, num_centres: int) -> list[int]:
    """Greedy k-center over all distances, in whole numbers."""
    whole = features.astype(np.int64)
    distances = ((whole[:, None] - whole[None]) ** 2).sum(axis=2)
    chosen = [0]
    while len(chosen) < min(num_centres, len(features)):
        nearest = distances[:, chosen].min(axis=1)
        nearest[chosen] = -1
        chosen.append(int(nearest.argmax()))
    return chosen


def of(features: Features) -> Callable[[npt.NDArray[np.int64]], Features]:
    return lambda rows: features[rows]


def made_up(num_rows: int, num_groups: int, seed: int) -> Features:
    generator = np.random.default_rng(seed)
    clip, dino = (
        generator.standard_normal((num_groups, width))[
            generator.integers(0, num_groups, 2 * num_rows)
        ]
        + 0.2 * generator.standard_normal((2 * num_rows, width))
        for width in (24, 40)
    )
    units = [
        (each / np.linalg.norm(each, axis=1)[:, None]).astype(np.float16) for each in (clip, dino)
    ]
    both = np.arange(2 * num_rows)
    return pair_features(units[0], units[1], both[:num_rows], both[num_rows:])


@pytest.mark.parametrize("batch_rows", [1, 7, 4096])
@pytest.mark.parametrize("seed", [0, 1])
def test_choice_is_that_of_all_distances(
    batch_rows: int, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diversity, "BATCH_ROWS", batch_rows)
    features = made_up(90, 12, seed)
    assert farthest_first(of(features), 90, 30).tolist() == by_hand(features, 30)


def test_equal_rows_go_by_their_order() -> None:
    features = np.repeat(made_up(6, 6, 0), 3, axis=0)
    assert farthest_first(of(features), 18, 18).tolist() == by_hand(features, 18)
    assert sorted(farthest_first(of(features), 18, 100).tolist()) == list(range(18))
    assert farthest_first(of(features[:0]), 0, 3).tolist() == []


def test_few_rows_are_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diversity, "BATCH_ROWS", 64)
    looked = []
    features = made_up(4000, 40, 0)

    def counted(rows: npt.NDArray[np.int64]) -> Features:
        looked.append(len(rows))
        return features[rows]

    assert len(set(farthest_first(counted, 4000, 40).tolist())) == 40
    assert sum(looked) < 40 * 4000 * 0.8


def test_a_pair_has_no_first_image() -> None:
    vectors = np.eye(4, dtype=np.float16)
    here, there = np.array([0, 1]), np.array([1, 0])
    found = pair_features(vectors, vectors, here, there)
    assert np.array_equal(found[0], found[1])
    assert abs(np.linalg.norm(found[0]) - SCALE) < 3


def test_products_are_exact() -> None:
    features = made_up(50, 50, 3)
    whole = features.astype(np.int64)
    assert np.array_equal((features @ features.T).astype(np.int64), whole @ whole.T)
    assert (whole**2).sum(axis=1).max() < 2**24
