import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict

import faiss
import pytest
import torch

from kernels import reference
from kernels.reference import Pairs, concatenate
from miner import knn
from miner.knn import KnnReport, KnnSearch, KnnSettings, candidates

Sets = tuple[torch.Tensor, torch.Tensor | None]


@pytest.fixture(autouse=True)
def _threads_stay() -> Iterator[None]:
    before = faiss.omp_get_max_threads(), torch.get_num_threads()
    yield
    assert (faiss.omp_get_max_threads(), torch.get_num_threads()) == before


def listed(blocks: list[Pairs]) -> list[tuple[int, int, float, float]]:
    pairs = concatenate(blocks)
    columns = (pairs.i, pairs.j, pairs.clip_cos, pairs.dino_cos)
    return sorted(zip(*(column.tolist() for column in columns), strict=True))


def search(
    clip: Sets, dino: Sets, above: float, settings: KnnSettings | None = None, device: str = "cpu"
) -> tuple[list[tuple[int, int, float, float]], KnnReport]:
    knn_search = KnnSearch((settings or KnnSettings()).model_copy(update={"device": device}))
    blocks = list(knn_search.candidates(clip, dino, clip_above=above))
    assert all(len(block) for block in blocks)
    return listed(blocks), knn_search.report()


def exact(clip: Sets, dino: Sets, above: float) -> list[tuple[int, int, float, float]]:
    return listed(list(reference.candidates(clip, dino, clip_above=above)))


def random_rows(
    rows: int, dim: int = 16, seed: int = 0, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed)).to(dtype)


def copies(num_groups: int, size: int, dim: int = 16) -> torch.Tensor:
    """Groups of equal rows, unlike between groups, shuffled."""
    rows = torch.eye(dim)[:num_groups].repeat_interleave(size, dim=0)
    return rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(1))]


# -- the pairs -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("settings", [KnnSettings(k=299), KnnSettings(k=299, nlist=5, nprobe=5)])
def test_equals_the_reference_where_k_and_the_cells_cover_all(
    dtype: torch.dtype, settings: KnnSettings
) -> None:
    clip, dino = random_rows(300, dtype=dtype), random_rows(300, 7, seed=1, dtype=dtype)
    found, report = search((clip, None), (dino, None), 0.2, settings)
    assert found == exact((clip, None), (dino, None), 0.2)
    assert len(found) > 5000
    assert (report.recall, report.recall_pairs, report.num_saturated) == (1.0, len(found), 0)


@pytest.mark.parametrize("k", [2, 199])
def test_blocks_meet_without_gap_or_overlap(monkeypatch: pytest.MonkeyPatch, k: int) -> None:
    clip, dino = random_rows(200), random_rows(200, 4, seed=1)
    whole, report = search((clip, None), (dino, None), 0.3, KnnSettings(k=k))
    truth = exact((clip, None), (dino, None), 0.3)
    monkeypatch.setattr(knn, "BLOCK_ROWS", 7)
    monkeypatch.setattr(knn, "EXACT_ROWS", 11)
    found, report_of_blocks = search((clip, None), (dino, None), 0.3, KnnSettings(k=k))
    assert found == whole
    assert report_of_blocks == report
    assert len(set(found)) == len(found)
    assert all(i < j for i, j, _, _ in found)
    # With k = 2 most pairs are in one of the two lists only.
    assert found == truth if k == 199 else 200 < len(found) < len(truth)


def test_pair_in_one_list_only_is_found_from_either_side(monkeypatch: pytest.MonkeyPatch) -> None:
    # Rows on a circle: the nearest of the end is its neighbour, whose own nearest is another.
    for angles in ([0.0, 2.0, 3.0, 3.5], [3.5, 3.0, 2.0, 0.0]):
        radians = torch.tensor(angles).deg2rad()
        rows = torch.stack([radians.cos(), radians.sin()], dim=1)
        for block_rows in (1, 4096):
            monkeypatch.setattr(knn, "BLOCK_ROWS", block_rows)
            found, _ = search((rows, None), (rows, None), 0.99, KnnSettings(k=1))
            assert [(i, j) for i, j, _, _ in found] == [(0, 1), (1, 2), (2, 3)]


