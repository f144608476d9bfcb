from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import cpu, pace, prepare, reference
from kernels.bounds import BLOCK_ROWS
from kernels.reference import Pairs, concatenate, cosines
from kernels.screens import exact_products
from tests.adversaries import KINDS, rows

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def listed(pairs: Pairs) -> list[tuple[int, int, float, float]]:
    columns = (pairs.i, pairs.j, pairs.clip_cos, pairs.dino_cos)
    return sorted(zip(*(column.tolist() for column in columns), strict=True))


def both(
    clip: tuple[torch.Tensor, torch.Tensor | None],
    dino: tuple[torch.Tensor, torch.Tensor | None],
    above: float,
    screen: str = "auto",
) -> tuple[list[tuple[int, int, float, float]], list[tuple[int, int, float, float]]]:
    ours = concatenate(list(cpu.candidates(clip, dino, clip_above=above, screen=screen)))
    truth = concatenate(list(reference.candidates(clip, dino, clip_above=above)))
    return listed(ours), listed(truth)


SCREENS = ["auto", "float32", "bfloat16", "int8", "int8-7", "int8-64"]


@settings(max_examples=200, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    number=st.integers(0, 40),
    dim=st.integers(1, 70),
    above=st.one_of(st.floats(-1, 1), st.sampled_from([0.95, 0.0, 0.999])),
    dtype=st.sampled_from(DTYPES),
    screen=st.sampled_from(SCREENS),
    split=st.integers(0, 40),
    seed=st.integers(0, 2**31),
)
def test_equals_the_reference(
    kind: str,
    number: int,
    dim: int,
    above: float,
    dtype: torch.dtype,
    screen: str,
    split: int,
    seed: int,
) -> None:
    clip = rows(kind, number, dim, seed, above).to(dtype)
    # Too large for a float16, or too small for one.
    clip[~clip.isfinite().all(dim=1) | (clip == 0).all(dim=1)] = 1
    dino = (torch.randn(number, 3, generator=torch.Generator().manual_seed(seed)) + 2).to(dtype)
    ours, truth = both((clip, None), (dino, None), above, screen)
    assert ours == truth
    if split:
        a, b = slice(0, split), slice(split // 2, None)
        ours, truth = both((clip[a], clip[b]), (dino[a], dino[b]), above, screen)
        assert ours == truth


@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("kind", ["clustered", "anisotropic", "duplicates"])
def test_tiles_and_blocks_meet_without_gap_or_overlap(
    kind: str, screen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Several tiles, the last one ragged; a layout in two parts; survivors refined in between.
    monkeypatch.setattr(prepare, "LAYOUT_ROWS", 2 * BLOCK_ROWS)
    monkeypatch.setattr(prepare, "SMALL_PAIRS", 100_000)
    monkeypatch.setattr(cpu, "MOST_WAITING", 3000)
    monkeypatch.setattr(cpu, "REFINE_PAIRS", 500)
    clip = rows(kind, 2 * BLOCK_ROWS + 77, 96, 1).half()
    dino = rows("random", len(clip), 4, 2)
    above = {"clustered": 0.97, "anisotropic": 0.7, "duplicates": 0.9}[kind]
    ours, truth = both((clip, None), (dino, None), above, screen)
    assert len(truth) > 500
    assert ours == truth
    ours, truth = both((clip[:1100], clip), (dino[:1100], dino), above, screen)
    assert ours == truth


def test_statistics_add_up() -> None:
    clip, dino = rows("clustered", 2500, 300, 3), rows("random", 2500, 4, 4)
    done = cpu.Statistics()
    found = concatenate(
        list(
            cpu.candidates(
                (clip, None), (dino, None), clip_above=0.97, screen="int8-64", statistics=done
            )
        )
    )
    assert (done.screen, done.width, done.num_pairs) == ("int8", 64, 2500 * 2499 // 2)
    assert done.num_tiles == 6
    assert 0 < done.num_tiles_hit <= 6
    assert done.num_pairs > done.num_survivors >= done.num_rechecked >= done.num_candidates
    assert done.num_candidates == len(found) > 0


def test_choice_weighs_survivors_against_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare, "SMALL_PAIRS", 1_000_000)
    monkeypatch.setattr(prepare, "pair_s", lambda format, width, threads: width * 1e-10)
    # Of a fast spectrum few coordinates tell all; of a flat one a narrow code tells nothing.
    fast = rows("random", 8000, 600, 5) * 0.97 ** torch.arange(600)
    flat = rows("clustered", 8000, 600, 5)
    assert prepare.make_plan(fast, None, 0.95).width == 64
    chosen = prepare.make_plan(flat, None, 0.8)
    assert (chosen.format, chosen.width) != ("int8", 64)
    # Of unrelated rows, axes look far better to the rows that they were found by than to others.
    unrelated = rows("random", 8000, 768, 5)
    assert prepare.make_plan(unrelated, None, 0.95).width > 64
    # With hardly any threshold everything survives every code.
    assert prepare.make_plan(flat, None, -0.9).format != "int8"


def test_untrusted_formats_are_refused_and_never_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    only_float32 = {"int8": False, "bfloat16": False, "float32": True}
    monkeypatch.setattr(prepare, "is_trusted", only_float32.__getitem__)
    monkeypatch.setattr(pace, "is_trusted", only_float32.__getitem__)
    monkeypatch.setattr(prepare, "SMALL_PAIRS", 1_000_000)
    pace.pair_s.cache_clear()
    clip = rows("random", 8000, 300, 6)
    assert prepare.make_plan(clip, None, 0.95).format == "float32"
    for screen in ("int8", "int8-64", "bfloat16"):
        with pytest.raises(ValueError, match=r"adds \w+ products too coarsely"):
            prepare.make_plan(clip, None, 0.95, screen=screen)
    pace.pair_s.cache_clear()


@pytest.mark.parametrize("screen", ["int4", "int8-", "int8-0", "int8-x", "float16", ""])
def test_unknown_screens_are_named(screen: str) -> None:
    rows_ = torch.ones(3, 4)
    with pytest.raises(ValueError, match="there are auto, float32, bfloat16, int8"):
        list(cpu.candidates((rows_, None), (rows_, None), clip_above=0.5, screen=screen))


def test_threads_are_used_and_given_back() -> None:
    before = torch.get_num_threads()
    clip = rows("duplicates", 60, 8, 1)
    search = cpu.candidates((clip, None), (clip, None), clip_above=0.9, threads=1)
    for _ in search:
        # What runs between two blocks is the caller's.
        assert torch.get_num_threads() == before
    assert torch.get_num_threads() == before
    with exact_products(1):
        assert torch.get_num_threads() == 1


def test_products_are_exact_until_the_last_thread_is_done() -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        first, second = exact_products(None), exact_products(None)
        with ThreadPoolExecutor(1) as other:
            first.__enter__()
            other.submit(second.__enter__).result()
            # The one that came first leaves first, and the other is still at work.
            first.__exit__(None, None, None)
            assert torch.get_float32_matmul_precision() == "highest"
            other.submit(second.__exit__, None, None, None).result()
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("screen", SCREENS)
def test_cosines_at_the_threshold(screen: str) -> None:
    # Planted at 0.9499 .. 0.9501 in steps of 1e-6; float32 errs by more than that at this width.
    dim, steps = 768, torch.arange(-100, 101, dtype=torch.float64) * 1e-6
    cosine = 0.95 + steps
    generator = torch.Generator().manual_seed(2)
    base = torch.nn.functional.normalize(torch.randn(1, dim, generator=generator).double(), dim=1)
    other = torch.randn(len(steps), dim, generator=generator).double()
    other -= (other @ base.T) * base
    other = torch.nn.functional.normalize(other, dim=1)
    planted = cosine[:, None] * base + (1 - cosine[:, None] ** 2).sqrt() * other
    ours, truth = both((base, planted), (base, planted), 0.95, screen)
    assert ours == truth
    assert [pair[1] for pair in ours] == pytest.approx(range(101, 201), abs=0)


@pytest.mark.parametrize("screen", SCREENS)
def test_screen_loses_no_pair_just_above_the_threshold(screen: str) -> None:
    # Above by less than float32 can tell: without the slack the screen would drop about half.
    dim, number = 768, 400
    generator = torch.Generator().manual_seed(4)
    base = torch.nn.functional.normalize(torch.randn(1, dim, generator=generator).double(), dim=1)
    other = torch.randn(number, dim, generator=generator).double()
    other = torch.nn.functional.normalize(other - (other @ base.T) * base, dim=1)
    planted = (0.95 + 1e-10) * base + (1 - (0.95 + 1e-10) ** 2) ** 0.5 * other
    ours, _ = both((base, planted), (base, planted), 0.95, screen)
    assert len(ours) == number


def test_all_hit_and_no_hit() -> None:
    same = torch.ones(30, 5)
    ours, _ = both((same, None), (same, None), 0.999)
    assert len(ours) == 30 * 29 // 2
    assert both((torch.eye(30), None), (same, None), 0.5) == ([], [])


@pytest.mark.parametrize("number", [0, 1])
def test_too_few_rows_for_a_pair(number: int) -> None:
    few = torch.ones(number, 4)
    for screen in SCREENS:
        assert both((few, None), (few, None), 0.5, screen) == ([], [])


def test_matmul_precision_of_the_caller_is_overridden_and_restored() -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        drawn = torch.randn(300, 768, generator=torch.Generator().manual_seed(3))
        ours, truth = both((drawn, None), (drawn, None), 0.02)
        assert ours == truth
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


def test_bad_row_is_named() -> None:
    good = torch.ones(4, 3)
    bad = good.clone()
    bad[2, 1] = float("nan")
    with pytest.raises(ValueError, match="dino: row 2 of 4 holds NaN"):
        list(cpu.candidates((good, None), (bad, None), clip_above=0.5))
    with pytest.raises(ValueError, match="clip: row 2 of 4 holds NaN"):
        list(cpu.candidates((bad, None), (good, None), clip_above=0.5))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_hundred_thousand_rows_with_pairs_planted_around_the_threshold(dtype: torch.dtype) -> None:
    # Unrelated rows of this width lie near 0; whatever is near 0.95 was planted.
    number, planted, dim = 100_000, 2_000, 768
    generator = torch.Generator().manual_seed(11)
    clip = torch.empty(number, dim, dtype=dtype)
    for start in range(0, number, 10_000):
        clip[start : start + 10_000] = torch.randn(10_000, dim, generator=generator)
    places = torch.randperm(number, generator=generator)[: 2 * planted].view(2, planted)
    base = torch.nn.functional.normalize(clip[places[0]].double(), dim=1)
    other = torch.randn(planted, dim, generator=generator).double()
    other -= (other * base).sum(dim=1, keepdim=True) * base
    other = torch.nn.functional.normalize(other, dim=1)
    cosine = 0.95 + torch.linspace(-1e-4, 1e-4, planted, dtype=torch.float64)[:, None]
    clip[places[1]] = (cosine * base + (1 - cosine**2).sqrt() * other).to(dtype)
    truth = cosines(clip, clip, places[0], places[1])
    assert truth.sub(0.95).abs().max() < 5e-4
    wanted = {
        frozenset(pair)
        for pair, above in zip(places.T.tolist(), (truth > 0.95).tolist(), strict=True)
        if above
    }
    dino = torch.ones(number, 2)
    done = cpu.Statistics()
    found = concatenate(
        list(cpu.candidates((clip, None), (dino, None), clip_above=0.95, statistics=done))
    )
    assert {frozenset(pair) for pair in zip(found.i.tolist(), found.j.tolist(), strict=True)} == (
        wanted
    )
    assert 0.4 * planted < len(wanted) == len(found) < 0.6 * planted
    assert done.num_pairs == number * (number - 1) // 2
