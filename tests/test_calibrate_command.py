"""`blindpairs calibrate` on runs, and the join it ends with."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from miner.store import Store
from tests.commands import Commands
from tests.foreign import write_clip_retrieval
from tests.runs import unit


def shifted(rows_ND: np.ndarray, constant: float) -> np.ndarray:
    """Rows whose cosines are a monotone function of what they were, in float32."""
    rows = rows_ND.astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return np.concatenate([rows, np.full((len(rows), 1), constant)], axis=1).astype(np.float32)


@pytest.fixture
def run(commands: Commands, tmp_path: Path) -> Path:
    """A run with four imported encoders: a reference, and one whose cosines are moved."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(6, 16, generator=generator)
    of = torch.randint(0, 6, (300,), generator=generator)
    clip = unit(centres[of] + 0.4 * torch.randn(300, 16, generator=generator))
    dino = unit(torch.randn(300, 12, generator=generator) + 0.4)
    keys = {"key": [f"{row:04d}" for row in range(300)]}
    made = {"rc": clip, "rd": dino, "xc": shifted(clip, 2), "xd": shifted(dino, 1)}
    for name, vectors in made.items():
        source = write_clip_retrieval(tmp_path / name, [(vectors, keys)])
        words = ("import", "clip-retrieval", source, "--out", tmp_path / "run")
        words = (*words, "--encoder", name, "--dim", vectors.shape[1], "--dataset", "set")
        assert commands(*words).code == 0
    return tmp_path / "run"


REFERENCE = (
    *("--reference-clip", "rc", "--reference-dino", "rd"),
    *("--reference-clip-above", "0.9", "--reference-dino-below", "0.2"),
)
OTHERS = ("--clip", "xc", "--dino", "xd")


def blind(said: str) -> int:
    (number,) = re.findall(r"blind pairs\s+(\d+)", said)
    return int(number)


def test_its_last_line_is_the_join(commands: Commands, run: Path) -> None:
    done = commands("calibrate", run, *OTHERS, *REFERENCE)
    assert done.code == 0, done.err
    assert "300 of 300 distinct ones, all" in done.out
    named, *words = shlex.split(done.out.splitlines()[-1])
    assert named == "next"
    assert words[:3] == ["blindpairs", "join", str(run)]
    clip_above = float(words[words.index("--clip-above") + 1])
    assert abs(clip_above - (0.9 + 4) / 5) < 2e-3
    after = commands(*words[1:])
    before = commands(
        "join", run, "--clip", "rc", "--dino", "rd", "--clip-above", "0.9", "--dino-below", "0.2"
    )
    assert blind(before.out) == blind(after.out) > 100


def test_files(commands: Commands, run: Path, tmp_path: Path) -> None:
    out = tmp_path / "curve"
    assert commands("calibrate", run, *OTHERS, *REFERENCE, "--out", out).code == 0
    said = json.loads((out / "calibration.json").read_text())
    assert said["clip"]["num_of"] == 300 * 299 // 2
    assert said["reference_clip_above"] == 0.9
    table = pd.read_csv(out / "calibration.csv")
    assert list(table) == ["side", "rate", "num_pairs", "reference", "threshold"]
    clip = table[table.side == "clip"]
    np.testing.assert_allclose(clip.threshold, (clip.reference + 4) / 5, atol=2e-3)
    assert (table.num_pairs >= 20).all()
    with Image.open(out / "calibration.png") as image:
        assert image.width > 1000
    assert (out / "calibration.svg").read_text().startswith("<?xml")


def test_reference_in_another_run(commands: Commands, run: Path, tmp_path: Path) -> None:
    """Images of two runs are the same where their bytes are."""
    keys = {"id": ["x", "y"], "sha256": ["a" * 64, "b" * 64]}
    here = commands("calibrate", run, *OTHERS, *REFERENCE)
    there = commands("calibrate", run, *OTHERS, *REFERENCE, "--reference", run)
    assert here.out == there.out
    source = write_clip_retrieval(tmp_path / "s", [(np.eye(2, dtype=np.float32), keys)])
    other = tmp_path / "other"
    for name in ("rc", "rd"):
        words = ("import", "clip-retrieval", source, "--out", other, "--encoder", name, "--dim", 2)
        assert commands(*words).code == 0
    refused = commands("calibrate", run, *OTHERS, *REFERENCE, "--reference", other)
    assert refused.code == 4
    assert "0 images have vectors of all encoders" in refused.err


def test_samples_are_seeded_and_said(commands: Commands, run: Path) -> None:
    words = ("calibrate", run, *OTHERS, *REFERENCE, "--max-images", 200)
    first = commands(*words)
    assert first.code == 0, first.err
    assert "200 of 300 distinct ones, a seeded sample" in first.out
    assert commands(*words).out == first.out


def test_rates_or_a_reference(commands: Commands, run: Path) -> None:
    rates = ("--candidate-rate", "0.01", "--blind-rate", "0.5")
    done = commands("calibrate", run, *OTHERS, *rates)
    assert done.code == 0, done.err
    assert "reference" not in done.out.split("side")[0]
    for words in ((), rates[:2], REFERENCE[:2], (*rates, *REFERENCE[:4])):
        refused = commands("calibrate", run, *OTHERS, *words)
        assert refused.code == 2
        assert "give either --reference-clip and --reference-dino" in refused.err
    idle = commands("calibrate", run, *OTHERS, *rates, "--reference-clip-above", "0.9")
    assert idle.code == 2
    assert "have no effect without --reference-clip" in idle.err


def test_too_few_pairs(commands: Commands, run: Path) -> None:
    words = ("--candidate-rate", "0.001", "--blind-rate", "0.5")
    refused = commands("calibrate", run, *OTHERS, *words)
    assert refused.code == 4
    assert "embed about 448 images" in refused.err
    assert Store(run).joins() == []
