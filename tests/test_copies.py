import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.reference import cosines
from miner import copies
from miner.copies import equal_bytes, near_copies, near_copies_in_buckets, stand_for


def by_definition(clip: torch.Tensor, dino: torch.Tensor, c: float, d: float) -> list[int]:
    """Rows in order; each follows the first leader that it is a near-copy of."""
    number = len(clip)
    i, j = torch.cartesian_prod(torch.arange(number), torch.arange(number)).T
    near = (cosines(clip, clip, i, j) > c) & (cosines(dino, dino, i, j) > d)
    near = near.reshape(number, number)
    leaders: list[int] = []
    for row in range(number):
        heads = [head for head in range(row) if leaders[head] == head and near[head, row]]
        leaders.append(heads[0] if heads else row)
    return leaders


def families(
    number: int, num_families: int, noise: float, seed: int, dim: int = 48
) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    family = torch.randint(num_families, (number,), generator=generator)
    clip = torch.randn(num_families, dim, generator=generator)[family]
    dino = torch.randn(num_families, 32, generator=generator)[family]
    clip = clip + noise * torch.randn(number, dim, generator=generator)
    return clip, dino + 2 * noise * torch.randn(number, 32, generator=generator)


def test_equal_bytes_lead_to_the_first() -> None:
    assert equal_bytes(list("abaca")).tolist() == [0, 1, 0, 3, 0]
    assert equal_bytes([]).tolist() == []


def test_who_leads_stands_for_all_of_its_group() -> None:
    kept, duplicates = stand_for(np.array([0, 1, 0, 3, 0]), np.array([0, 0, 2, 0, 0]))
    assert kept.tolist() == [0, 1, 3]
    assert duplicates.tolist() == [4, 0, 0]


def test_near_copies_need_both_encoders_and_make_no_chains() -> None:
    # Neighbours are near-copies; rows two steps apart are not.
    angle = torch.tensor([0.0, 0.1, 0.2, 0.3, 1.5, 0.05])
    clip = torch.stack([angle.cos(), angle.sin()], dim=1)
    dino = clip.clone()
    dino[5] = torch.tensor([-1.0, 0.0])
    leaders = near_copies(clip, dino, near_clip=0.99, near_dino=0.95)
    assert leaders.tolist() == [0, 0, 2, 2, 4, 5]


@settings(max_examples=60, deadline=None)
@given(
    number=st.integers(0, 60),
    num_families=st.integers(1, 12),
    noise=st.sampled_from([0.0, 0.05, 0.07, 0.1]),
    leaf=st.sampled_from([1, 2, 5, 512]),
    seed=st.integers(0, 1000),
)
def test_near_copies_equal_their_definition(
    number: int, num_families: int, noise: float, leaf: int, seed: int
) -> None:
    clip, dino = families(number, num_families, noise, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(copies, "LEAF_ROWS", leaf)
        leaders = near_copies(clip, dino, near_clip=0.99, near_dino=0.95)
    assert leaders.tolist() == by_definition(clip, dino, 0.99, 0.95)


def test_near_copies_at_the_threshold_are_told_in_float64() -> None:
    generator = torch.Generator().manual_seed(2)
    base = torch.nn.functional.normalize(torch.randn(1, 300, generator=generator).double(), dim=1)
    other = torch.randn(200, 300, generator=generator).double()
    other = torch.nn.functional.normalize(other - (other @ base.T) * base, dim=1)
    cosine = 0.99 + torch.linspace(-1e-8, 1e-8, 200, dtype=torch.float64)[:, None]
    clip = torch.cat([base, cosine * base + (1 - cosine**2).sqrt() * other])
    same = torch.ones(201, 4)
    leaders = near_copies(clip, same, near_clip=0.99, near_dino=0.95)
    assert leaders.tolist() == [0, *range(1, 101), *[0] * 100]


@pytest.mark.parametrize("noise", [0.02, 0.05, 0.065])
def test_buckets_find_nearly_all_near_copies_and_invent_none(
    noise: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copies, "LEAF_ROWS", 64)
    clip, dino = families(3000, 900, noise, 7, dim=96)
    exact = near_copies(clip, dino, near_clip=0.99, near_dino=0.95)
    found = near_copies_in_buckets(clip, dino, near_clip=0.99, near_dino=0.95)
    led = np.flatnonzero(found != np.arange(3000))
    i, j = torch.from_numpy(found[led]), torch.from_numpy(led)
    assert bool((cosines(clip, clip, i, j) > 0.99).all())
    assert bool((cosines(dino, dino, i, j) > 0.95).all())
    assert (found <= np.arange(3000)).all()
    assert (found[found] == found).all()
    num_exact = int((exact != np.arange(3000)).sum())
    assert num_exact > 500
    assert len(led) >= 0.97 * num_exact


def test_rows_follow_an_heir_only_if_they_are_near_it() -> None:
    # 2 led 3 and 4; now 0 leads 2. 3 is near 0 and follows, 4 is not and leads itself.
    angle = torch.tensor([0.0, 1.5, 0.1, 0.05, 0.22])
    clip = torch.stack([angle.cos(), angle.sin()], dim=1)
    vectors = copies._Vectors(clip, clip, 0.99, 0.95, torch.arange(5))
    leaders = np.array([0, 1, 0, 2, 2])
    copies._follow(vectors, leaders)
    assert leaders.tolist() == [0, 1, 0, 0, 4]


def test_order_decides_who_leads() -> None:
    clip = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.01]])
    order = np.array([2, 1, 0])
    leaders = near_copies_in_buckets(clip, clip, near_clip=0.99, near_dino=0.95, order=order)
    # In that order the first row is the one that lies last, and it leads the third.
    assert leaders.tolist() == [0, 1, 0]


def test_very_many_copies_of_one_picture_take_linear_work(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    near_across = copies._Vectors.near_across

    def counted(
        self: copies._Vectors, a: np.ndarray, b: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        found = near_across(self, a, b)
        compared.append(len(found[0]))
        return found

    monkeypatch.setattr(copies._Vectors, "near_across", counted)
    clip, dino = families(20_000, 1, 0.01, 3)
    leaders = near_copies_in_buckets(clip, dino, near_clip=0.99, near_dino=0.95)
    assert not leaders.any()
    # All pairs would be 2e8; each row is compared with the one leader, and once more in the sample.
    assert sum(compared) < 40_000


def test_borders_do_not_cut_up_a_crowd() -> None:
    generator = torch.Generator().manual_seed(4)
    clip, dino = families(4000, 4000, 0.0, 5, dim=64)
    crowd = torch.randperm(4000, generator=generator)[:2000].sort().values
    clip[crowd] = clip[crowd[0]] + 0.06 * torch.randn(2000, 64, generator=generator)
    dino[crowd] = dino[crowd[0]].clone()
    vectors = copies._Vectors(clip, dino, 0.99, 0.95, torch.arange(4000))
    for seed in range(4):
        bucket = copies._buckets(vectors, np.arange(4000), seed)
        assert len(np.unique(bucket[crowd.numpy()])) == 1
        assert len(np.unique(bucket)) > 8


@pytest.mark.parametrize("find", [near_copies, near_copies_in_buckets])
def test_nothing_to_group(find: type[near_copies]) -> None:
    empty = torch.empty(0, 3)
    assert find(empty, empty, near_clip=0.9, near_dino=0.9).tolist() == []
    apart = torch.eye(4)
    assert find(apart, apart, near_clip=0.9, near_dino=0.9).tolist() == [0, 1, 2, 3]