@pytest.mark.parametrize("settings", [KnnSettings(k=90), KnnSettings(k=90, nlist=4, nprobe=4)])
def test_across_two_sets(monkeypatch: pytest.MonkeyPatch, settings: KnnSettings) -> None:
    monkeypatch.setattr(knn, "BLOCK_ROWS", 16)
    clip, dino = random_rows(140), random_rows(140, 3, seed=1)
    for cut in (50, 90):
        sets = (clip[:cut], clip[cut:]), (dino[:cut], dino[cut:])
        found, report = search(*sets, 0.1, settings)
        assert found == exact(*sets, 0.1)
        assert (report.recall, report.recall_pairs) == (1.0, len(found))
        assert (report.recall_sample_rows, report.num_saturated) == (cut, 0)
        assert any(i > j for i, j, _, _ in found)


def test_same_set_twice_keeps_both_orders_and_a_row_with_itself() -> None:
    rows = torch.eye(3)
    found, _ = search((rows, rows), (rows, rows), 0.5)
    assert [(i, j) for i, j, _, _ in found] == [(0, 0), (1, 1), (2, 2)]


def test_screen_loses_no_pair_just_above_the_threshold() -> None:
    # Above by less than float32 can tell: without the slack about half would be dropped.
    dim, number = 768, 400
    base = torch.nn.functional.normalize(random_rows(1, dim, seed=4).double(), dim=1)
    other = random_rows(number, dim, seed=5).double()
    other = torch.nn.functional.normalize(other - (other @ base.T) * base, dim=1)
    rows = (0.95 + 1e-10) * base + (1 - (0.95 + 1e-10) ** 2) ** 0.5 * other
    found, report = search((base, rows), (base, rows), 0.95, KnnSettings(k=number))
    assert len(found) == number
    assert report.recall == 1.0


def test_threshold_is_strict() -> None:
    rows = torch.tensor([[3.0, 4.0], [3.0, 4.0]])
    assert search((rows, None), (rows, None), 1.0)[0] == []
    assert len(search((rows, None), (rows, None), math.nextafter(1.0, 0.0))[0]) == 1


def test_length_and_layout_of_rows_do_not_matter() -> None:
    rows = random_rows(40, dtype=torch.float64)
    scaled = (rows * torch.logspace(-150, 150, 40, dtype=torch.float64)[:, None]).T.contiguous().T
    plain, _ = search((rows, None), (rows, None), 0.3)
    found, _ = search((scaled, None), (scaled, None), 0.3)
    assert not scaled.is_contiguous()
    assert [pair[:2] for pair in found] == [pair[:2] for pair in plain]
    assert len(plain) > 20


def test_candidates_is_the_search_by_default_settings() -> None:
    clip, dino = random_rows(60), random_rows(60, 3)
    found = listed(list(candidates((clip, None), (dino, None), clip_above=0.2)))
    assert found == exact((clip, None), (dino, None), 0.2)


@pytest.mark.parametrize("settings", [{"k": 9}, {"k": 9, "nlist": 8, "nprobe": 2}])
def test_equal_twice_in_a_row(settings: dict[str, int]) -> None:
    # Ties everywhere: which copies get into a list is faiss's choice.
    clip = torch.cat([copies(10, 30), random_rows(200)])
    runs = [
        (list(knn_search.candidates((clip, None), (clip, None), clip_above=0.5)), knn_search)
        for knn_search in [KnnSearch(KnnSettings(device="cpu", **settings)) for _ in range(2)]
    ]
    (first, one), (second, two) = runs
    assert [block.i.tolist() for block in first] == [block.i.tolist() for block in second]
    assert [block.j.tolist() for block in first] == [block.j.tolist() for block in second]
    assert one.report() == two.report()


