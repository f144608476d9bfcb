from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.reference import Pairs
from miner import partners
from miner.config import JoinSettings
from miner.partners import Partners, ranks


def pairs_of(edges: list[tuple[int, int, float]]) -> Pairs:
    return Pairs(
        i=torch.tensor([i for i, _, _ in edges], dtype=torch.int64),
        j=torch.tensor([j for _, j, _ in edges], dtype=torch.int64),
        clip_cos=torch.tensor([c for _, _, c in edges], dtype=torch.float64),
        # Those that CLIP finds most alike are kept beyond the thresholds only.
        dino_cos=torch.tensor([0.8 if c > 0.975 else 0.0 for _, _, c in edges]).double(),
    )


def keeping(most: int) -> JoinSettings:
    return JoinSettings(max_partners=most, dino_below=0.5, keep_dino=0.9)


def by_definition(edges: list[tuple[int, int, float]], most: int) -> set[tuple[int, int]]:
    """A pair is kept if it is among the first of both its rows, over all pairs."""

    def key(i: int, j: int, c: float) -> tuple[bool, float, int, int]:
        return (c > 0.975, -c, i, j)

    kept = set()
    for i, j, c in edges:
        better = [
            sum(key(*other) < key(i, j, c) for other in edges if row in other[:2]) for row in (i, j)
        ]
        if max(better) < most:
            kept.add((i, j))
    return kept


EDGES = st.lists(
    st.tuples(st.integers(0, 8), st.integers(0, 8), st.sampled_from([0.96, 0.97, 0.98, 1.0])),
    max_size=60,
    unique_by=lambda edge: edge[:2],
).map(lambda edges: [edge for edge in edges if edge[0] < edge[1]])


@settings(max_examples=300, deadline=None)
@given(edges=EDGES, most=st.integers(1, 6), cuts=st.lists(st.integers(0, 60), max_size=4))
def test_order_and_parts_in_which_pairs_come_change_nothing(
    edges: list[tuple[int, int, float]], most: int, cuts: list[int]
) -> None:
    found = Partners(keeping(most), 9)
    borders = [0, *sorted(min(cut, len(edges)) for cut in cuts), len(edges)]
    for start, stop in pairwise(borders):
        # As a join of blocks does it: each part is cut on its own, then all together.
        part = Partners(keeping(most), 9)
        part.add(pairs_of(edges[start:stop]))
        held = part.held()
        found.add(held)
        found.degree += part.dropped(held)
    kept = found.kept()
    listed = set(zip(kept.i.tolist(), kept.j.tolist(), strict=True))
    assert listed == by_definition(edges, most)
    degree = np.bincount([end for edge in edges for end in edge[:2]], minlength=9)
    assert found.degree.tolist() == degree.tolist()


@settings(max_examples=100, deadline=None)
@given(edges=EDGES, most=st.integers(1, 4))
def test_what_is_held_is_bounded_and_loses_nothing(
    edges: list[tuple[int, int, float]], most: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(partners, "WAITING_PAIRS", 3)
        found = Partners(keeping(most), 9)
        for edge in edges:
            found.add(pairs_of([edge]))
            assert len(found.held()) <= 9 * most
    kept = found.kept()
    listed = set(zip(kept.i.tolist(), kept.j.tolist(), strict=True))
    assert listed == by_definition(edges, most)
    assert found.num_pairs == len(edges)


def test_two_sets_are_numbered_apart() -> None:
    edges = [(0, 0, 0.973), (0, 1, 0.972), (1, 0, 0.971)]
    found = Partners(keeping(1), 2, 2)
    found.add(pairs_of(edges))
    kept = found.kept()
    assert list(zip(kept.i.tolist(), kept.j.tolist(), strict=True)) == [(0, 0)]
    assert found.degree.tolist() == [2, 1, 2, 1]


def test_ranks_of_a_star() -> None:
    at_i, at_j = ranks(
        np.array([0, 0, 0]), np.array([1, 2, 3]), np.array([0.96, 0.99, 0.99]), np.ones(3, bool)
    )
    assert at_i.tolist() == [2, 0, 1]
    assert at_j.tolist() == [0, 0, 0]
    empty = ranks(*(np.empty(0, np.int64),) * 2, np.empty(0), np.empty(0, bool))
    assert [len(rank) for rank in empty] == [0, 0]
