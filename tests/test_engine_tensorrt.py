"""TensorRT runs what it is given or says why not; what needs a GPU is marked so.

B images; C, H, W channels, rows, columns
"""

from __future__ import annotations

import logging
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from export.to_tensorrt import EngineSettings, build_engine
from miner.encoders import Encoder
from miner.engine_tensorrt import (
    Flavour,
    Messages,
    TensorRTEncoder,
    check_engine,
    check_gpu,
    enqueue,
    load_engine,
    load_flavour,
    open_context,
)
from miner.errors import EngineError, ResourceError
from tests.exports import DEMO, Export, deviation, pixels_of
from tests.towers import clip_record

RECORD = clip_record()


class Api:
    """As much of TensorRT's API as its errors need: it refuses where it is told to."""

    class ILogger:
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    uint8, float32 = "UINT8", "FLOAT"


class Loaded:
    """An engine's outside: names, types, shapes and the largest batch."""

    num_io_tensors = 2

    def __init__(self, **changes: Any) -> None:
        self.pixels: tuple[int, ...] = (-1, 3, 64, 64)
        self.vectors = "vectors"
        self.dtype = Api.uint8
        self.largest = 16
        self.context: Any = None
        vars(self).update(changes)

    def get_tensor_name(self, index: int) -> str:
        return ("pixels", self.vectors)[index]

    def get_tensor_dtype(self, name: str) -> str:
        return self.dtype if name == "pixels" else Api.float32

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.pixels if name == "pixels" else (-1, RECORD.dim)

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        assert (name, profile) == ("pixels", 0)
        return [(1, 3, 64, 64), (self.largest, 3, 64, 64), (self.largest, 3, 64, 64)]

    def create_execution_context(self) -> Any:
        return self.context


def messages_of(*errors: str) -> Messages:
    messages = Messages(Api)
    for error in errors:
        messages.logger.log(Api.ILogger.ERROR, error)
    return messages


def test_a_cpu_is_refused() -> None:
    with pytest.raises(ValueError, match="device is cpu, and TensorRT runs on GPUs"):
        check_gpu(torch.device("cpu"))


def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(ResourceError, match=r"device cuda:99 is not there: torch .* sees \d+ CUDA"):
        check_gpu(torch.device("cuda:99"))


def test_an_encoder_looks_for_its_gpu_first(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="TensorRT runs on GPUs"):
        TensorRTEncoder(
            RECORD,
            tmp_path / "none",
            flavour="tensorrt-rtx",
            device=torch.device("cpu"),
            precision="fp16",
            max_batch=16,
            deviation=0.0,
        )


@pytest.mark.parametrize(
    ("flavour", "module"),
    [("tensorrt", "tensorrt"), ("tensorrt-rtx", "tensorrt_rtx_bindings")],
)
def test_a_missing_package_is_named(
    monkeypatch: pytest.MonkeyPatch, flavour: Flavour, module: str
) -> None:
    # Python's own way to make an import fail.
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ResourceError, match=rf'pip install "blindpairs\[{flavour}\]"'):
        load_flavour(flavour)