@pytest.mark.parametrize(("rows", "others"), [(0, None), (1, None), (0, 5), (5, 0), (0, 0)])
def test_too_few_rows_for_a_pair(rows: int, others: int | None) -> None:
    sets = torch.ones(rows, 4), None if others is None else torch.ones(others, 4)
    found, report = search(sets, sets, 0.5)
    assert found == []
    assert (report.recall, report.recall_pairs, report.recall_sample_rows) == (None, 0, rows)
    assert (report.index, report.num_saturated) == ("flat", 0)


def test_bad_row_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knn, "EXACT_ROWS", 2)
    good, bad = torch.ones(4, 3), torch.ones(4, 3)
    bad[2, 1] = float("nan")
    zero = torch.ones(4, 3)
    zero[3] = 0
    for clip, dino, message in (
        ((good, None), (bad, None), "dino: row 2 of 4 holds NaN"),
        ((good, good), (good, zero), "dino: row 3 of 4 is zero"),
        ((bad, None), (good, None), "clip: row 2 of 4 holds NaN"),
        ((good, zero), (good, good), "clip: row 3 of 4 is zero"),
    ):
        with pytest.raises(ValueError, match=message):
            list(candidates(clip, dino, clip_above=0.5))


# -- what is missed, and the report --------------------------------------------------------------


def test_more_copies_than_k_are_saturated_and_the_missing_pairs_are_reported() -> None:
    clip = torch.cat([copies(4, 30), torch.eye(16)[4:]])
    found, report = search((clip, None), (clip, None), 0.9, KnnSettings(k=5))
    truth = exact((clip, None), (clip, None), 0.9)
    assert len(truth) == 4 * 30 * 29 // 2
    assert len(set(found)) == len(found) < len(truth)
    assert set(found) < set(truth)
    # The 12 rows without a copy have empty places above the threshold.
    assert report.num_saturated == 120
    assert report.recall == len(found) / len(truth)
    assert (report.recall_pairs, report.recall_sample_rows) == (len(truth), len(clip))


def test_row_is_saturated_where_its_list_is_full_and_not_before() -> None:
    for size, saturated in ((5, 0), (6, 12)):
        clip = copies(2, size)
        found, report = search((clip, None), (clip, None), 0.9, KnnSettings(k=5))
        assert (len(found), report.recall) == (size * (size - 1), 1.0)
        assert report.num_saturated == saturated
        # Across two sets no place goes to the row itself.
        _, report = search((clip, clip), (clip, clip), 0.9, KnnSettings(k=size))
        assert report.num_saturated == 2 * size


def test_list_of_all_rows_is_never_saturated() -> None:
    rows = torch.ones(6, 3)
    for k in (5, 64):
        assert search((rows, None), (rows, None), 0.9, KnnSettings(k=k))[1].num_saturated == 0
        assert search((rows, rows), (rows, rows), 0.9, KnnSettings(k=k + 1))[1].num_saturated == 0


def test_unprobed_cells_lose_pairs_and_the_recall_says_how_many() -> None:
    clip, dino = random_rows(900), random_rows(900, 3)
    truth = exact((clip, None), (dino, None), 0.5)
    recalls = []
    for nprobe in (1, 3, 30):
        settings = KnnSettings(k=899, nlist=30, nprobe=nprobe)
        found, report = search((clip, None), (dino, None), 0.5, settings)
        assert set(found) <= set(truth)
        assert report.recall == len(found) / len(truth)
        assert (report.index, report.nlist, report.nprobe) == ("ivf", 30, nprobe)
        assert report.num_saturated == 0
        recalls.append(report.recall)
    assert recalls[0] < recalls[1] < recalls[2] == 1.0


def test_recall_of_a_sample_is_near_that_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    clip = random_rows(900)
    settings = KnnSettings(k=899, nlist=30, nprobe=2)
    found, whole = search((clip, None), (clip, None), 0.5, settings)
    monkeypatch.setattr(knn, "SAMPLE_ROWS", 100)
    same, sampled = search((clip, None), (clip, None), 0.5, settings)
    assert same == found
    assert (whole.recall_sample_rows, sampled.recall_sample_rows) == (900, 100)
    assert 0.1 * whole.recall_pairs < sampled.recall_pairs < 0.3 * whole.recall_pairs
    assert whole.recall is not None
    assert 0.2 < whole.recall < 0.9
    assert sampled.recall == pytest.approx(whole.recall, abs=0.1)


