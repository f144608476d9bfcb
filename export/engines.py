"""The whole way: checkpoint -> ONNX -> engine -> proven equal -> published.

An engine that nothing has proven is loaded here only, to be proven; everybody else gets what was
published. On a machine where an engine can be built but not run, it stays unproven.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import torch

from export.cache import EngineCache, Entry, make
from export.to_onnx import GRAPH_FILE, WEIGHTS_FILE, OnnxFiles, export_onnx
from export.to_tensorrt import ENGINE_FILE, EngineSettings, build_engine, check_target
from miner.encoders import Encoder, find_record, load_encoder, locate
from miner.engine_onnx import OnnxEncoder, check_precision
from miner.engine_tensorrt import Flavour, TensorRTEncoder, check_gpu, load_flavour
from miner.records import Json, file_sha256
from miner.registry import EncoderRecord

log = logging.getLogger(__name__)


class Prove(Protocol):
    """Holds engines against their encoder."""

    def __call__(
        self, encoder: Encoder, engine: Mapping[str, object], *, anew: bool = False
    ) -> float:
        """Run an engine: the largest deviation of a pair's cosine, or ParityError.

        Args:
            encoder: the engine.
            engine: its files' hashes, flavour, version: a proof holds for these alone.
            anew: believe no earlier proof.
        """


GRAPH_VERSION = 1
"""Raised when this code makes other graphs of the same encoders."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """An encoder that engines are made of: its record with the weights' hash, and the weights."""

    record: EncoderRecord
    weights: Path
    precision: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Proven:
    """A published engine: loaded, and what its manifest says."""

    encoder: Encoder
    entry: Entry

    @property
    def engine(self) -> Json:
        """What its proof holds for."""
        return _engine(self.entry.key, self.entry.files)


def find_source(name: str | EncoderRecord, weights: Path | None, precision: str) -> Source:
    """Find an encoder and its weights; builds no model.

    Raises:
        ValueError: there is no such encoder.
        ResourceError: its weights are missing.
    """
    record, path = locate(find_record(name) if isinstance(name, str) else name, weights)
    return Source(record=record, weights=path, precision=precision)


def export_graph(cache: EngineCache, source: Source) -> OnnxFiles:
    """An encoder's graph, exported where the cache has none of these versions.

    Raises:
        EngineError: the exporter took an attention or a normalisation apart.
    """
    key = {
        "encoder_id": source.record.encoder_id,
        "precision": source.precision,
        "graph_version": GRAPH_VERSION,
        **{name: version(name) for name in ("torch", "onnxscript", "open_clip_torch", "timm")},
    }

    def build(folder: Path) -> tuple[list[Path], Json]:
        encoder = load_encoder(source.record, dtype=source.precision, weights=source.weights)
        files = export_onnx(encoder, folder)
        return [files.graph, folder / WEIGHTS_FILE], {"nodes": files.nodes}

    entry = make(cache, "onnx", key, build)
    return OnnxFiles(
        graph=entry.folder / GRAPH_FILE,
        sha256=entry.files[GRAPH_FILE],
        nodes=entry.facts["nodes"],
    )


def open_onnx(cache: EngineCache, source: Source, device: torch.device, prove: Prove) -> Proven:
    """An encoder by ONNX Runtime, proven on this device.

    Raises:
        ValueError: ONNX Runtime does not compute this precision.
        ResourceError: it does not use the device.
        ParityError: it does not equal the encoder.
    """
    import onnxruntime

    check_precision(source.precision)
    graph = export_graph(cache, source)
    key = {
        **_key(source, graph, device),
        "flavour": "onnxruntime",
        "version": onnxruntime.__version__,
        "provider": device.type,
    }

    def load(_: Path, deviation: float) -> Encoder:
        return OnnxEncoder(
            source.record,
            graph.graph,
            device=device,
            precision=source.precision,
            deviation=deviation,
        )

    # The engine is the graph itself, which stands for its weights; the entry is its proof.
    return _open_proven(cache, key, lambda _: [graph.graph], load, prove)


