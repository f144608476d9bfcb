"""`python -m export` from the outside: what it makes, prints, and with which code it ends."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

import export.engines
import export.gate
from export.__main__ import run
from export.cache import EngineCache
from miner.errors import ParityError
from miner.records import file_sha256
from tests.small import write_corpus

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, kw_only=True)
class Ran:
    """Exit code and output of a command."""

    code: int
    out: str
    err: str

    @property
    def facts(self) -> dict[str, str]:
        """What it printed, by name."""
        return {line[:20].strip(): line[21:] for line in self.out.splitlines()}


class Command:
    """`command("--to", "onnx")`: demo-dino, a cache of its own, images of its own."""

    def __init__(self, folder: Path, capture: pytest.CaptureFixture[str]) -> None:
        write_corpus(folder / "corpus", num_shards=6)
        self.images = ("--images", str(folder / "corpus"))
        self.cache = folder / "cache"
        self._capture = capture

    def __call__(self, *words: str) -> Ran:
        self._capture.readouterr()
        code = run(["--encoder", "demo-dino", "--cache", str(self.cache), *words])
        captured = self._capture.readouterr()
        return Ran(code=code, out=captured.out, err=captured.err)


@pytest.fixture
def command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(tmp_path, capsys)


def test_onnx_is_made_proven_and_kept(command: Command) -> None:
    ran = command("--to", "onnx", "--device", "cpu", *command.images)
    assert (ran.code, ran.err) == (0, "")
    file = Path(ran.facts["file"])
    assert ran.facts["sha256"] == ran.facts["onnx sha256"] == file_sha256(file)
    assert ran.facts["flavour"] == "onnxruntime"
    assert ran.facts["verdict"].startswith("proven, largest deviation of a pair ")
    assert float(ran.facts["verdict"].split()[-1]) < 1e-5
    assert command("--to", "onnx", "--device", "cpu", *command.images) == ran


@pytest.mark.skipif(not find_spec("tensorrt_rtx_bindings"), reason="not installed")
def test_an_engine_for_another_machine_says_that_it_was_never_executed(command: Command) -> None:
    words = ("--to", "tensorrt", "--flavour", "tensorrt-rtx", "--compute-capability", "8.6")
    ran = command(*words, "--precision", "bf16", "--batch-size", "8")
    assert (ran.code, ran.err) == (0, "")
    assert ran.facts["verdict"] == "built, never executed; mining does not load it"
    assert ran.facts["sha256"] == file_sha256(Path(ran.facts["file"]))
    assert (ran.facts["compute capability"], ran.facts["max batch"]) == ("8.6", "8")
    (entry,) = EngineCache(command.cache).entries("unproven")
    assert entry.key["precision"] == "bf16"


def test_a_refused_engine_ends_with_5(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph of another encoder under this one's name: its input fits, its vectors do not."""

    def export_another(encoder: object, folder: Path) -> object:
        from export.to_onnx import export_onnx
        from miner.encoders import TorchEncoder, load_encoder

        assert isinstance(encoder, TorchEncoder)
        other = load_encoder("demo-dino")
        torch.nn.init.normal_(other.module.tower.blocks[0].mlp.fc1.weight)
        other.encoder_id = encoder.encoder_id
        return export_onnx(other, folder)

    monkeypatch.setattr(export.engines, "export_onnx", export_another)
    ran = command("--to", "onnx", "--device", "cpu", *command.images)
    assert ran.code == ParityError.exit_code == 5
    assert "does not equal TorchEncoder in fp32: " in ran.err
    assert not (command.cache / "proven").exists()


def test_without_images_it_is_proven_on_scenes(command: Command) -> None:
    ran = command("--to", "onnx", "--device", "cpu")
    assert (ran.code, ran.err) == (0, "")
    assert ran.facts["verdict"].startswith("proven, largest deviation of a pair ")


def test_images_that_are_too_few_are_not_passed_over(command: Command, tmp_path: Path) -> None:
    write_corpus(tmp_path / "few", num_shards=1)
    ran = command("--to", "onnx", "--device", "cpu", "--images", str(tmp_path / "few"))
    assert ran.code == 4
    assert "11 images can be decoded, an engine is judged on 16 at least" in ran.err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--to", "onnx", "--precision", "bf16"), 2, "precision is bf16, for which ONNX Runtime"),
        (("--to", "onnx", "--device", "tpu"), 2, "device is tpu; give cpu, cuda or cuda:N"),
        (("--to", "onnx", "--device", "cuda:99"), 4, "device cuda:99 is not there"),
        (("--to", "tensorrt", "--device", "cpu"), 2, "TensorRT runs on GPUs"),
        (("--to", "onnx", "--weights", "none"), 4, "no weights file at none"),
        (("--to", "caffe"), 2, "'caffe' is not one of 'onnx', 'tensorrt'"),
        (("--to", "onnx", "--compute-capability", "8.9"), 2, "which only --to tensorrt --flavour"),
        (("--to", "tensorrt", "--compute-capability", "8.9"), 2, "which only --to tensorrt --fl"),
        (("--to", "onnx", "--encoder", "nobody"), 2, "no encoder is called 'nobody'"),
        (("--to", "onnx", "--images", "nowhere"), 4, "nowhere: "),
    ],
)
def test_errors_have_their_codes(
    command: Command, words: tuple[str, ...], code: int, message: str
) -> None:
    ran = command("--device", "cpu", *command.images, *words)
    assert (ran.code, ran.out) == (code, "")
    assert message in ran.err


def test_a_cache_that_cannot_be_written_ends_with_4(command: Command, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    command.cache = tmp_path / "file"
    ran = command("--to", "onnx", "--device", "cpu", *command.images)
    assert ran.code == 4
    assert "see to it and run again" in ran.err


def test_an_interrupted_command_ends_with_130(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(export.gate, "first_images", interrupt)
    ran = command("--to", "onnx", "--device", "cpu", *command.images)
    assert (ran.code, "interrupted; the same command" in ran.err) == (130, True)


def test_it_runs_as_a_module_without_waiting_for_torch() -> None:
    code = "import sys, export.__main__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
    words = [sys.executable, "-m", "export", "--help"]
    ran = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0
    assert "--compute-capability" in ran.stdout
