import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import cpu, reference
from kernels.reference import Pairs, concatenate

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def listed(pairs: Pairs) -> list[tuple[int, int, float, float]]:
    columns = (pairs.i, pairs.j, pairs.clip_cos, pairs.dino_cos)
    return sorted(zip(*(column.tolist() for column in columns), strict=True))


def both(
    clip: tuple[torch.Tensor, torch.Tensor | None],
    dino: tuple[torch.Tensor, torch.Tensor | None],
    above: float,
) -> tuple[list[tuple[int, int, float, float]], list[tuple[int, int, float, float]]]:
    ours = concatenate(list(cpu.candidates(clip, dino, clip_above=above)))
    truth = concatenate(list(reference.candidates(clip, dino, clip_above=above)))
    return listed(ours), listed(truth)


@settings(max_examples=150, deadline=None)
@given(
    rows=st.integers(1, 40),
    dim=st.integers(1, 70),
    rank=st.integers(1, 5),
    noise=st.sampled_from([0.0, 1e-6, 1e-3, 0.3]),
    above=st.floats(-1, 1),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**31),
)
def test_equals_the_reference(
    rows: int, dim: int, rank: int, noise: float, above: float, dtype: torch.dtype, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    low_rank = torch.randn(rows, rank, generator=generator) @ torch.randn(
        rank, dim, generator=generator
    )
    clip = (low_rank + noise * torch.randn(rows, dim, generator=generator)).to(dtype)
    clip[(clip == 0).all(dim=1)] = 1
    dino = (torch.randn(rows, 3, generator=generator) + 2).to(dtype)
    ours, truth = both((clip, None), (dino, None), above)
    assert ours == truth


def test_blocks_meet_without_gap_or_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "BLOCK_ROWS", 7)
    generator = torch.Generator().manual_seed(1)
    clip = torch.randn(50, 6, generator=generator)
    dino = torch.randn(50, 4, generator=generator)
    ours, truth = both((clip, None), (dino, None), 0.1)
    assert ours == truth
    assert len(ours) > 100
    ours, truth = both((clip[:20], clip), (dino[:20], dino), 0.1)
    assert ours == truth


def test_cosines_at_the_threshold() -> None:
    # Planted at 0.9499 .. 0.9501 in steps of 1e-6; float32 errs by more than that at this width.
    dim, steps = 768, torch.arange(-100, 101, dtype=torch.float64) * 1e-6
    cosine = 0.95 + steps
    generator = torch.Generator().manual_seed(2)
    base = torch.nn.functional.normalize(torch.randn(1, dim, generator=generator).double(), dim=1)
    other = torch.randn(len(steps), dim, generator=generator).double()
    other -= (other @ base.T) * base
    other = torch.nn.functional.normalize(other, dim=1)
    rows = cosine[:, None] * base + (1 - cosine[:, None] ** 2).sqrt() * other
    ours, truth = both((base, rows), (base, rows), 0.95)
    assert ours == truth
    assert [pair[1] for pair in ours] == pytest.approx(range(101, 201), abs=0)


def test_screen_loses_no_pair_just_above_the_threshold() -> None:
    # Above by less than float32 can tell: without the slack the screen would drop about half.
    dim, number = 768, 400
    generator = torch.Generator().manual_seed(4)
    base = torch.nn.functional.normalize(torch.randn(1, dim, generator=generator).double(), dim=1)
    other = torch.randn(number, dim, generator=generator).double()
    other = torch.nn.functional.normalize(other - (other @ base.T) * base, dim=1)
    rows = (0.95 + 1e-10) * base + (1 - (0.95 + 1e-10) ** 2) ** 0.5 * other
    ours, _ = both((base, rows), (base, rows), 0.95)
    assert len(ours) == number


def test_all_hit_and_no_hit() -> None:
    rows = torch.ones(30, 5)
    ours, _ = both((rows, None), (rows, None), 0.999)
    assert len(ours) == 30 * 29 // 2
    assert both((torch.eye(30), None), (rows, None), 0.5) == ([], [])


@pytest.mark.parametrize("rows", [0, 1])
def test_too_few_rows_for_a_pair(rows: int) -> None:
    assert both((torch.ones(rows, 4), None), (torch.ones(rows, 4), None), 0.5) == ([], [])


def test_matmul_precision_of_the_caller_is_overridden_and_restored() -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        rows = torch.randn(300, 768, generator=torch.Generator().manual_seed(3))
        ours, truth = both((rows, None), (rows, None), 0.02)
        assert ours == truth
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


def test_bad_row_is_named() -> None:
    rows = torch.ones(4, 3)
    bad = rows.clone()
    bad[2, 1] = float("nan")
    with pytest.raises(ValueError, match="dino: row 2 of 4 holds NaN"):
        list(cpu.candidates((rows, None), (bad, None), clip_above=0.5))
    with pytest.raises(ValueError, match="clip: row 2 of 4 holds NaN"):
        list(cpu.candidates((bad, None), (rows, None), clip_above=0.5))
