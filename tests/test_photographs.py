"""The main job on real photographs: shards in, blind pairs out, equal to brute force."""

import hashlib
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from miner.audit import verify
from miner.fetch import read_image_bytes
from miner.store import Store
from pipelines.cli import run
from tests.commands import Commands
from tests.exports import LargeWeights
from tests.small import PHOTOGRAPHS

pytestmark = pytest.mark.skipif(not PHOTOGRAPHS.exists(), reason="no photographs beside the repo")


def truth(run_folder: Path, clip_above: float, dino_below: float) -> set[tuple[str, str]]:
    """Blind pairs by numpy over the stored vectors, read without any code of the miner."""
    tables = {}
    for encoder in sorted((run_folder / "vectors").iterdir()):
        stored = [pq.read_table(path).to_pylist() for path in encoder.glob("*.parquet")]
        rows = {row["image_id"]: row["vector"] for part in stored for row in part}
        tables["clip" if "clip" in encoder.name else "dino"] = rows
    image_ids = sorted(tables["clip"])
    assert image_ids == sorted(tables["dino"])
    cosines = {}
    for name, rows in tables.items():
        matrix = np.array([rows[image_id] for image_id in image_ids], dtype=np.float64)
        matrix /= np.sqrt((matrix * matrix).sum(axis=1, keepdims=True))
        cosines[name] = matrix @ matrix.T
    hits = (cosines["clip"] > clip_above) & (cosines["dino"] < dino_below)
    return {
        (image_ids[i], image_ids[j]) for i, j in zip(*np.nonzero(np.triu(hits, 1)), strict=True)
    }


def found(run_folder: Path) -> set[tuple[str, str]]:
    parts = [pq.read_table(path) for path in run_folder.glob("pairs/*/raw/*.parquet")]
    rows = [row for part in parts for row in part.to_pylist()]
    return {(row["image_1"], row["image_2"]) for row in rows}


def check_traceable(run_folder: Path) -> None:
    """From each pair's row back to the images' bytes."""
    (path,) = run_folder.glob("pairs/*/selected.parquet")
    samples = {}
    for sample_path in run_folder.glob("samples/*.parquet"):
        samples |= {row["image_id"]: row for row in pq.read_table(sample_path).to_pylist()}
    for row in pq.read_table(path).to_pylist():
        for side in ("1", "2"):
            sample = samples[row[f"image_{side}"]]
            data = read_image_bytes(
                sample["shard"], sample["member"], sample["offset"], sample["num_bytes"]
            )
            assert hashlib.sha256(data).hexdigest() == row[f"sha256_{side}"]


def test_photographs_with_small_encoders(commands: Commands, tmp_path: Path) -> None:
    run_folder = tmp_path / "run"
    ran = commands.mine(PHOTOGRAPHS, "--out", run_folder, "--clip-above", "0.9")
    assert ran.code == 0, ran.err
    expected = truth(run_folder, 0.9, 0.8)
    assert found(run_folder) == expected
    assert len(expected) >= 20
    check_traceable(run_folder)
    samples = [r for p in run_folder.glob("samples/*") for r in pq.read_table(p).to_pylist()]
    assert len(samples) == 120
    assert {row["caption"] for row in samples} >= {"tench", "gondola"}
    assert verify(Store(run_folder)) == []


@pytest.mark.slow
def test_photographs_with_both_full_architectures(
    large_clip: Path, large_weights: LargeWeights, tmp_path: Path
) -> None:
    dino = large_weights("dinov2-vit-l-14")
    run_folder = tmp_path / "run"
    words = [
        *("mine", str(PHOTOGRAPHS), "--limit", "40", "--out", str(run_folder)),
        *("--clip-weights", str(large_clip), "--clip-above", "0.8"),
        *("--dino-weights", str(dino), "--dino-below", "0.9"),
    ]
    assert run(words) == 0
    expected = truth(run_folder, 0.8, 0.9)
    assert found(run_folder) == expected
    # Of 780 pairs.
    assert 5 <= len(expected) <= 700
    check_traceable(run_folder)
    assert verify(Store(run_folder)) == []