def open_tensorrt(
    cache: EngineCache,
    source: Source,
    device: torch.device,
    prove: Prove,
    *,
    flavour: Flavour,
    max_batch: int,
) -> Proven:
    """An encoder by TensorRT, built and proven on this GPU.

    Raises:
        ValueError: the device is no GPU.
        ResourceError: the GPU or the package is missing.
        EngineError: the engine cannot be built.
        ParityError: it does not equal the encoder.
    """
    check_gpu(device)
    trt = load_flavour(flavour)
    settings = _settings(cache, trt, device, flavour, max_batch)
    check_target(trt, settings)
    graph = export_graph(cache, source)
    key = {
        **_key(source, graph, device),
        "flavour": flavour,
        "version": trt.__version__,
        "max_batch": max_batch,
    }

    def build(folder: Path) -> list[Path]:
        with torch.cuda.device(device):
            return [build_engine(graph, folder, settings)]

    def load(folder: Path, deviation: float) -> Encoder:
        return TensorRTEncoder(
            source.record,
            folder / ENGINE_FILE,
            flavour=flavour,
            device=device,
            precision=source.precision,
            max_batch=max_batch,
            deviation=deviation,
        )

    return _open_proven(cache, key, build, load, prove)


def build_ahead(
    cache: EngineCache, source: Source, *, compute_capability: str, max_batch: int
) -> Entry:
    """An engine of TensorRT for RTX for some other machine's GPU: built, never executed.

    Raises:
        ValueError: it does not build for that compute capability.
        ResourceError: the package is missing.
        EngineError: the engine cannot be built.
    """
    settings = EngineSettings(
        flavour="tensorrt-rtx", max_batch=max_batch, compute_capability=compute_capability
    )
    trt = load_flavour(settings.flavour)
    check_target(trt, settings)
    graph = export_graph(cache, source)
    key = {
        **_key(source, graph, None),
        "flavour": settings.flavour,
        "version": trt.__version__,
        "compute_capability": compute_capability,
        "max_batch": max_batch,
    }
    return make(
        cache,
        "unproven",
        key,
        lambda folder: ([build_engine(graph, folder, settings)], {"nodes": graph.nodes}),
    )


def _settings(
    cache: EngineCache, trt: Any, device: torch.device, flavour: Flavour, max_batch: int
) -> EngineSettings:
    """For this GPU. TensorRT finds it itself and times kernels; the other has to be told."""
    if flavour == "tensorrt-rtx":
        return EngineSettings(
            flavour=flavour, max_batch=max_batch, compute_capability=_capability(device)
        )
    timings = cache.prepare("timings") / f"{trt.__version__}-{_gpu(device)}".replace(" ", "_")
    return EngineSettings(flavour=flavour, max_batch=max_batch, timing_cache=timings)


def _open_proven(
    cache: EngineCache,
    key: Json,
    build: Callable[[Path], list[Path]],
    load: Callable[[Path, float], Encoder],
    prove: Prove,
) -> Proven:
    """The published engine of a key; where there is none it is built, proven and published."""

    def opened(entry: Entry) -> Proven:
        encoder = load(entry.folder, float(entry.facts["deviation"]))
        return Proven(encoder=encoder, entry=entry)

    entry = cache.find("proven", key)
    if entry is not None:
        return opened(entry)
    with cache.making("proven", key) as making:
        entry = making.find()
        if entry is not None:
            return opened(entry)
        files = build(making.folder)
        encoder = load(making.folder, math.inf)
        hashes = {path.name: file_sha256(path) for path in files}
        # An older engine's proof says nothing of this one, even if its file comes out the same.
        encoder.deviation = prove(encoder, _engine(key, hashes), anew=True)
        entry = making.publish(files, {"deviation": encoder.deviation})
    log.info("%s: proven, deviation %.1e", encoder.encoder_id, encoder.deviation)
    return Proven(encoder=encoder, entry=entry)


def _engine(key: Json, hashes: Mapping[str, str]) -> Json:
    """An engine by what it was made from and by its files, wherever they lie."""
    return {**key, "files": sorted([Path(name).name, sha256] for name, sha256 in hashes.items())}


def _key(source: Source, graph: OnnxFiles, device: torch.device | None) -> Json:
    """What every engine's key has; a device of None is one that is not here."""
    return {
        "encoder_id": source.record.encoder_id,
        "onnx_sha256": graph.sha256,
        "precision": source.precision,
        "gpu": _gpu(device),
        "compute_capability": _capability(device),
    }


def _gpu(device: torch.device | None) -> str:
    """A GPU's name; empty for a CPU, or for a machine that is not here."""
    is_gpu = device is not None and device.type == "cuda"
    return str(torch.cuda.get_device_name(device)) if is_gpu else ""


def _capability(device: torch.device | None) -> str:
    """A GPU's compute capability, such as 8.9; empty as above."""
    is_gpu = device is not None and device.type == "cuda"
    return ".".join(map(str, torch.cuda.get_device_capability(device))) if is_gpu else ""
