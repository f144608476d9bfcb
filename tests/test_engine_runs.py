"""Whole runs by other engines than torch in float32: proven, recorded, or refused."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

import export.cache
from miner.store import Store
from pipelines.scene_shards import write_shards
from tests.commands import Commands

DEMO = ("--clip", "demo-clip", "--dino", "demo-dino")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    write_shards(folder, num_scenes=48, seed=9, shard_size=24)
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of engines and proofs."""
    monkeypatch.setattr(export.cache, "DEFAULT_ROOT", tmp_path / "cache")
    return tmp_path / "cache"


def pairs(run: Path) -> list[tuple[str, str]]:
    (part,) = run.glob("pairs/*/raw/*.parquet")
    table = pq.read_table(part)
    return list(zip(table["image_1"].to_pylist(), table["image_2"].to_pylist(), strict=True))


def test_onnx_finds_torchs_pairs_and_its_deviation_is_recorded(
    commands: Commands, scenes: Path, cache: Path, tmp_path: Path
) -> None:
    words = ("mine", scenes, *DEMO, "--decoders", "thread")
    assert commands(*words, "--out", tmp_path / "torch").code == 0
    ran = commands(*words, "--backend", "onnx", "--out", tmp_path / "onnx")
    assert ran.code == 0, ran.err
    assert "demo-clip by onnx in fp32 on cpu: held against float32 first" in " ".join(
        ran.err.split()
    )
    assert pairs(tmp_path / "onnx") == pairs(tmp_path / "torch")
    assert len(pairs(tmp_path / "onnx")) > 0
    store = Store(tmp_path / "onnx")
    for encoder_id in store.encoder_ids():
        for shard_id in store.committed(f"vectors/{encoder_id}"):
            record = store.record(f"vectors/{encoder_id}", shard_id)
            assert (record["backend"], record["precision"]) == ("onnx", "fp32")
            assert 0 < record["deviation"] < 1e-5
    # Both encoders were published, and what was proven is remembered.
    assert len(list((cache / "proven").iterdir())) == 2
    assert len(list((cache / "proofs").iterdir())) == 2
    assert cache.stat().st_mode & 0o077 == 0


def test_an_engine_that_is_not_equal_ends_the_run_with_5_and_leaves_nothing(
    commands: Commands, scenes: Path, tmp_path: Path
) -> None:
    # Small towers in bfloat16 are beyond the limits, which L/14 keeps.
    words = ("mine", scenes, *DEMO, "--precision", "bf16", "--decoders", "thread")
    ran = commands(*words, "--out", tmp_path / "run")
    assert ran.code == 5
    assert "demo-clip-8b8084e8 by torch in bf16 on cpu does not equal TorchEncoder" in ran.err
    assert "pair p99 of all is" in ran.err
    assert "use --precision fp32" in ran.err
    assert Store(tmp_path / "run").committed("samples") == []


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--backend", "onnx", "--precision", "bf16"), 2, "precision is bf16, for which ONNX"),
        (("--backend", "tensorrt-rtx", "--precision", "fp16"), 2, "TensorRT runs on GPUs"),
        (("--backend", "nonsense"), 2, "'nonsense' is not one of"),
    ],
)
def test_engines_that_cannot_be_had(
    commands: Commands,
    scenes: Path,
    tmp_path: Path,
    words: tuple[str, ...],
    code: int,
    message: str,
) -> None:
    ran = commands("mine", scenes, *DEMO, *words, "--device", "cpu", "--out", tmp_path / "run")
    assert ran.code == code
    assert message in ran.err.replace("\n", " ")


@pytest.mark.slow
def test_a_compiled_run_finds_torchs_pairs(
    commands: Commands, scenes: Path, tmp_path: Path
) -> None:
    words = ("mine", scenes, *DEMO, "--decoders", "thread")
    assert commands(*words, "--out", tmp_path / "torch").code == 0
    ran = commands(*words, "--backend", "compile", "--out", tmp_path / "compile")
    assert ran.code == 0, ran.err
    assert pairs(tmp_path / "compile") == pairs(tmp_path / "torch")
