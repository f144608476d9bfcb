"""The Triton join against the float64 reference: tiny shapes interpreted, large ones compiled.

Every test with the fixture `search` runs twice, under Triton's interpreter and, marked `gpu`,
compiled. Memory that the join asks for is filled with NaN and with integers that mean nothing.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kernels import gpu, gpu_rows, gpu_stages, reference
from kernels.axes import find_axes
from kernels.axes import project as project_rows
from kernels.bounds import sum_slack
from kernels.gpu_rows import float32_below, screen_rows, tensor_core_slack, to_device
from kernels.gpu_stages import Limits
from kernels.reference import Pairs, concatenate
from kernels.tiles import (
    CODE_WIDTH,
    CODES,
    ROWS,
    Tile,
    Unavailable,
    architecture,
    check_rows_compile,
)
from tests.elsewhere import Elsewhere, elsewhere
from tests.interpreting import far_rows_kept, found, interpreter, under_floors

Sets = tuple[torch.Tensor, torch.Tensor | None]

TINY = {
    "full": Tile(rows=32, columns=64, depth=32, group=2, num_warps=4, num_stages=2),
    "int8": Tile(rows=64, columns=128, depth=128, group=3, num_warps=4, num_stages=2),
}
BLOCK_ROWS = {"full": 96, "int8": 1024}


class Search(NamedTuple):
    """One way to run the join, and how large the rows should be for it."""

    run: Callable[..., tuple[Pairs, list[str]]]
    compiled: bool

    def rows(self, tiny: int, large: int) -> int:
        return large if self.compiled else tiny

    def limits(self, stage: str, **other: Any) -> Limits:
        """Tiny tiles and super-blocks in the interpreter, so that there are several of each."""
        if self.compiled:
            return Limits(block_rows=8192, **other)
        return Limits(tile=TINY[stage], block_rows=BLOCK_ROWS[stage], **other)


@pytest.fixture(scope="module")
def interpreting() -> Iterator[ProcessPoolExecutor]:
    with interpreter() as pool:
        yield pool


@pytest.fixture(params=["interpreted", pytest.param("compiled", marks=pytest.mark.gpu)])
def search(request: pytest.FixtureRequest, interpreting: ProcessPoolExecutor) -> Search:
    if request.param == "compiled":
        return Search(found, compiled=True)
    return Search(lambda *sets, **how: interpreting.submit(found, *sets, **how).result(), False)


@pytest.fixture(params=["full", "int8"])
def stage(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def crowded(rows: int, dim: int, seed: int, dtype: torch.dtype = torch.float16) -> torch.Tensor:
    """Rows of any length around a few directions, so that many cosines are near a threshold."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(max(1, rows // 20), dim, generator=generator)
    picked = torch.randint(len(centres), (rows,), generator=generator)
    noise = 0.25 * torch.randn(rows, dim, generator=generator)
    length = torch.rand(rows, 1, generator=generator) * 20 + 0.05
    return ((centres[picked] + noise) * length).to(dtype)


def listed(pairs: Pairs) -> list[tuple[int, int]]:
    return sorted(zip(pairs.i.tolist(), pairs.j.tolist(), strict=True))


