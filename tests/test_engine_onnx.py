"""ONNX Runtime computes where it was told to, what it was told to, or says why not.

B images; C, H, W channels, rows, columns
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from miner.encoders import Encoder, TorchEncoder
from miner.engine_onnx import OnnxEncoder, check_precision, check_provider, run_session
from miner.errors import EngineError, ResourceError
from tests.exports import DEMO, Export, deviation, loss, pixels_of

CPU = torch.device("cpu")


def open_graph(encoder: TorchEncoder, graph: Path, **changes: Any) -> OnnxEncoder:
    settings = {"device": CPU, "precision": encoder.precision, "deviation": 0.25} | changes
    return OnnxEncoder(encoder.record, graph, **settings)


def test_it_is_an_encoder(exported: Export) -> None:
    encoder, files = exported("demo-clip", "fp32")
    engine: Encoder = open_graph(encoder, files.graph)
    assert (engine.record, engine.encoder_id) == (encoder.record, encoder.encoder_id)
    assert (engine.dim, engine.device, engine.backend) == (encoder.dim, CPU, "onnx")
    assert (engine.precision, engine.deviation) == ("fp32", 0.25)


@pytest.mark.parametrize("name", DEMO)
def test_half_precision_on_a_cpu_stays_near_the_truth(exported: Export, name: str) -> None:
    """The optimiser that crashes the process on such graphs is not used."""
    encoder, files = exported(name, "fp16")
    truth, _ = exported(name, "fp32")
    pixels_BCHW = pixels_of(truth, 12)
    vectors_BD = open_graph(encoder, files.graph)(pixels_BCHW)
    assert 0 < deviation(vectors_BD, truth(pixels_BCHW)) < 2e-3


def test_pixels_that_do_not_lie_in_a_row_are_taken(exported: Export) -> None:
    encoder, files = exported("demo-dino", "fp32")
    pixels_BCHW = pixels_of(encoder, 6)
    turned_BCHW = pixels_BCHW.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)[::2]
    assert not turned_BCHW.is_contiguous()
    vectors_BD = open_graph(encoder, files.graph)(turned_BCHW)
    assert loss(vectors_BD, encoder(pixels_BCHW[::2])) <= 1e-6


def test_no_pixels_give_no_vectors(exported: Export) -> None:
    encoder, files = exported("demo-dino", "fp32")
    pixels_BCHW = pixels_of(encoder, 1)[:0]
    assert open_graph(encoder, files.graph)(pixels_BCHW).shape == (0, encoder.dim)


def test_vectors_of_earlier_batches_stay(exported: Export) -> None:
    encoder, files = exported("demo-dino", "fp32")
    engine, pixels_BCHW = open_graph(encoder, files.graph), pixels_of(encoder, 4)
    first_BD = engine(pixels_BCHW[:2])
    kept_BD = first_BD.clone()
    engine(pixels_BCHW[2:])
    assert first_BD.equal(kept_BD)


def test_other_pixels_are_refused(exported: Export) -> None:
    encoder, files = exported("demo-dino", "fp32")
    with pytest.raises(ValueError, match=r"pixels are float32 \[1, 3, 64, 64\], demo-dino wants"):
        open_graph(encoder, files.graph)(torch.zeros(1, 3, 64, 64))


def test_threads_are_those_of_torch(exported: Export) -> None:
    encoder, files = exported("demo-dino", "fp32")
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        engine = open_graph(encoder, files.graph)
    finally:
        torch.set_num_threads(before)
    assert engine.num_threads == before + 1


def test_bfloat16_is_refused() -> None:
    check_precision("fp32")
    check_precision("fp16")
    with pytest.raises(ValueError, match="bf16, for which ONNX Runtime has not all kernels"):
        check_precision("bf16")


def test_what_it_would_say_of_bfloat16_itself(exported: Export) -> None:
    """The refusal is true: such a graph is not loaded."""
    import onnxruntime

    _, files = exported("demo-dino", "bf16")
    with pytest.raises(Exception, match="Could not find an implementation for"):
        onnxruntime.InferenceSession(str(files.graph), providers=["CPUExecutionProvider"])


def test_bfloat16_graph_is_refused_before_it_is_loaded(exported: Export) -> None:
    encoder, files = exported("demo-dino", "bf16")
    with pytest.raises(ValueError, match="precision is bf16"):
        open_graph(encoder, files.graph)


def test_a_graph_of_another_encoder_is_refused(exported: Export) -> None:
    _, files = exported("demo-clip", "fp32")
    encoder, _ = exported("demo-dino", "fp32")
    with pytest.raises(EngineError, match=r"has encoder_id demo-clip-.*, wanted is demo-dino-"):
        open_graph(encoder, files.graph)


def test_a_graph_of_another_precision_is_refused(exported: Export) -> None:
    encoder, _ = exported("demo-dino", "fp16")
    _, files = exported("demo-dino", "fp32")
    with pytest.raises(EngineError, match="has precision fp32, wanted is fp16; export the right"):
        open_graph(encoder, files.graph)


def test_a_damaged_graph_is_refused(exported: Export, tmp_path: Path) -> None:
    encoder, files = exported("demo-dino", "fp32")
    damaged = tmp_path / files.graph.name
    damaged.write_bytes(files.graph.read_bytes()[:-100])
    with pytest.raises(EngineError, match=r"cannot load .*vectors.onnx .*export again"):
        open_graph(encoder, damaged)


def session(files: Any, *, record: bool = True) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    if record:
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    return onnxruntime.InferenceSession(
        str(files.graph), options, providers=["CPUExecutionProvider"]
    )


def test_a_session_that_fell_back_is_refused(exported: Export) -> None:
    _, files = exported("demo-dino", "fp32")
    check_provider(session(files), "CPUExecutionProvider")
    with pytest.raises(
        ResourceError, match="computes with CPUExecutionProvider instead of CUDAExecutionProvider"
    ):
        check_provider(session(files), "CUDAExecutionProvider")


class Pretender:
    """A session that says it is on a GPU, with its nodes on the CPU."""

    def __init__(self, real: Any) -> None:
        self.get_provider_graph_assignment_info = real.get_provider_graph_assignment_info

    def get_providers(self) -> list[str]:
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]


def test_nodes_that_strayed_are_refused(exported: Export) -> None:
    _, files = exported("demo-dino", "fp32")
    with pytest.raises(
        ResourceError, match=r"no kernels of CUDAExecutionProvider for .*Attention, .*Conv, "
    ):
        check_provider(Pretender(session(files)), "CUDAExecutionProvider")


class Failing:
    """A session that ends every run with an error."""

    def __init__(self, message: str) -> None:
        self.message = message

    def run_with_iobinding(self, *_: object) -> None:
        raise RuntimeError(self.message)


@pytest.mark.parametrize(
    "message",
    [
        "bfc_arena.cc:359 Failed to allocate memory for requested buffer of size 2147483648",
        "CUDA failure 2: out of memory ; GPU=0",
        "std::bad_alloc",
    ],
)
def test_a_lack_of_memory_is_told_apart(message: str) -> None:
    """So that `Guarded` halves the batch."""
    with pytest.raises(torch.OutOfMemoryError, match=message.split()[-1]):
        run_session(Failing(message), None, 64)


def test_any_other_failure_is_an_engines() -> None:
    with pytest.raises(EngineError, match=r"failed on a batch of 64 \(CUDNN failure\); use --ba"):
        run_session(Failing("CUDNN failure"), None, 64)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", DEMO)
def test_gpu_computes_what_torch_computes(exported: Export, name: str, precision: str) -> None:
    truth, _ = exported(name, "fp32")
    encoder, files = exported(name, precision)
    pixels_BCHW = pixels_of(truth, 24)
    engine = open_graph(encoder, files.graph, device=torch.device("cuda"))
    vectors_BD = engine(pixels_BCHW.cuda())
    assert vectors_BD.device == engine.device == torch.device("cuda:0")
    limit = 1e-5 if precision == "fp32" else 2e-3
    assert deviation(vectors_BD, truth(pixels_BCHW)) <= limit


@pytest.mark.gpu
def test_gpu_work_is_in_order_with_torch(exported: Export) -> None:
    """Pixels that torch is still writing are waited for, and vectors can be read at once."""
    encoder, files = exported("demo-dino", "fp32")
    engine = open_graph(encoder, files.graph, device=torch.device("cuda"))
    pixels_BCHW = pixels_of(encoder, 8).cuda()
    wanted_BD = engine(pixels_BCHW).clone()
    torch.cuda.synchronize()
    for _ in range(5):
        late_BCHW = torch.zeros_like(pixels_BCHW)
        torch.cuda._sleep(50_000_000)
        late_BCHW.copy_(pixels_BCHW, non_blocking=True)
        vectors_BD = engine(late_BCHW)
        # Freed and written over at once, as the current stream allows.
        del late_BCHW
        torch.zeros_like(pixels_BCHW)
        assert vectors_BD.clone().equal(wanted_BD)
