"""The benchmarks' commands, their rows and pictures."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from matplotlib import image

from bench import copies, join, join_gpu, plot, roofline, rows
from bench.choices import chosen
from bench.growth import Pace, growth_rows
from bench.memory import measure
from bench.own import own_providers
from bench.own_kernel import kernel_provider, stage_providers
from bench.providers import IndexPairs, Provider
from bench.roofline import ceilings, roofline_rows
from bench.rounds import measure_vectors, run_rounds
from bench.rows import Row, append_rows, blank_row, read_rows
from bench.targets import judged
from bench.truth import keys_of
from bench.vectors import synthetic

SMALL = ("--dim", "64", "--dino-dim", "48", "--repeats", "2")


def run(command: click.Command, *words: object) -> Result:
    return CliRunner().invoke(command, [str(word) for word in words])


def times(seconds: dict[int, float], **columns: str) -> list[Row]:
    """Rows of times by N."""
    base = replace(blank_row("join"), data="anisotropic", **columns)
    return [
        replace(base, shape=f"{size}x768+1024").measured("time", [elapsed_s], unit="s")
        for size, elapsed_s in seconds.items()
    ]


def loses_a_pair(
    clip_ND: torch.Tensor, dino_NE: torch.Tensor, clip_above: float, dino_below: float
) -> IndexPairs:
    """A join that says it is exact and leaves out what it finds first."""
    i, j = own_providers()[0].join(clip_ND, dino_NE, clip_above, dino_below)
    return i[1:], j[1:]


# -- rows -------------------------------------------------------------------------------------


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    blank = blank_row("join")
    written = [
        blank.measured("time", [0.1, 0.3, 0.2], unit="s", note='with a "quote", and a comma'),
        blank.measured("survivors", []),
        replace(blank, shape="50000x768+1024").measured("pairs", [7]),
    ]
    append_rows(tmp_path / "rows.csv", written[:1])
    append_rows(tmp_path / "rows.csv", written[1:])
    assert read_rows(tmp_path / "rows.csv") == written
    assert [row.num_rows for row in written] == [0, 0, 50_000]
    assert (written[0].median, written[1].median, written[1].repeats) == (0.2, None, 0)
    assert written[0].p20 == pytest.approx(0.14)
    assert written[0].p80 == pytest.approx(0.26)
    assert f"torch {torch.__version__.partition('+')[0]}" in written[0].versions
    assert "AMX" in written[0].device


def test_file_with_other_columns_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("name,seconds\njoin,3\n")
    with pytest.raises(ValueError, match="has the columns name, seconds; rows have name, provider"):
        append_rows(tmp_path / "rows.csv", [Row(name="join")])
    assert (tmp_path / "rows.csv").read_text() == "name,seconds\njoin,3\n"


@pytest.mark.parametrize(
    ("flags", "limit", "state"),
    [
        ("avx512f avx512_vnni", "", "absent"),
        ("avx512f amx_tile amx_int8", "", "on"),
        ("avx512f amx_tile amx_int8", "AVX512_CORE_VNNI", "off"),
        ("avx512f amx_tile amx_int8", "AVX512_CORE_AMX", "on"),
    ],
)
def test_amx_is_absent_on_or_off(
    flags: str, limit: str, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "_cpuinfo", lambda _: flags)
    monkeypatch.setenv(rows.AMX_LIMIT, limit)
    assert rows.amx_state() == state


def test_growth_is_the_slope_over_the_large_sizes() -> None:
    quadratic = {size: 3e-9 * size**2 for size in (10_000, 20_000, 50_000)}
    found = growth_rows(times({1000: 1.0, 2000: 1.0, **quadratic}, provider="cpu"))
    (row,) = found
    assert row.median == pytest.approx(2.0)
    assert (row.metric, row.note) == ("growth exponent", "time over N = 10000, 20000, 50000")
    assert growth_rows(times({1000: 1.0, 2000: 1.0}, provider="cpu")) == []
    (small,) = growth_rows(times({100: 1.0, 200: 2.0, 400: 4.0}, provider="cpu"))
    assert small.median == pytest.approx(1.0)


def test_pace_skips_what_would_take_too_long() -> None:
    provider = Provider(name="slow", join=loses_a_pair, dtype="", exact=True, max_rows=90_000)
    pace = Pace(limit_s=100.0, last={"slow": (10_000, 2.0)})
    assert pace.why_not(provider, 50_000) == ""
    assert pace.why_not(provider, 80_000) == "skipped: about 128 s expected, the limit is 100 s"
    assert pace.why_not(provider, 90_001) == "skipped: only up to N = 90000"


@pytest.mark.parametrize(("ratio", "verdict"), [(1 / 13, "met"), (1 / 11, "missed")])
def test_targets_are_judged(ratio: float, verdict: str) -> None:
    base = replace(blank_row("join"), provider="cpu", data="anisotropic", shape="50000x768+1024")
    row = judged(base.measured("time / faiss-range", [ratio], unit="ratio"))
    assert row.note == f"target <= 1/12: {verdict}"
    other = base.measured("time / semdedup", [ratio], unit="ratio")
    assert judged(other) == other


def test_roofline_compares_useful_work_with_the_product_of_the_same_width() -> None:
    ceiling = replace(blank_row("ceiling"), dtype="bfloat16", shape="8192x768")
    known = [ceiling.measured("matmul", [500.0], unit="TFLOP/s")]
    (row,) = roofline_rows(times({1_000_001: 10.0}, provider="triton", dtype="mixed"), known)
    assert row.median == pytest.approx(100 * (1e12 * 768 / 10 / 1e12) / 500, rel=1e-5)
    assert roofline_rows(times({1000: 1.0}, provider="triton"), []) == []


def test_ceilings_hold_the_width_of_a_code() -> None:
    found = ceilings("cpu", size=64, width=32, copy_bytes=64, repeats=1)
    shapes = {(row.dtype, row.shape) for row in found if row.metric == "matmul"}
    assert ("int8", "64x128") in shapes
    assert ("float16", "64x32") in shapes
    assert ("float16", "64x128") not in shapes


def test_ceilings_on_a_gpu_are_timed_by_events_over_a_long_stretch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[int] = []

    class Event:
        def __init__(self, *, enable_timing: bool) -> None:
            self.at = 0

        def record(self) -> None:
            self.at = len(calls)

        def synchronize(self) -> None:
            pass

        def elapsed_time(self, stop: Any) -> float:
            return float(stop.at - self.at)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    seconds = roofline.timed(lambda: calls.append(1), "cuda", 3)  # type: ignore[arg-type]
    assert seconds == [0.001] * 3
    # One millisecond a call: fifty of them for each figure.
    assert len(calls) == 2 + 3 * 50


def test_memory_is_the_peak_above_the_beginning() -> None:
    held = torch.ones(5_000_000)
    measured = measure(lambda: float(torch.ones(20_000_000).sum()))
    assert measured.result == 20_000_000
    assert measured.elapsed_s > 0
    # Some sandboxes keep no peak that could be set back; the cell is empty there.
    assert (measured.peak_bytes is not None) == os.access("/proc/self/clear_refs", os.W_OK)
    assert measured.peak_bytes is None or 78e6 < measured.peak_bytes < 90e6
    assert len(held) == 5_000_000


def test_impatient_provider_sits_out_later_rounds() -> None:
    vectors = synthetic("anisotropic", 100, dim=64, dino_dim=48)
    own = own_providers()[0]
    (once,) = run_rounds([own], vectors, repeats=3, patience_s=0.0)
    (often,) = run_rounds([own], vectors, repeats=3, patience_s=60.0)
    assert (len(once.elapsed_s), len(often.elapsed_s)) == (1, 3)
    assert np.array_equal(once.keys_P[0], often.keys_P[0])


@pytest.mark.parametrize("fails_at", [1, 2])
def test_a_provider_that_fails_gets_a_row_and_the_others_go_on(fails_at: int) -> None:
    calls: list[int] = []

    def fails(*sets: Any) -> Any:
        calls.append(len(sets[0]))
        if len(calls) == fails_at:
            raise torch.OutOfMemoryError("out of memory\nin many words")
        return own.join(*sets)

    own = own_providers()[0]
    peer = Provider(name="peer", join=fails, dtype="", exact=True)
    vectors = synthetic("anisotropic", 100, dim=64, dino_dim=48)
    pace = Pace(limit_s=60.0)
    found = measure_vectors("join", vectors, [peer, own], pace, repeats=3, patience_s=60.0)
    (row,) = (row for row in found if row.provider == "peer")
    assert (row.metric, row.median) == ("time", None)
    assert row.note == "failed at N = 100: OutOfMemoryError: out of memory"
    assert len(calls) == fails_at
    assert {row.metric for row in found if row.provider == own.name} >= {"time", "recall"}
    assert "peer" not in pace.last


def test_on_a_gpu_the_whole_join_is_run_once_before_it_is_timed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes: list[int] = []
    timed: list[int] = []

    def joins(*sets: Any) -> Any:
        sizes.append(len(sets[0]))
        return own.join(*sets)

    def measured(call: Callable[[], Any], device: str) -> Any:
        timed.append(len(sizes))
        return measure(call)

    own = own_providers()[0]
    monkeypatch.setattr("bench.rounds.measure", measured)
    vectors = synthetic("anisotropic", 600, dim=64, dino_dim=48)
    peer = Provider(name="peer", join=joins, dtype="", exact=True)
    run_rounds([peer], vectors, repeats=1, patience_s=60.0, device="cuda")
    assert (sizes, timed) == ([600, 600], [1])


# -- commands ---------------------------------------------------------------------------------


def test_join_writes_rows_of_every_provider(tmp_path: Path) -> None:
    out = tmp_path / "join.csv"
    ran = run(join.main, "--rows", "400,200,300", *SMALL, "--out", out)
    assert ran.exit_code == 0, ran.output
    found = read_rows(out)
    names = {provider.name for provider in (*own_providers(), *join.PEERS)}
    for metric in ("time", "peak memory", "pairs", "recall", "growth exponent"):
        assert {row.provider for row in found if row.metric == metric} == names
    assert {row.median for row in found if row.metric == "recall" and row.provider == "cpu"} == {1}
    sizes = [row.num_rows for row in found if (row.metric, row.provider) == ("time", "cpu")]
    assert sizes == [200, 300, 400]
    empty = {row.metric for row in found if row.provider == "cpu" and row.median is None}
    assert empty <= {"peak memory"}
    screens = {row.note for row in found if row.metric == "code width" and row.provider == "cpu"}
    assert screens == {"float32"}
    ratios = {row.metric for row in found if row.provider == "cpu" and row.unit == "ratio"}
    assert ratios == {f"time / {name}" for name in names - {"cpu"}}


def test_wrong_provider_is_refused_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    liar = Provider(name="liar", join=loses_a_pair, dtype="float32", exact=True)
    monkeypatch.setattr(join, "PEERS", (liar,))
    out = tmp_path / "join.csv"
    ran = run(join.main, "--rows", "200", "--providers", "cpu,liar", *SMALL, "--out", out)
    assert ran.exit_code == 1
    assert "liar misses 1 of 18 pairs (the float64 reference)" in ran.output
    assert not out.exists()


def test_unknown_or_absent_provider_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    ran = run(join.main, "--providers", "scann")
    assert ran.exit_code == 2
    assert "provider 'scann' is unknown; there are cpu, cpu-no-cascade, reference" in ran.output
    gone = Provider(
        name="gone", join=loses_a_pair, dtype="", exact=True, needs="no_such_module_here"
    )
    monkeypatch.setattr(join, "PEERS", (gone,))
    ran = run(join.main, "--providers", "gone")
    assert ran.exit_code == 2
    assert "gone needs no_such_module_here, which is not installed" in ran.output
    assert [provider.name for provider in chosen("", [gone])] == []


def test_rows_have_to_be_numbers() -> None:
    ran = run(join.main, "--rows", "1k,2k")
    assert ran.exit_code == 2
    assert "--rows is '1k,2k'; it takes N above 1, as in 1000,50000" in ran.output


def test_gpu_benchmark_needs_no_more_than_torch_and_click() -> None:
    code = """