def check(
    search: Search, stage: str, clip: Sets, dino: Sets, above: float, **how: Any
) -> tuple[Pairs, list[str]]:
    """The join's pairs are the reference's, with its cosines; returned as they came."""
    below = how.pop("dino_below", None)
    limits = how.pop("limits", search.limits(stage))
    pairs, launches = search.run(
        clip, dino, clip_above=above, dino_below=below, stage=stage, limits=limits
    )
    assert set(launches) <= {"CodesScreen" if stage == "int8" else "RowsScreen"}
    truth = concatenate(list(reference.candidates(clip, dino, clip_above=above)))
    if below is not None:
        truth = truth.where(truth.dino_cos < below)
    assert listed(pairs) == listed(truth)
    order, wanted = (torch.argsort(each.i * (1 << 31) + each.j) for each in (pairs, truth))
    for name in ("clip_cos", "dino_cos"):
        ours, theirs = getattr(pairs, name)[order], getattr(truth, name)[wanted]
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    return pairs, launches


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_equals_the_reference_from_unnormalised_rows(
    search: Search, stage: str, dtype: torch.dtype
) -> None:
    # Ragged in rows, in width and in both at once.
    rows, dim = search.rows(133, 20_011), search.rows(83, 739)
    clip, dino = crowded(rows, dim, 1, dtype), crowded(rows, 37, 2, dtype)
    pairs, _ = check(search, stage, (clip, None), (dino, None), 0.93)
    assert len(pairs) > rows // 2
    assert bool((pairs.i < pairs.j).all())


def test_both_thresholds(search: Search, stage: str) -> None:
    rows = search.rows(120, 20_000)
    # Shorter than 1, so that a reciprocal left out would lose pairs.
    clip, dino = crowded(rows, 70, 3) / 256, crowded(rows, 24, 4)
    both, _ = check(search, stage, (clip, None), (dino, None), 0.93, dino_below=0.1)
    every, _ = check(search, stage, (clip, None), (dino, None), 0.93)
    assert 10 < len(both) < len(every)


def test_across_two_sets(search: Search, stage: str) -> None:
    rows, others = search.rows(70, 9_001), search.rows(141, 21_007)
    clip = crowded(rows + others, 64, 5)
    dino = crowded(rows + others, 20, 6)
    sets = (clip[:rows], clip[rows:]), (dino[:rows], dino[rows:])
    pairs, launches = check(search, stage, *sets, 0.93)
    assert len(pairs) > rows
    assert len(launches) >= (2 if stage == "full" else 1)


def test_sets_of_different_dtypes(search: Search) -> None:
    clip, dino = crowded(100, 40, 7), crowded(100, 8, 8)
    sets = (clip[:30], clip[30:].bfloat16()), (dino[:30], dino[30:].double())
    assert len(check(search, "full", *sets, 0.93)[0]) > 10


@pytest.mark.parametrize("rows", [0, 1, 2, 5])
def test_fewer_rows_than_a_tile(search: Search, stage: str, rows: int) -> None:
    clip, dino = crowded(rows, 9, 9), crowded(rows, 9, 10)
    pairs, _ = check(search, stage, (clip, None), (dino, None), -0.999)
    assert len(pairs) == rows * (rows - 1) // 2


def test_no_hit(search: Search, stage: str) -> None:
    rows = torch.eye(search.rows(40, 700)).half()
    assert len(check(search, stage, (rows, None), (rows, None), 0.5)[0]) == 0


def test_all_hit(search: Search, stage: str) -> None:
    rows = search.rows(100, 1_500)
    ones = (torch.rand(rows, 40, generator=torch.Generator().manual_seed(11)) + 5).half()
    pairs, _ = check(search, stage, (ones, None), (ones, None), 0.5)
    assert len(pairs) == rows * (rows - 1) // 2


def test_exact_ties_are_not_above(search: Search, stage: str) -> None:
    # Cosines of exactly 0.5 and 1, from halves that every format holds.
    half = torch.tensor([[1.0, 1, 0, 0], [1, 0, 1, 0], [0, 1, 1, 0], [1, 1, 0, 0]]).half()
    pairs, _ = check(search, stage, (half, None), (half, None), 0.5)
    assert listed(pairs) == [(0, 3)]
    assert listed(check(search, stage, (half, None), (half, None), 0.4999)[0]) == [
        (0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3),
    ]  # fmt: skip
    ties, _ = check(search, stage, (half, None), (half, None), 0.4999, dino_below=0.75)
    assert (0, 3) not in listed(ties)


