"""Real engines of TensorRT for RTX, built without a GPU; and what is refused before building."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest

import export.to_onnx
from export.to_onnx import OnnxFiles, export_onnx
from export.to_tensorrt import (
    EngineSettings,
    build_engine,
    check_network,
    check_target,
    keep_timings,
    use_timings,
)
from miner.encoders import find_record, load_encoder
from miner.engine_tensorrt import Messages, load_flavour
from miner.errors import EngineError
from tests.exports import DEMO, Export, LargeWeights

pytestmark = pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64"),
    reason="TensorRT for RTX has wheels for x86_64 Linux only",
)

Parse = Callable[[Path], Any]


def settings(**changes: Any) -> EngineSettings:
    fields: dict[str, Any] = {
        "flavour": "tensorrt-rtx",
        "max_batch": 16,
        "compute_capability": "8.9",
    }
    return EngineSettings(**fields | changes)


@pytest.fixture
def parse() -> Parse:
    """A graph as a network, with what has to outlive it."""
    trt = load_flavour("tensorrt-rtx")
    messages = Messages(trt)
    builder = trt.Builder(messages.logger)
    kept = []

    def parse(graph: Path) -> Any:
        network = builder.create_network(1)
        parser = trt.OnnxParser(network, messages.logger)
        assert parser.parse_from_file(str(graph))
        kept.append(parser)
        return network

    return parse


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("name", DEMO)
def test_an_engine_is_built_without_a_gpu(
    exported: Export, tmp_path: Path, name: str, precision: str
) -> None:
    _, files = exported(name, precision)
    engine = build_engine(files, tmp_path, settings())
    # It holds the weights.
    assert engine.stat().st_size > files.graph.with_suffix(".onnx.data").stat().st_size
    assert engine.parent == tmp_path


def test_network_takes_pixels_and_computes_in_the_graphs_precision(
    exported: Export, parse: Parse
) -> None:
    trt = load_flavour("tensorrt-rtx")
    encoder, files = exported("demo-clip", "fp16")
    network = parse(files.graph)
    pixels, vectors = network.get_input(0), network.get_output(0)
    assert (pixels.name, pixels.dtype, tuple(pixels.shape)) == (
        "pixels",
        trt.uint8,
        (-1, 3, 64, 64),
    )
    assert (vectors.name, vectors.dtype) == ("vectors", trt.float32)
    assert tuple(vectors.shape) == (-1, encoder.dim)
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    attention = [layer for layer in layers if layer.type == trt.LayerType.ATTENTION_INPUT]
    assert [layer.get_input(0).dtype for layer in attention] == [trt.float16] * 3
    check_network(trt, network, files)


def test_an_attention_in_parts_is_refused(
    exported: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A graph of the opset before: its attention is a softmax between two products."""
    encoder, files = exported("demo-dino", "fp16")
    monkeypatch.setattr(export.to_onnx, "OPSET", 22)
    monkeypatch.setattr(export.to_onnx, "check_whole", lambda *_: None)
    parts = replace(export_onnx(encoder, tmp_path), nodes=files.nodes)
    with pytest.raises(EngineError, match=r"0 attention layers of 3, 7 normal.* 3 softmax layers"):
        build_engine(parts, tmp_path, settings())


def test_a_normalisation_that_is_lost_is_refused(exported: Export, parse: Parse) -> None:
    _, files = exported("demo-dino", "fp16")
    more = replace(files, nodes={**files.nodes, "LayerNormalization": 8})
    with pytest.raises(EngineError, match="7 normalisation layers of 8 and 0 softmax"):
        check_network(load_flavour("tensorrt-rtx"), parse(files.graph), more)