import sys
import bench.join_gpu
needed = {"pydantic", "pyarrow", "faiss", "sklearn", "matplotlib"} & set(sys.modules)
sys.exit(str(needed) if needed else 0)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_own_kernel_finds_what_the_library_finds() -> None:
    vectors = synthetic("clustered", 400, dim=64, dino_dim=48)
    thresholds = (vectors.clip_ND, vectors.dino_NE, 0.95, 0.6)
    kernel = kernel_provider("cpu")
    assert kernel is not None
    found, expected = (keys_of(one.join(*thresholds), 400) for one in (kernel, own_providers()[0]))
    assert len(found) == 18
    assert np.array_equal(found, expected)


def test_every_stage_of_the_own_kernel_is_a_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def candidates(*sets: Any, dino_below: float, clip_above: float, stage: str) -> Any:
        asked.append(stage)
        return iter(())

    monkeypatch.setattr("kernels.gpu.candidates", candidates)
    rows = torch.eye(3)
    found = stage_providers("cuda")
    for provider in found:
        provider.join(rows, rows, 0.95, 0.6)
    assert [(each.name, each.dtype) for each in found] == [
        ("triton-full", "float16"),
        ("triton-int8", "int8"),
    ]
    assert asked == ["full", "int8"]
    assert stage_providers("cpu") == []


