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
    num_hidden, hidden = pair_accuracy(folder / "hidden.csv")
    num_controls, controls = pair_accuracy(folder / "controls.csv")
    assert (num_hidden, num_controls) == (200, 200)
    assert hidden <= 0.30
    assert controls >= 0.90


def test_the_program_accepts_200_pairs(walked: tuple[Path, list[str]]) -> None:
    _, said = walked
    assert any(re.search(r"^200 of [\d,]+ pairs accepted$", text, re.MULTILINE) for text in said)


def pair_accuracy(table: Path) -> tuple[int, float]:
    """Over all patterns, by what `evaluate --out` wrote: how many pairs, and the share."""
    with table.open(newline="", encoding="utf-8") as file:
        rows = {(row["subset"], row["measure"]): row for row in csv.DictReader(file)}
    row = rows["all", "pair"]
    return int(row["num"]), float(row["value"])
