"""The script for a GPU machine: what it does again, and what it takes from an earlier run."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """A stand-in for Python that lists its calls; the encoders' libraries are missing."""
    stand_in = tmp_path / "python"
    stand_in.write_text(
        f"""#!/bin/sh
case "$2" in *find_spec*) echo open_clip; exit 0;; esac
echo "$@" >> {tmp_path}/calls
case "$*" in *bench.join_gpu*) exit "${{JOIN_CODE:-0}}";; esac
"""
    )
    stand_in.chmod(0o755)
    return stand_in


def gpu(python: Path, out: str, **environment: str) -> tuple[int, int]:
    """The exit code, and how many steps were done."""
    calls = python.parent / "calls"
    calls.write_text("")
    environment |= {"PYTHON": str(python), "OUT": str(python.parent / out)}
    command = ["bash", str(ROOT / "bench" / "gpu.sh")]
    ran = subprocess.run(command, env={**os.environ, **environment}, capture_output=True)
    return ran.returncode, sum(line.startswith("-") for line in calls.read_text().splitlines())


def test_what_failed_is_done_again_and_an_earlier_run_is_gone_on_from(
    tmp_path: Path, python: Path
) -> None:
    assert gpu(python, "first", JOIN_CODE="3") == (1, 7)
    assert "not possible here: open_clip" in (tmp_path / "first" / "steps.csv").read_text()
    assert len(list((tmp_path / "first").iterdir())) <= 8
    # Into an empty folder, with what the first run left.
    assert gpu(python, "second", FROM=str(tmp_path / "first")) == (0, 1)
    assert gpu(python, "second") == (0, 0)


def test_other_code_is_not_done(tmp_path: Path, python: Path) -> None:
    assert gpu(python, "out") == (0, 7)
    steps = tmp_path / "out" / "steps.csv"
    lines = [line.split(",") for line in steps.read_text().splitlines()]
    steps.write_text("".join(",".join([a, "another", *rest]) + "\n" for a, _, *rest in lines))
    assert gpu(python, "out") == (0, 7)