def test_without_a_pair_in_the_sample_the_recall_is_unknown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = torch.eye(20)
    _, report = search((rows, None), (rows, None), 0.5)
    assert (report.recall, report.recall_pairs, report.recall_sample_rows) == (None, 0, 20)
    # A pair of which the sample holds no row says nothing either.
    monkeypatch.setattr(knn, "SAMPLE_ROWS", 1)
    known = 0
    for place in range(0, 20, 2):
        rows = torch.eye(20)
        rows[place + 1] = rows[place]
        found, report = search((rows, None), (rows, None), 0.5)
        assert [(i, j) for i, j, _, _ in found] == [(place, place + 1)]
        assert report.recall == (1.0 if report.recall_pairs else None)
        known += report.recall_pairs
    assert known == 1


def test_report_is_plain() -> None:
    _, report = search((random_rows(50), None), (random_rows(50), None), 0.5, KnnSettings(k=3))
    record = asdict(report)
    assert json.loads(json.dumps(record)) == record
    assert record.keys() == {
        *("index", "nlist", "nprobe", "k", "device", "num_saturated"),
        *("recall", "recall_sample_rows", "recall_pairs"),
    }
    assert (record["index"], record["nlist"], record["nprobe"], record["k"]) == ("flat", 0, 0, 3)


def test_report_of_a_search_that_was_not_read_to_the_end() -> None:
    knn_search, rows = KnnSearch(KnnSettings(k=5)), torch.ones(10, 3)
    with pytest.raises(RuntimeError, match=r"read all candidates\(\) before"):
        knn_search.report()
    for pairs in knn_search.candidates((rows, None), (rows, None), clip_above=0.5):
        assert len(pairs) > 0
        with pytest.raises(RuntimeError, match="not complete"):
            knn_search.report()
    assert knn_search.report().num_saturated == 10
    next(knn_search.candidates((rows, None), (rows, None), clip_above=0.5))
    with pytest.raises(RuntimeError, match="not complete"):
        knn_search.report()


# -- settings, threads, devices ------------------------------------------------------------------


def test_index_goes_by_the_number_of_rows() -> None:
    settings = KnnSettings(device="cpu")
    assert settings.plan(100_000, num_gpus=0) == ("cpu", 0, 0)
    assert settings.plan(100_001, num_gpus=0) == ("cpu", 1264, 32)
    assert settings.plan(100_001, num_gpus=2) == ("cpu", 1264, 32)
    assert KnnSettings().plan(100_001, num_gpus=1) == ("cuda", 1264, 32)
    assert KnnSettings(nlist=0).plan(10**9, num_gpus=1) == ("cuda", 0, 0)
    assert KnnSettings(nlist=7).plan(8, num_gpus=0) == ("cpu", 7, 7)


def test_many_rows_get_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knn, "FLAT_ROWS", 99)
    rows = random_rows(100)
    assert search((rows[:99], None), (rows[:99], None), 0.9)[1].index == "flat"
    report = search((rows, None), (rows, None), 0.9)[1]
    assert (report.index, report.nlist, report.nprobe) == ("ivf", 40, 32)
    # It is the rows of the index that count, not those that ask.
    assert search((rows, rows[:99]), (rows, rows[:99]), 0.9)[1].index == "flat"