def test_duplicate_rows(search: Search, stage: str) -> None:
    rows = search.rows(12, 900)
    clip = crowded(rows, 50, 12).repeat(3, 1)
    clip[rows : 2 * rows] *= 4
    pairs, _ = check(search, stage, (clip, None), (clip, None), 0.99999)
    assert {(0, rows), (0, 2 * rows), (rows, 2 * rows)} <= set(listed(pairs))


def test_near_the_threshold(search: Search, stage: str) -> None:
    # 0.9499 .. 0.9501 in steps of 1e-6, closer together than 16 bits and codes can tell.
    dim, steps = 768, (torch.arange(-100, 100, dtype=torch.float64) + 0.5) * 1e-6
    generator = torch.Generator().manual_seed(13)
    base = torch.nn.functional.normalize(torch.randn(1, dim, generator=generator).double(), dim=1)
    other = torch.randn(len(steps), dim, generator=generator).double()
    other = torch.nn.functional.normalize(other - (other @ base.T) * base, dim=1)
    cosine = (0.95 + steps)[:, None]
    rows = (cosine * base + (1 - cosine**2).sqrt() * other) * torch.linspace(0.1, 90, 200)[:, None]
    for dtype in (torch.float64, torch.float32):
        sets = (base.to(dtype), rows.to(dtype))
        pairs, _ = check(search, stage, sets, sets, 0.95)
    assert sorted(pairs.j.tolist()) == list(range(100, 200))


def test_no_pair_within_float32_of_a_threshold_is_lost(search: Search, stage: str) -> None:
    # All above 0.95, and below the DINO threshold, by less than float32 can tell.
    dim, number = 768, 200
    generator = torch.Generator().manual_seed(27)
    base = torch.nn.functional.normalize(torch.randn(1, dim, generator=generator).double(), dim=1)
    other = torch.randn(number, dim, generator=generator).double()
    other = torch.nn.functional.normalize(other - (other @ base.T) * base, dim=1)
    rows = (0.95 + 1e-10) * base + (1 - (0.95 + 1e-10) ** 2) ** 0.5 * other
    sets = (base, rows), (base, rows)
    pairs, _ = check(search, stage, *sets, 0.95, dino_below=0.95 + 2e-10)
    assert len(pairs) == number


@pytest.mark.parametrize("exponent", [-130, -70, 70, 120])
def test_rows_near_the_limits_of_their_dtype(search: Search, exponent: int) -> None:
    dtype = torch.bfloat16 if exponent > -126 else torch.float64
    clip, dino = crowded(40, 30, 14, torch.float64), crowded(40, 30, 15, torch.float64)
    clip, dino = (torch.ldexp(rows / 20, torch.tensor(exponent)).to(dtype) for rows in (clip, dino))
    before = clip.clone()
    assert len(check(search, "full", (clip, None), (dino, None), 0.93, dino_below=0.9)[0]) > 5
    assert torch.equal(clip, before)


def test_room_that_is_too_small_is_found_out(search: Search, stage: str) -> None:
    rows = search.rows(150, 20_000)
    clip, dino = crowded(rows, 64, 16), crowded(rows, 16, 17)
    ample, launches = check(search, stage, (clip, None), (dino, None), 0.93)
    small = search.limits(stage, num_records=1, num_pairs=7)
    again, more = check(search, stage, (clip, None), (dino, None), 0.93, limits=small)
    assert len(more) > len(launches)
    # And in the same order, whatever there was room for.
    assert torch.equal(again.i, ample.i)
    assert torch.equal(again.j, ample.j)


def test_the_order_is_the_same_in_every_run(search: Search, stage: str) -> None:
    clip = crowded(search.rows(130, 30_000), 64, 18)
    runs = [check(search, stage, (clip, None), (clip, None), 0.93)[0] for _ in range(2)]
    assert torch.equal(runs[0].i, runs[1].i)
    assert torch.equal(runs[0].j, runs[1].j)


