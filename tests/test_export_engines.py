"""The whole way from a checkpoint to an engine that is proven and published."""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import onnxruntime
import pytest
import torch

import export.engines
from export.cache import MANIFEST, EngineCache
from export.engines import (
    Proven,
    Source,
    build_ahead,
    export_graph,
    find_source,
    open_onnx,
    open_tensorrt,
)
from export.gate import Gate
from miner.encoders import Encoder, TorchEncoder, load_encoder
from miner.errors import ParityError, ResourceError
from tests.exports import deviation, pixels_of

CPU = torch.device("cpu")

needs_rtx = pytest.mark.skipif(not find_spec("tensorrt_rtx_bindings"), reason="not installed")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> EngineCache:
    return EngineCache(tmp_path_factory.mktemp("engines"))


@pytest.fixture
def source() -> Source:
    return find_source("demo-dino", None, "fp32")


class Prover:
    """Holds an engine against TorchEncoder, and counts how often it had to."""

    def __init__(self, limit: float = 2e-3) -> None:
        self.limit = limit
        self.seen: list[float] = []

    def __call__(
        self, encoder: Encoder, engine: Mapping[str, object], *, anew: bool = False
    ) -> float:
        assert anew
        self.engine = engine
        self.seen.append(encoder.deviation)
        truth = load_encoder(encoder.record.name)
        pixels_BCHW = pixels_of(truth, 12)
        found = deviation(encoder(pixels_BCHW), truth(pixels_BCHW))
        if not found <= self.limit:
            raise ParityError(f"deviation {found}, limit {self.limit}")
        return found