@pytest.mark.parametrize(
    ("settings", "num_gpus", "message"),
    [
        ({"nlist": 11}, 0, "nprobe is 11, nlist is 11 .* there are 10 rows; lower them"),
        ({"nlist": 4, "nprobe": 5}, 0, "nprobe is 5, nlist is 4"),
        ({"nprobe": 5}, 0, r"nprobe is 5, nlist is 0 \(0: flat\)"),
        ({"k": 2048}, 1, "k is 2048 and nprobe 0; a GPU index allows k < 2048"),
    ],
)
def test_settings_that_do_not_fit(settings: dict[str, int], num_gpus: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KnnSettings.model_validate(settings).plan(10, num_gpus=num_gpus)


def test_limits_of_a_gpu_do_not_hold_for_a_cpu() -> None:
    many = KnnSettings(k=5000, nlist=9000, nprobe=3000)
    assert many.plan(10**6, num_gpus=0) == ("cpu", 9000, 3000)
    with pytest.raises(ValueError, match="nprobe 3000; a GPU index allows"):
        KnnSettings(nlist=9000, nprobe=3000).plan(10**6, num_gpus=1)
    assert KnnSettings(k=2047).plan(10, num_gpus=1) == ("cuda", 0, 0)


@pytest.mark.parametrize("field", [{"k": 0}, {"nlist": -1}, {"nprobe": 0}, {"device": "tpu"}])
def test_settings_out_of_range(field: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(field))):
        KnnSettings.model_validate(field)


def test_threads_are_the_callers_while_it_has_a_block() -> None:
    rows, before = torch.ones(10, 3), torch.get_num_threads()
    knn_search = KnnSearch(threads=before + 1)
    for _ in knn_search.candidates((rows, None), (rows, None), clip_above=0.5):
        assert (torch.get_num_threads(), faiss.omp_get_max_threads()) == (before, before)
    with pytest.raises(ValueError, match="threads is 0; it has to be at least 1"):
        KnnSearch(threads=0)


CODE = """
import os, torch
from miner.knn import KnnSearch, KnnSettings
rows = torch.randn(3000, 64, generator=torch.Generator().manual_seed(0))
for threads in (1, None, 3):
    search = KnnSearch(KnnSettings(device="cpu"), threads=threads)
    list(search.candidates((rows, None), (rows, None), clip_above=0.9))
    print(len(os.listdir("/proc/self/task")))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts threads in /proc")
def test_search_starts_as_many_threads_as_it_was_given() -> None:
    # Two by default; one starts none beside itself, three start more.
    ran = subprocess.run(
        [sys.executable, "-c", CODE],
        env={**os.environ, "OMP_NUM_THREADS": "2"},
        stdout=subprocess.PIPE,
        check=True,
    )
    one, default, three = map(int, ran.stdout.split())
    assert one < default < three


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    rows = random_rows(50)
    search((rows, None), (rows, None), 0.5, KnnSettings(nlist=20, nprobe=2))
    assert capfd.readouterr() == ("", "")


@pytest.mark.gpu
@pytest.mark.parametrize("cells", [{}, {"nlist": 30, "nprobe": 30}])
def test_gpu_finds_what_the_cpu_finds(cells: dict[str, int]) -> None:
    assert faiss.get_num_gpus() > 0
    clip, dino = random_rows(900, 64), random_rows(900, 7, seed=1)
    for sets in (
        ((clip, None), (dino, None)),
        ((clip[:200], clip[200:]), (dino[:200], dino[200:])),
    ):
        found, report = search(*sets, 0.2, KnnSettings(k=899, **cells), "auto")
        assert found == exact(*sets, 0.2)
        assert (report.device, report.recall, report.num_saturated) == ("cuda", 1.0, 0)
    saturated = torch.cat([copies(4, 30), torch.eye(16)[4:]])
    report = search((saturated, None), (saturated, None), 0.9, KnnSettings(k=5), "auto")[1]
    assert (report.device, report.num_saturated) == ("cuda", 120)
    assert report.recall is not None
    assert report.recall < 1


@pytest.mark.gpu
def test_gpu_loses_what_lies_in_other_cells_and_says_so() -> None:
    clip = random_rows(900)
    truth = exact((clip, None), (clip, None), 0.5)
    settings = KnnSettings(k=899, nlist=30, nprobe=2)
    found, report = search((clip, None), (clip, None), 0.5, settings, "auto")
    assert set(found) < set(truth)
    assert (report.device, report.recall) == ("cuda", len(found) / len(truth))
