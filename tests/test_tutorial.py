"""The tutorial does what it says, block by block."""

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TUTORIAL = Path(__file__).parent.parent / "docs" / "tutorial.md"
BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The folder in which every block was run in turn, and what each printed."""
    folder = tmp_path_factory.mktemp("tutorial")
    environment = {
        **os.environ,
        # The command and the package of this checkout, wherever it lies.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(TUTORIAL.parent.parent),
    }
    said = []
    for kind, block in BLOCK.findall(TUTORIAL.read_text("utf-8")):
        words = ["bash", "-euo", "pipefail"] if kind == "bash" else [sys.executable]
        done = subprocess.run(
            [*words, "-c", block],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
        said.append(done.stdout)
    return folder, said


def test_a_clip_fails_where_captions_say_nothing_and_not_where_they_do(
    walked: tuple[Path, list[str]],
) -> None:
    folder, _ = walked
    hidden, controls = (overall(folder / name) for name in ("hidden.csv", "controls.csv"))
    assert (hidden["pairs"], controls["pairs"]) == ("200", "200")
    assert float(hidden["pair_accuracy"]) <= 0.30
    assert float(controls["pair_accuracy"]) >= 0.90


def test_the_program_accepts_200_pairs(walked: tuple[Path, list[str]]) -> None:
    _, said = walked
    assert any(re.search(r"^200 of [\d,]+ pairs accepted$", text, re.MULTILINE) for text in said)


def overall(table: Path) -> dict[str, str]:
    """The row over all patterns of what `evaluate --out` wrote."""
    with table.open(newline="", encoding="utf-8") as file:
        (row,) = [row for row in csv.DictReader(file) if row["subset"] == "all"]
    return row