def test_an_encoder_is_exported_once(
    cache: EngineCache, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = export_graph(cache, source)
    monkeypatch.setattr(export.engines, "export_onnx", never)
    assert export_graph(cache, source) == files
    assert files.nodes == {"Attention": 3, "LayerNormalization": 7}
    assert files.graph.is_relative_to(cache.root / "onnx")


@pytest.mark.parametrize("changed", ["precision", "versions", "graph_version", "record"])
def test_another_graph_is_another_export(
    cache: EngineCache, source: Source, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    export_graph(cache, source)
    monkeypatch.setattr(export.engines, "export_onnx", never)
    if changed == "precision":
        source = find_source("demo-dino", None, "fp16")
    elif changed == "versions":
        monkeypatch.setattr(export.engines, "version", lambda _: "99.9")
    elif changed == "graph_version":
        monkeypatch.setattr(export.engines, "GRAPH_VERSION", 99)
    else:
        source = find_source("demo-clip", None, "fp32")
    with pytest.raises(AssertionError, match="exported again"):
        export_graph(cache, source)


def never(*_: object) -> None:
    raise AssertionError("exported again")


def test_an_engine_is_proven_once_and_published(cache: EngineCache, source: Source) -> None:
    prove = Prover()
    first = open_onnx(cache, source, CPU, prove)
    # What nobody has proven yet may deviate by anything.
    assert prove.seen == [math.inf]
    assert 0 < first.encoder.deviation < 1e-5
    assert first.entry.folder.parent == cache.root / "proven"
    second = open_onnx(cache, source, CPU, prove)
    assert len(prove.seen) == 1
    assert second.entry == first.entry
    # A proof is remembered for this file by this runtime.
    assert second.engine == prove.engine
    assert second.engine["flavour"] == "onnxruntime"
    assert second.engine["version"] == onnxruntime.__version__
    assert second.engine["files"] == [["vectors.onnx", export_graph(cache, source).sha256]]
    assert second.encoder.deviation == first.encoder.deviation
    assert second.encoder.backend == "onnx"


def test_a_refused_engine_is_not_published(tmp_path: Path, source: Source) -> None:
    cache = EngineCache(tmp_path / "cache")
    with pytest.raises(ParityError, match="limit 0"):
        open_onnx(cache, source, CPU, Prover(limit=0))
    assert not (cache.root / "proven").exists()
    assert list((cache.root / "unfinished").iterdir()) == []


def test_a_changed_graph_is_exported_and_proven_anew(tmp_path: Path, source: Source) -> None:
    cache, prove = EngineCache(tmp_path / "cache"), Prover()
    first = open_onnx(cache, source, CPU, prove)
    graph = export_graph(cache, source).graph
    # Another file of that name: the old one is mapped into the first engine's memory.
    graph.with_name("vectors.onnx.data").unlink()
    graph.with_name("vectors.onnx.data").write_bytes(b"others")
    second = open_onnx(cache, source, CPU, prove)
    # The new export is the same, byte by byte, so the proof still holds.
    assert second.entry == first.entry
    assert len(prove.seen) == 1
    pixels_BCHW = pixels_of(load_encoder("demo-dino"), 2)
    assert second.encoder(pixels_BCHW).equal(first.encoder(pixels_BCHW))


def test_a_damaged_entry_is_proven_anew_whatever_was_proven_before(
    tmp_path: Path, source: Source
) -> None:
    cache = EngineCache(tmp_path / "cache")
    loaded = []

    def load_truth() -> TorchEncoder:
        loaded.append(1)
        return load_encoder("demo-dino")

    def opened() -> Proven:
        gate = Gate(
            load_truth=load_truth,
            own=None,
            batch_size=16,
            threshold=0.6,
            proofs=tmp_path / "proofs",
        )
        proven = open_onnx(cache, source, CPU, gate)
        gate(proven.encoder, proven.engine)
        return proven

    first = opened()
    opened()
    assert len(loaded) == 1
    (first.entry.folder / MANIFEST).write_text("{}")
    opened()
    assert len(loaded) == 2


def test_bfloat16_by_onnx_is_refused_before_anything_is_exported(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path / "cache")
    with pytest.raises(ValueError, match="precision is bf16"):
        open_onnx(cache, find_source("demo-dino", None, "bf16"), CPU, Prover())
    assert not cache.root.exists()


def test_tensorrt_on_a_cpu_is_refused_before_anything_is_exported(
    tmp_path: Path, source: Source
) -> None:
    cache = EngineCache(tmp_path / "cache")
    with pytest.raises(ValueError, match="TensorRT runs on GPUs"):
        open_tensorrt(cache, source, CPU, Prover(), flavour="tensorrt", max_batch=8)
    assert not cache.root.exists()


@needs_rtx
def test_what_was_never_executed_is_kept_apart(cache: EngineCache) -> None:
    source = find_source("demo-dino", None, "fp16")
    entry = build_ahead(cache, source, compute_capability="8.9", max_batch=16)
    assert entry.folder.parent == cache.root / "unproven"
    assert cache.entries("unproven") == [entry]
    assert entry.key["compute_capability"] == "8.9"
    assert (entry.key["flavour"], entry.key["gpu"], entry.key["max_batch"]) == (
        "tensorrt-rtx",
        "",
        16,
    )
    assert entry.facts == {"nodes": {"Attention": 3, "LayerNormalization": 7}}
    assert cache.find("proven", entry.key) is None
    assert build_ahead(cache, source, compute_capability="8.9", max_batch=16) == entry


@needs_rtx
def test_a_gpu_that_nobody_builds_for_is_refused_before_anything_is_exported(
    tmp_path: Path, source: Source
) -> None:
    cache = EngineCache(tmp_path / "cache")
    with pytest.raises(ValueError, match=r"compute capability is 9.0; tensorrt-rtx"):
        build_ahead(cache, source, compute_capability="9.0", max_batch=16)
    assert not cache.root.exists()


def test_missing_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="demo-dino: no weights file at"):
        find_source("demo-dino", tmp_path / "none.safetensors", "fp32")


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_gpu_engine_is_proven_and_published(cache: EngineCache, precision: str) -> None:
    prove, device = Prover(), torch.device("cuda")
    source = find_source("demo-clip", None, precision)
    first = open_onnx(cache, source, device, prove)
    assert first.entry.key["gpu"] == torch.cuda.get_device_name(device)
    assert first.encoder.device == torch.device("cuda:0")
    assert open_onnx(cache, source, device, prove).entry == first.entry
    assert len(prove.seen) == 1