def test_flavours_are_never_mixed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the one that is asked for is missing, the other one does not take its place."""
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx_bindings", SimpleNamespace())
    with pytest.raises(ResourceError, match="tensorrt cannot be imported"):
        load_flavour("tensorrt")


@pytest.mark.skipif(not find_spec("tensorrt_rtx_bindings"), reason="not installed")
def test_a_damaged_engine_is_refused(tmp_path: Path) -> None:
    trt = load_flavour("tensorrt-rtx")
    messages = Messages(trt)
    runtime = trt.Runtime(messages.logger)
    (tmp_path / "engine.plan").write_bytes(b"no engine" * 1000)
    with pytest.raises(EngineError, match=r"engine.plan cannot be loaded \(.+\); remove it"):
        load_engine(runtime, tmp_path / "engine.plan", messages)


def test_an_engine_of_the_record_is_taken(tmp_path: Path) -> None:
    check_engine(Api, Loaded(), tmp_path, RECORD, 16)


@pytest.mark.parametrize(
    "changes",
    [
        {"pixels": (-1, 3, 56, 56)},
        {"pixels": (16, 3, 64, 64)},
        {"vectors": "tokens"},
        {"dtype": Api.float32},
        {"largest": 8},
    ],
)
def test_another_engine_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(EngineError, match=r"takes and gives .* images, small-clip needs .* for 16"):
        check_engine(Api, Loaded(**changes), tmp_path, RECORD, 16)


def test_an_engine_without_memory_is_refused(tmp_path: Path) -> None:
    context = object()
    assert open_context(Loaded(context=context), tmp_path, messages_of()) is context
    with pytest.raises(EngineError, match=r"cannot prepare to run it \(out of memory\); give a"):
        open_context(Loaded(), tmp_path, messages_of("something", "out of memory"))


@pytest.mark.parametrize("refuses", ["set_input_shape", "set_tensor_address", "execute_async_v3"])
def test_a_batch_that_is_refused_is_an_error(refuses: str) -> None:
    names = ("set_input_shape", "set_tensor_address", "execute_async_v3")
    context = SimpleNamespace(**{name: lambda *_, n=name: n != refuses for name in names})
    pixels_BCHW, vectors_BD = torch.zeros(3, 3, 64, 64, dtype=torch.uint8), torch.empty(3, 48)
    with pytest.raises(EngineError, match=r"refused a batch of 3 \(it gave no reason\)"):
        enqueue(context, 0, pixels_BCHW, vectors_BD, messages_of())
    setattr(context, refuses, lambda *_: True)
    enqueue(context, 0, pixels_BCHW, vectors_BD, messages_of())


def test_a_batch_without_memory_can_be_halved() -> None:
    messages = messages_of("an older one: out of memory")

    def run_out(_: int) -> bool:
        messages.logger.log(Api.ILogger.ERROR, "Cuda Runtime (out of memory)")
        return False

    context = SimpleNamespace(
        set_input_shape=lambda *_: True,
        set_tensor_address=lambda *_: True,
        execute_async_v3=run_out,
    )
    pixels_BCHW, vectors_BD = torch.zeros(3, 3, 64, 64, dtype=torch.uint8), torch.empty(3, 48)
    with pytest.raises(torch.OutOfMemoryError, match=r"Cuda Runtime \(out of memory\)"):
        enqueue(context, 0, pixels_BCHW, vectors_BD, messages)
    # What was said of an earlier batch is not taken for the reason.
    context.execute_async_v3 = lambda _: False
    with pytest.raises(EngineError, match=r"refused a batch of 3 \(it gave no reason\)"):
        enqueue(context, 0, pixels_BCHW, vectors_BD, messages)


def test_what_it_says_goes_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    messages = messages_of("a mistake")
    messages.logger.log(Api.ILogger.WARNING, "a doubt")
    messages.logger.log(Api.ILogger.VERBOSE, "a detail")
    assert caplog.messages == ["TensorRT: a doubt"]
    assert messages.last() == "a mistake"


# TensorRT for RTX has no kernels for compute capability 9.0 and 10.0.
RTX_TARGETS = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")


def skip_where_it_cannot_run(flavour: Flavour) -> None:
    """Skip a test of a flavour that is not installed, or has no kernels for this GPU."""
    pytest.importorskip("tensorrt" if flavour == "tensorrt" else "tensorrt_rtx_bindings")
    found = ".".join(map(str, torch.cuda.get_device_capability()))
    if flavour == "tensorrt-rtx" and found not in RTX_TARGETS:
        pytest.skip(f"{flavour} has no kernels for compute capability {found}")


@pytest.mark.gpu
@pytest.mark.parametrize("flavour", ["tensorrt", "tensorrt-rtx"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("name", DEMO)
def test_gpu_computes_what_torch_computes(
    exported: Export, tmp_path: Path, flavour: Flavour, precision: str, name: str
) -> None:
    skip_where_it_cannot_run(flavour)
    truth, _ = exported(name, "fp32")
    encoder, files = exported(name, precision)
    pixels_BCHW = pixels_of(truth, 24)
    timings = tmp_path / "timings" if flavour == "tensorrt" else None
    settings = EngineSettings(flavour=flavour, max_batch=16, timing_cache=timings)
    engine: Encoder = TensorRTEncoder(
        encoder.record,
        build_engine(files, tmp_path, settings),
        flavour=flavour,
        device=torch.device("cuda"),
        precision=precision,
        max_batch=16,
        deviation=0.0,
    )
    assert engine.backend == flavour
    limit = {"fp32": 1e-4, "fp16": 2e-3, "bf16": 2e-2}[precision]
    # More than the largest batch, so that the last one is shorter.
    vectors_BD = engine(pixels_BCHW.cuda())
    assert deviation(vectors_BD, truth(pixels_BCHW)) <= limit
    assert engine(pixels_BCHW[:1].cuda()).shape == (1, encoder.dim)