def test_gpu_benchmark_wants_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    ran = run(join_gpu.main, "--out", tmp_path / "gpu.csv")
    assert ran.exit_code == 2
    assert "there is no CUDA device here; --device cpu runs every part" in ran.output


def test_without_amx_runs_the_same_command_in_a_limited_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[tuple[list[str], str]] = []

    def ran_there(words: list[str], *, env: dict[str, str], check: bool) -> SimpleNamespace:
        seen.append((words, env[rows.AMX_LIMIT]))
        return SimpleNamespace(returncode=7)

    monkeypatch.setattr(join.subprocess, "run", ran_there)
    monkeypatch.setattr(sys, "argv", ["join.py", "--rows", "500", "--without-amx"])
    assert run(join.main, "--rows", "500", "--without-amx").exit_code == 7
    (words, limit), *_ = seen
    assert words == [sys.executable, "-m", "bench.join", "--rows", "500"]
    assert limit == "AVX512_CORE_VNNI"


def test_gpu_benchmark_runs_on_the_processor_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    tiny = (*SMALL, "--device", "cpu", "--matmul", 64, "--copy-bytes", 4096)
    command = partial(run, join_gpu.main, *tiny, "--out", tmp_path / "gpu.csv", "--rows")
    assert command("100,200").exit_code == 0
    first = read_rows(tmp_path / "gpu.csv")
    assert {row.metric for row in first if row.name == "ceiling"} == {"matmul", "copy"}
    reasons = {row.provider: row.note for row in first if row.metric == "time" and not row.shape}
    assert set(reasons) == {"faiss-gpu", "cuvs"}
    assert all(note.startswith("does not run here: ") for note in reasons.values())
    shares = {row.provider for row in first if row.metric == "roofline" and row.median}
    assert shares == {"cpu", "torch-fp32", "torch-fp16", "two-pass-tiles"}
    assert command("100,200").exit_code == 0
    assert read_rows(tmp_path / "gpu.csv") == first
    assert command("100,200,300").exit_code == 0
    added = read_rows(tmp_path / "gpu.csv")[len(first) :]
    assert {row.num_rows for row in added} == {300}
    assert {row.metric for row in added} >= {"time", "recall", "roofline", "growth exponent"}