def test_tiles_that_ship(search: Search, stage: str) -> None:
    # Not the tiny ones: those of the table, ragged.
    rows = search.rows(150, 40_007)
    clip, dino = crowded(rows, 64, 19), crowded(rows, 16, 20)
    check(search, stage, (clip, None), (dino, None), 0.93, limits=Limits())


def test_codes_of_several_blocks(search: Search) -> None:
    # Floors differ from block to block: one outlier row among others.
    rows = search.rows(1100, 30_000)
    clip = crowded(rows, 160, 21)
    clip[1030] = 0
    clip[1030, 3] = 1
    limits = Limits() if search.compiled else Limits(block_rows=1024, tile=CODES[90])
    check(search, "int8", (clip, None), (clip[:, :5] + 20, None), 0.97, limits=limits)


def test_every_block_of_codes_has_its_own_floor(interpreting: ProcessPoolExecutor) -> None:
    generator = torch.Generator().manual_seed(28)
    codes_NK = torch.randint(-127, 128, (192, 128), generator=generator, dtype=torch.int8)
    floors_BB = 30_000 * torch.arange(1, 10, dtype=torch.int32).view(3, 3)
    products_NN = codes_NK.double() @ codes_NK.double().T
    truth = products_NN > floors_BB.repeat_interleave(64, 0).repeat_interleave(64, 1)
    hits = interpreting.submit(under_floors, codes_NK, floors_BB).result()
    assert hits == [tuple(pair) for pair in truth.nonzero().tolist()]


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    rows=st.integers(1, 70),
    others=st.none() | st.integers(1, 40),
    dim=st.integers(1, 70),
    noise=st.sampled_from([0.0, 1e-6, 1e-3, 0.3]),
    above=st.floats(-0.5, 0.999),
    below=st.none() | st.floats(-1, 1),
    dtype=st.sampled_from([torch.float16, torch.float32]),
    seed=st.integers(0, 2**31),
)
def test_any_rows(
    search: Search,
    rows: int,
    others: int | None,
    dim: int,
    noise: float,
    above: float,
    below: float | None,
    dtype: torch.dtype,
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    total = rows + (others or 0)
    clip = torch.randn(total, 3, generator=generator) @ torch.randn(3, dim, generator=generator)
    clip = (clip + noise * torch.randn(total, dim, generator=generator)).to(dtype)
    clip[(clip == 0).all(dim=1)] = 1
    dino = (torch.randn(total, 3, generator=generator) + 2).to(dtype)
    dino[(dino == 0).all(dim=1)] = 1
    a, b = slice(rows), slice(rows, None)
    sets = [(x[a], None if others is None else x[b]) for x in (clip, dino)]
    stage = ("full", "int8")[seed % 2]
    pairs, _ = search.run(
        *sets, clip_above=above, dino_below=below, stage=stage, limits=search.limits(stage)
    )
    # Cosines within 1e-9 of a threshold may fall either way: float64 sums differ in their order.
    strict, loose = (
        set(listed(t.where(t.dino_cos < (2 if below is None else below) + margin)))
        for margin in (-1e-9, 1e-9)
        for t in [concatenate(list(reference.candidates(*sets, clip_above=above - margin)))]
    )
    assert strict <= set(listed(pairs)) <= loose


def test_auto_takes_codes_where_few_pairs_survive(
    search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    spread = torch.randn(2000, 256, generator=torch.Generator().manual_seed(22))
    spread = spread @ torch.randn(256, 256, generator=torch.Generator().manual_seed(23))
    alike = spread + 100 * spread[:1]
    monkeypatch.setattr(gpu_stages, "MIN_PAIRS", 0)
    for rows, share, pays in ((spread, 1e-3, True), (alike, 0.9, False)):
        device = to_device(rows, "clip", torch.device("cpu"))
        sets = gpu_stages.Sets(
            clip_a=device, clip_b=device, dino_a=device, dino_b=device,
            clip_above=0.95, dino_below=None,
        )  # fmt: skip
        sample = device.sample(gpu_stages.SAMPLE_ROWS)
        axes = find_axes(sample, CODE_WIDTH)
        measured = gpu_stages.survivors(sample, sample, axes, 0.95, within=True)
        assert (measured <= share) is pays
        assert (gpu_stages.axes_that_pay(sets, "auto") is not None) is pays
        assert gpu_stages.axes_that_pay(sets, "int8") is not None
        assert gpu_stages.axes_that_pay(sets, "full") is None


def test_auto_finds_no_axes_for_sets_too_small_for_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    def find_axes(*arguments: Any) -> None:
        raise AssertionError("axes that nobody needs")

    monkeypatch.setattr(gpu_stages, "find_axes", find_axes)
    small = to_device(crowded(300, 768, 29), "clip", torch.device("cpu"))
    narrow = to_device(crowded(300, 64, 29), "clip", torch.device("cpu"))
    for rows, least in ((small, 300 * 300 + 1), (narrow, 0)):
        monkeypatch.setattr(gpu_stages, "MIN_PAIRS", least)
        sets = gpu_stages.Sets(
            clip_a=rows, clip_b=rows, dino_a=rows, dino_b=rows, clip_above=0.95, dino_below=None
        )
        assert gpu_stages.axes_that_pay(sets, "auto") is None


def test_rows_that_start_past_two_to_the_31(interpreting: ProcessPoolExecutor) -> None:
    # Of the tiles, whose rows are too many to interpret, test_ahead_of_time.py reads the code.
    with tempfile.TemporaryDirectory() as folder:
        assert interpreting.submit(far_rows_kept, f"{folder}/rows").result() == [1, 0, 1]


@pytest.mark.gpu
def test_rows_past_two_to_the_31_compiled(stage: str) -> None:
    generator = torch.Generator(device="cuda").manual_seed(24)
    rows = torch.randn(2_900_000, 768, generator=generator, device="cuda", dtype=torch.float16)
    assert rows.numel() > 2**31
    rows[2_899_999] = rows[5]
    few = rows[:300].clone()
    dino = torch.randn(2_900_000, 8, generator=generator, device="cuda", dtype=torch.float16)
    pairs, _ = found((few, rows), (dino[:300], dino), clip_above=0.9, stage=stage)
    assert listed(pairs) == sorted([(k, k) for k in range(300)] + [(5, 2_899_999)])


def test_pairs_are_chosen_on_the_device_and_come_back_to_the_cpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def cosines(*tensors: torch.Tensor) -> torch.Tensor:
        return elsewhere(reference.cosines(*(each.cpu() for each in tensors)))

    def recheck(*sets: Any, **limits: float) -> torch.Tensor:
        return elsewhere(torch.tensor([True, True, False, True]))

    monkeypatch.setattr("kernels.gpu_screens.recheck", recheck)
    monkeypatch.setattr(gpu, "cosines", cosines)
    rows = to_device(torch.tensor([[1.0, 0], [1, 0.1], [0, 1]]), "clip", torch.device("cpu"))
    there = replace(rows, rows_ND=elsewhere(rows.rows_ND), inverse_N=elsewhere(rows.inverse_N))
    sets = gpu_stages.Sets(
        clip_a=there, clip_b=there, dino_a=there, dino_b=there, clip_above=0.9, dino_below=1.0
    )
    i, j = elsewhere(torch.tensor([0, 0, 0, 1])), elsewhere(torch.tensor([1, 2, 1, 2]))
    pairs = gpu._decide(sets, i, j)
    assert listed(pairs) == [(0, 1)]
    for field in (pairs.i, pairs.j, pairs.clip_cos, pairs.dino_cos):
        assert not isinstance(field, Elsewhere)


def test_bad_row_is_named(search: Search) -> None:
    rows = torch.ones(4, 3)
    bad = rows.clone()
    bad[2, 1] = float("nan")
    with pytest.raises(ValueError, match="dino: row 2 of 4 holds NaN"):
        search.run((rows, None), (bad, None), clip_above=0.5)
    with pytest.raises(ValueError, match="clip: row 1 of 4 is zero"):
        search.run((rows * torch.tensor([[1], [0], [1], [1]]), None), (rows, None), clip_above=0.5)


def test_limits_that_the_join_cannot_work_with() -> None:
    for name in ("block_rows", "num_records", "num_pairs"):
        with pytest.raises(ValueError, match=f"{name} is 0; give 1 or more"):
            Limits(**{name: 0})
    rows = torch.ones(4, 3)
    for stage in ("auto", "int8"):
        search = partial(gpu.candidates, (rows, None), (rows, None), clip_above=0.5, stage=stage)
        with pytest.raises(ValueError, match="block_rows is 1500 and 1024 rows of codes share"):
            list(search(limits=Limits(block_rows=1500)))
        with pytest.raises(ValueError, match="the tile is 2048 x 128 and 1024 rows of codes"):
            list(search(limits=Limits(tile=replace(CODES[90], rows=2048))))


def test_the_callers_device_is_current_between_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    current = ["the caller's"]

    @contextmanager
    def _current(device: torch.device) -> Iterator[None]:
        current.append("the join's")
        yield
        current.pop()

    def _search(*arguments: Any) -> Iterator[Pairs]:
        for _ in range(2):
            assert current[-1] == "the join's"
            yield concatenate([])

    monkeypatch.setattr(gpu, "_current", _current)
    monkeypatch.setattr(gpu, "_search", _search)
    monkeypatch.setattr(gpu, "_device", lambda rows: torch.device("cpu"))
    rows = torch.ones(4, 3)
    blocks = 0
    for _ in gpu.candidates((rows, None), (rows, None), clip_above=0.5):
        assert current == ["the caller's"]
        blocks += 1
    assert blocks == 2


def test_a_repeat_makes_room_for_more_than_was_needed() -> None:
    class Growing:
        tile = TINY["full"]
        needed = iter((9, 9, 12))

        def append(self, row: int, column: int, records: Any, *, diagonal: bool) -> None:
            records.counter.fill_(next(self.needed))

    screen: Any = Growing()
    records, number = gpu._fill(screen, 0, 0, room(8, TINY["full"]), diagonal=False)
    assert (len(records.tiles_C), number) == (16, 9)
    records, number = gpu._fill(screen, 0, 1, records, diagonal=False)
    assert (len(records.tiles_C), number) == (16, 12)


def room(num_records: int, tile: Tile) -> Any:
    from kernels import gpu_screens

    return gpu_screens.room(num_records, tile, torch.device("cpu"))


def test_unknown_stage() -> None:
    rows = torch.ones(4, 3)
    with pytest.raises(ValueError, match="stage is 'fp8'; there are auto, full and int8"):
        list(gpu.candidates((rows, None), (rows, None), clip_above=0.5, stage="fp8"))  # type: ignore[arg-type]


def test_no_cuda_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    rows = torch.ones(4, 3)
    with pytest.raises(Unavailable, match="needs a CUDA device and torch sees none; use the CPU"):
        list(gpu.candidates((rows, None), (rows, None), clip_above=0.5))


def test_no_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "kernels.dual_threshold", raising=False)
    monkeypatch.setitem(sys.modules, "triton", None)
    rows = torch.ones(4, 3)
    with pytest.raises(Unavailable, match="needs the package triton, which cannot be imported"):
        list(gpu.candidates((rows, None), (rows, None), clip_above=0.5))


def test_architecture_of_a_device() -> None:
    capabilities = [(8, 0), (8, 6), (8, 7), (8, 9), (9, 0), (10, 0), (10, 3), (12, 0)]
    assert [architecture(c) for c in capabilities] == [80, 89, 80, 89, 90, 100, 100, 120]
    with pytest.raises(Unavailable, match=r"compute capability 7\.5 and the Triton join needs"):
        architecture((7, 5))
    for table in (ROWS, CODES):
        for tile in table.values():
            assert 1024 % tile.rows == 1024 % tile.columns == 0


def test_triton_that_cannot_compile_for_a_blackwell_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check_rows_compile(100, "3.9.0")
    check_rows_compile(90, "3.6.0")
    message = r"Triton 3\.6\.0 cannot compile the join of rows .*; install a later Triton"
    with pytest.raises(Unavailable, match=message):
        check_rows_compile(100, "3.6.0")
    monkeypatch.setattr("kernels.dual_threshold.TRITON_VERSION", "3.6.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (10, 0))
    rows = to_device(torch.eye(3), "clip", torch.device("cpu"))
    sets = gpu_stages.Sets(
        clip_a=rows, clip_b=rows, dino_a=rows, dino_b=rows, clip_above=0.9, dino_below=None
    )
    with pytest.raises(Unavailable, match=message):
        gpu_stages.find_screen(sets, "full", Limits(), torch.device("cuda"))


def test_why_the_join_cannot_run_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.available() == "torch sees no CUDA device"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    assert gpu.available() is None
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    assert "compute capability 7.5" in str(gpu.available())
    monkeypatch.setattr("kernels.dual_threshold.INTERPRETED", True)
    assert str(gpu.available()).startswith("Triton interprets")
    monkeypatch.delitem(sys.modules, "kernels.dual_threshold", raising=False)
    monkeypatch.setitem(sys.modules, "triton", None)
    assert gpu.available() == "the package triton cannot be imported"


def test_tensor_core_sums_stay_within_their_slack() -> None:
    # The worst they may do: cut off after every product, all of one sign.
    generator = torch.Generator().manual_seed(25)
    a, b = (torch.rand(64, 768, generator=generator).half() for _ in range(2))
    exact = (a.double() * b.double()).sum(dim=1)
    cut = torch.zeros(64, dtype=torch.float64)
    for k in range(768):
        cut += a[:, k].double() * b[:, k].double()
        exponent = torch.frexp(cut).exponent
        cut = torch.ldexp(torch.floor(torch.ldexp(cut, 24 - exponent)), exponent - 24)
    lengths = torch.linalg.vector_norm(a.double(), dim=1) * torch.linalg.vector_norm(
        b.double(), dim=1
    )
    error = float(((exact - cut) / lengths).max())
    assert sum_slack(768) / 20 < error < tensor_core_slack(768)


def test_codes_are_projected_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    # Where torch may take TF32 for float32, a product of float32 would not keep the bound.
    seen: list[torch.dtype] = []

    def project(unit_ND: torch.Tensor, axes: Any) -> torch.Tensor:
        seen.extend((unit_ND.dtype, axes.turned_DK.dtype))
        return project_rows(unit_ND, axes)

    monkeypatch.setattr(gpu_rows, "project", project)
    rows = crowded(40, 300, 30)
    device = to_device(rows, "clip", torch.device("cpu"))
    gpu_rows.encode(rows, find_axes(device.sample(40), CODE_WIDTH))
    assert set(seen) == {torch.float64}


def test_float32_below() -> None:
    for value in (0.95, 0.1, -0.3, 1.0):
        assert float32_below(value) <= value < float32_below(value) + 1e-7


def test_rounded_rows_measure_their_error() -> None:
    rows = to_device(crowded(50, 60, 26, torch.float32), "clip", torch.device("cpu"))
    screen = screen_rows(rows, torch.float16, 32)
    assert screen.rows_ND.shape == (50, 64)
    unit = torch.nn.functional.normalize(rows.rows_ND.double(), dim=1)
    distance = torch.linalg.vector_norm(unit - screen.rows_ND[:, :60].double(), dim=1)
    assert float(distance.max()) <= screen.error < 1e-3
    same = screen_rows(replace(rows, rows_ND=rows.rows_ND.half()), torch.float16, 30)
    assert same.error == 0
    assert same.rows_ND.shape == (50, 60)
