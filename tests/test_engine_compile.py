"""The compiled engine equals the truth, for its batch size and after another."""

from __future__ import annotations

import hashlib
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import tests
from export.look import Group
from export.verify import verify
from miner.encoders import EncoderModule, TorchEncoder, load_encoder
from miner.engine_compile import CompiledEncoder, inference_module
from miner.engines import PAIR_LIMITS
from miner.errors import ResourceError
from miner.fused import FusedEncoder
from tests.test_verify import group
from tests.towers import (
    CLIP_CONFIG,
    clip_record,
    dino_record,
    write_clip_weights,
    write_dino_weights,
)
from tests.wrong_engines import Engine


def clip_of(folder: Path, *, layers: int = 2) -> TorchEncoder:
    config = CLIP_CONFIG | {"vision_cfg": CLIP_CONFIG["vision_cfg"] | {"layers": layers}}
    path = write_clip_weights(folder / "clip.safetensors", config)
    return load_encoder(clip_record(config=config), weights=path)


def dino_of(folder: Path, **changes: Any) -> TorchEncoder:
    record = dino_record(config=dino_record().config | changes)
    path = write_dino_weights(folder / "dino.safetensors", record.config)
    return load_encoder(record, weights=path)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> TorchEncoder:
    return clip_of(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def dino(tmp_path_factory: pytest.TempPathFactory) -> TorchEncoder:
    return dino_of(tmp_path_factory.mktemp("dino"), depth=2)


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    """A process compiles a function a few times and no more; these tests are many processes."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def seen(truth: TorchEncoder) -> list[Group]:
    return [group(truth.record)]


def test_fp32_equals_the_truth(clip: TorchEncoder) -> None:
    engine = CompiledEncoder(clip, precision="fp32", batch_size=8)
    assert (engine.backend, engine.precision, engine.batch_size) == ("compile", "fp32", 8)
    assert engine.deviation == PAIR_LIMITS["fp32"].max
    verdict = verify(engine, clip, seen(clip), threshold=0.95, batch_size=8)
    verdict.refuse()
    assert verdict.deviation < 2e-6


@pytest.mark.slow
def test_bf16_errs_less_than_the_library_in_bf16(dino: TorchEncoder) -> None:
    engine = CompiledEncoder(dino, precision="bf16", batch_size=16)
    compiled = verify(engine, dino, seen(dino), threshold=0.6, batch_size=16)
    library = verify(Engine(dino, computes="bf16"), dino, seen(dino), threshold=0.6, batch_size=16)
    assert 1e-4 < compiled.deviation < 0.75 * library.deviation
    passed = {check.name for check in compiled.checks if check.passed}
    assert passed >= {"finite", "norm", "image", "position", "repeat"}
    # As after a shortage of memory.
    engine.resize(4)
    vectors_BD = engine(seen(dino)[0].pixels_NCHW[:6])
    assert (vectors_BD - dino(seen(dino)[0].pixels_NCHW[:6])).abs().max() < 0.01


def test_tower_with_unknown_parts_is_compiled_as_it_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    truth = dino_of(tmp_path, qk_norm=True)
    caplog.set_level(logging.INFO)
    module = inference_module(truth, torch.bfloat16)
    assert isinstance(module, EncoderModule)
    assert module.dtype == torch.bfloat16
    assert truth.module.tower.norm.weight.dtype == torch.float32
    assert "small-dino is compiled as its library writes it: the tower has" in caplog.text


def test_known_tower_is_fused_and_left_as_it_was(clip: TorchEncoder) -> None:
    before = {name: value.clone() for name, value in clip.module.state_dict().items()}
    module = inference_module(clip, torch.float16)
    assert isinstance(module, FusedEncoder)
    for name, value in clip.module.state_dict().items():
        assert torch.equal(value, before[name])
        assert value.dtype == torch.float32


def test_what_cannot_be_compiled(clip: TorchEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    half = Engine(clip, computes="bf16").encode
    assert isinstance(half, TorchEncoder)
    with pytest.raises(ValueError, match="small-clip is in bf16; load it in fp32, and name the"):
        CompiledEncoder(half, precision="bf16", batch_size=4)
    with pytest.raises(ValueError, match="precision is fp8; give one of fp32, bf16, fp16"):
        CompiledEncoder(clip, precision="fp8", batch_size=4)
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ResourceError, match=r"no-such-compiler is not there; install g\+\+"):
        CompiledEncoder(clip, precision="fp32", batch_size=4)


ENCODE = """
import hashlib, sys
from pathlib import Path
from miner.engine_compile import CompiledEncoder
from tests.test_engine_compile import clip_of, seen
truth = clip_of(Path(sys.argv[1]), layers=1)
engine = CompiledEncoder(truth, precision="bf16", batch_size=8)
vectors_ND = engine(seen(truth)[0].pixels_NCHW)
print(hashlib.sha256(vectors_ND.numpy().tobytes()).hexdigest())
"""


@pytest.mark.slow
def test_another_run_gives_the_same_bytes(tmp_path: Path) -> None:
    """Compiled anew, in a process of its own."""
    root, hashes = Path(tests.__file__).parents[1], set()
    for run in ("first", "second"):
        folder = tmp_path / run
        folder.mkdir()
        environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(folder), "PYTHONPATH": str(root)}
        words = [sys.executable, "-c", ENCODE, str(folder)]
        ran = subprocess.run(words, capture_output=True, text=True, env=environment, cwd=root)
        assert ran.returncode == 0, ran.stderr
        hashes.add(ran.stdout.strip())
    assert len(hashes) == 1
    assert hashes != {hashlib.sha256(b"").hexdigest()}


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_gpu_equals_the_truth(tmp_path: Path, precision: str) -> None:
    config = dino_record().config | {"embed_dim": 384, "num_heads": 6}
    record = dino_record(config=config, dim=384)
    path = write_dino_weights(tmp_path / "dino.safetensors", config)
    truth = load_encoder(record, weights=path, device="cuda")
    engine = CompiledEncoder(truth, precision=precision, batch_size=16)
    verify(engine, truth, seen(truth), threshold=0.6, batch_size=16).refuse()
    first_BD = engine(seen(truth)[0].pixels_NCHW[:5])
    kept_BD = first_BD.clone()
    engine(seen(truth)[0].pixels_NCHW[5:10])
    # The graph's next replay leaves what was given out alone.
    assert torch.equal(first_BD, kept_BD)