def test_gpu_benchmark_goes_on_beside_a_provider_whose_pairs_are_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    liar = Provider(name="cpu", join=loses_a_pair, dtype="float32", exact=True)
    monkeypatch.setattr(join_gpu, "kernel_provider", lambda device: liar)
    out = tmp_path / "gpu.csv"
    tiny = (*SMALL, "--device", "cpu", "--matmul", 64, "--copy-bytes", 4096)
    ran = run(join_gpu.main, *tiny, "--out", out, "--rows", "200")
    assert ran.exit_code == 1
    assert "cpu failed at N = 200" in ran.output
    times = {row.provider: row for row in read_rows(out) if row.metric == "time" and row.shape}
    assert times["cpu"].median is None
    assert "cpu misses 1 of 18 pairs" in times["cpu"].note
    assert times["torch-fp16"].median is not None


def test_copies_compares_a_crowd_with_none(tmp_path: Path) -> None:
    out = tmp_path / "copies.csv"
    ran = run(copies.main, "--rows", 300, "--copies", 60, *SMALL, "--out", out)
    assert ran.exit_code == 0, ran.output
    found = {row.metric: row for row in read_rows(out)}
    assert "target <= 2" in found["time / without copies"].note
    assert found["time, 60 copies"].median is not None
    with pytest.raises(click.ClickException, match=r"crowd: 1 of 3 rows .* row 2 with 2 instead"):
        copies.check(np.array([0, 1, 2]), np.array([0, 1, 1]), "crowd")


def test_plot_draws_a_file(tmp_path: Path) -> None:
    source, target = tmp_path / "join.csv", tmp_path / "pictures" / "join.png"
    sizes = (1000, 10_000, 50_000)
    measured = [
        row
        for number, provider in enumerate(("cpu", "faiss-range", "semdedup"), start=1)
        for row in times({n: number * 1e-9 * n**2 for n in sizes}, provider=provider)
    ]
    ratio = replace(measured[2], metric="time / faiss-range", median=0.5, unit="ratio")
    append_rows(source, [*measured, *growth_rows(measured), ratio])
    assert run(plot.main, source, target).exit_code == 0
    pixels = image.imread(target)
    assert pixels.shape[0] > 500
    assert pixels.shape[1] > 1000
    assert pixels[..., :3].std() > 0.02


def test_plot_of_nothing_is_an_error(tmp_path: Path) -> None:
    append_rows(tmp_path / "empty.csv", [Row(name="join")])
    ran = run(plot.main, tmp_path / "empty.csv", tmp_path / "empty.png")
    assert ran.exit_code == 1
    assert "no row with the metric `time`" in ran.output