def test_a_node_that_it_does_not_know_is_named(exported: Export, tmp_path: Path) -> None:
    _, files = exported("demo-dino", "fp16")
    model = onnx.load(files.graph)
    node = next(node for node in model.graph.node if node.op_type == "Gelu")
    node.op_type, node.domain = "Gelx", "nowhere"
    model.opset_import.append(onnx.helper.make_opsetid("nowhere", 1))
    onnx.save(model, tmp_path / "strange.onnx")
    strange = OnnxFiles(graph=tmp_path / "strange.onnx", sha256="", nodes=files.nodes)
    with pytest.raises(
        EngineError, match=r"cannot parse node node_gelu \(Gelx\): .* take a newer version"
    ):
        build_engine(strange, tmp_path, settings())


def test_a_graph_without_its_weights_is_refused(exported: Export, tmp_path: Path) -> None:
    _, files = exported("demo-dino", "fp16")
    alone = tmp_path / files.graph.name
    alone.write_bytes(files.graph.read_bytes())
    with pytest.raises(EngineError, match=r"cannot parse it: .*Failed to import initializer"):
        build_engine(replace(files, graph=alone), tmp_path, settings())


def test_a_batch_that_no_tensor_can_hold_is_refused(exported: Export, tmp_path: Path) -> None:
    _, files = exported("demo-dino", "fp16")
    with pytest.raises(EngineError, match=r"built no engine for batches of 2147483647 .*smaller"):
        build_engine(files, tmp_path, settings(max_batch=2**31 - 1))


def test_a_gpu_that_it_does_not_build_for_is_refused(exported: Export, tmp_path: Path) -> None:
    _, files = exported("demo-dino", "fp16")
    with pytest.raises(ValueError, match=r"capability is 9.0; .* builds for 7.5, 8.0, 8.6, 8.9, "):
        build_engine(files, tmp_path, settings(compute_capability="9.0"))


def test_tensorrt_itself_builds_for_its_own_gpu_only() -> None:
    with pytest.raises(ValueError, match=r"8.9, and tensorrt builds for the GPU it runs on only"):
        check_target(SimpleNamespace(), settings(flavour="tensorrt"))


def test_rtx_takes_no_timings(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"timing_cache is .*, and tensorrt-rtx times nothing"):
        check_target(SimpleNamespace(), settings(timing_cache=tmp_path / "timings"))


class Config:
    """A builder's settings as far as timings go: those of another version are not taken."""

    def __init__(self) -> None:
        self.used: bytes | None = None

    def create_timing_cache(self, content: bytes) -> SimpleNamespace | None:
        if content == b"garbage":
            return None
        return SimpleNamespace(content=content, serialize=lambda: content + b"new")

    def set_timing_cache(self, timings: SimpleNamespace, *, ignore_mismatch: bool) -> bool:
        if timings.content.startswith(b"other version") and not ignore_mismatch:
            return False
        self.used = timings.content
        return True

    def get_timing_cache(self) -> SimpleNamespace | None:
        return None if self.used is None else self.create_timing_cache(self.used)


def test_timings_of_earlier_builds_are_used(tmp_path: Path) -> None:
    path = tmp_path / "timings" / "11.4-GPU"
    for used in (b"", b"new", b"newnew"):
        config = Config()
        use_timings(config, path)
        assert config.used == used
        keep_timings(config, path)
        assert path.read_bytes() == used + b"new"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("content", [b"garbage", b"other version"])
def test_timings_that_cannot_be_used_are_measured_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    (tmp_path / "timings").write_bytes(content)
    config = Config()
    use_timings(config, tmp_path / "timings")
    assert config.used == b""
    assert "holds no timings for this GPU and version" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("name", ["clip-vit-l-14", "dinov2-vit-l-14"])
def test_full_size_engines_are_built(
    name: str, large_weights: LargeWeights, tmp_path: Path
) -> None:
    record, weights = find_record(name), large_weights(name)
    for precision in ("fp16", "bf16"):
        folder = tmp_path / precision
        folder.mkdir()
        encoder = load_encoder(record, dtype=precision, weights=weights)
        files = export_onnx(encoder, folder)
        # Building checks that the network has as many of them.
        assert files.nodes["Attention"] == 24
        assert files.nodes["LayerNormalization"] in (49, 50)
        engine = build_engine(files, folder, settings(max_batch=64))
        assert engine.stat().st_size > 600e6
