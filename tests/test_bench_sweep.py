"""The sweep of tiles: what counts as measured, and which failures it passes over."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from triton.runtime.errors import OutOfResources

from bench import sweep_tiles
from bench.rows import append_rows, blank_row, read_rows

BLANK = replace(blank_row(sweep_tiles.NAME), data="full tile")


def sweep(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep_tiles, "INTERPRETED", True)
    words = ["sweep", "--out", str(out), "--shipped", "--rows", "64", "--dim", "32"]
    monkeypatch.setattr(sys, "argv", words)
    sweep_tiles.main()


def test_only_a_rate_of_this_device_and_commit_is_done(tmp_path: Path) -> None:
    out = tmp_path / "sweep.csv"
    assert sweep_tiles.measured_before(out, "cpu") == set()
    good = BLANK.measured("rate", [1.0])
    for row in (
        replace(BLANK, data="failed").measured("rate", [], note="does not run"),
        replace(good, data="other device", device="another"),
        replace(good, data="other commit", commit="0"),
    ):
        append_rows(out, [row])
    assert sweep_tiles.measured_before(out, "cpu") == set()
    append_rows(out, [good])
    assert sweep_tiles.measured_before(out, "cpu") == {"full tile"}


@pytest.mark.parametrize("exact", [False, OutOfResources(300_000, 232_448, "shared memory")])
def test_a_shipped_tile_that_fails_ends_in_exit_code_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exact: bool | Exception
) -> None:
    def is_exact(*tile: Any) -> bool:
        if isinstance(exact, Exception):
            raise exact
        return exact

    monkeypatch.setattr(sweep_tiles, "is_exact", is_exact)
    with pytest.raises(SystemExit, match="tiles that ship failed: full: ") as ended:
        sweep(tmp_path / "sweep.csv", monkeypatch)
    assert ended.value.code not in (0, None)
    assert all(row.median is None for row in read_rows(tmp_path / "sweep.csv"))


def test_other_errors_are_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def is_exact(*tile: Any) -> bool:
        raise torch.AcceleratorError("an illegal memory access was encountered")

    monkeypatch.setattr(sweep_tiles, "is_exact", is_exact)
    with pytest.raises(torch.AcceleratorError, match="illegal memory access"):
        sweep(tmp_path / "sweep.csv", monkeypatch)
