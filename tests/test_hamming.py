import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miner.selecting import hamming
from miner.selecting.hamming import differing_bits, nearest

HASH = st.integers(0, 2**64 - 1)


def flipped(value: int, bits: list[int]) -> int:
    for bit in bits:
        value ^= 1 << bit
    return value


@settings(deadline=None)
@given(
    st.lists(HASH, max_size=6),
    st.lists(st.tuples(st.integers(0, 5), st.lists(st.integers(0, 63), max_size=8)), max_size=8),
    st.integers(0, 16),
)
def test_nearest_is_that_of_all_products(
    listed: list[int], changes: list[tuple[int, list[int]]], within: int
) -> None:
    queries = [flipped([*listed, 1, 2, 3, 4, 5, 6][n], bits) for n, bits in changes]
    found = nearest(np.array(queries, np.uint64), np.array(listed, np.uint64), within)
    for query, place in zip(queries, found.tolist(), strict=True):
        distances = [(query ^ other).bit_count() for other in listed]
        best = min(distances, default=65)
        assert place == (distances.index(best) if best <= within else -1)


def test_more_comparisons_than_fit_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    listed = generator.integers(0, 2**64, 300, np.uint64)
    queries = np.concatenate([listed ^ np.uint64(5), generator.integers(0, 2**64, 50, np.uint64)])
    expected = nearest(queries, listed, 4)
    assert expected.tolist() == [*range(300), *[-1] * 50]
    monkeypatch.setattr(hamming, "CHUNK_PAIRS", 3)
    assert nearest(queries, listed, 4).tolist() == expected.tolist()


def test_bits_are_counted() -> None:
    one, other = np.array([0, 2**64 - 1, 6], np.uint64), np.array([0, 0, 5], np.uint64)
    assert differing_bits(one, other).tolist() == [0, 64, 2]
