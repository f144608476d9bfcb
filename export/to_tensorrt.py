"""ONNX to an engine of TensorRT or TensorRT for RTX, its network checked before it is built.

Networks are strongly typed: the graph says in what each tensor is computed, and no flag allows
anything else. TensorRT builds on the GPU it is for, and times kernels there; TensorRT for RTX
builds for a compute capability, on any machine, and finishes the kernels where they run.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.to_onnx import OnnxFiles
from miner.engine_onnx import INPUT
from miner.engine_tensorrt import Flavour, Messages, load_flavour
from miner.errors import EngineError
from miner.records import new_attempt

log = logging.getLogger(__name__)

ENGINE_FILE = "engine.plan"

WORKSPACE_BYTES = 8 * 2**30
"""Most device memory that a kernel may take for itself, where the GPU has as much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """What is decided before an engine is built.

    Attributes:
        flavour: tensorrt or tensorrt-rtx.
        max_batch: the largest batch, and the one it is optimised for.
        compute_capability: such as 8.9; None: of the GPU in this machine.
        timing_cache: file of kernel timings that builds share; not for TensorRT for RTX, which
            times nothing while it builds, and would ask for a GPU.
    """

    flavour: Flavour
    max_batch: int
    compute_capability: str | None = None
    timing_cache: Path | None = None


def build_engine(onnx: OnnxFiles, folder: Path, settings: EngineSettings) -> Path:
    """Build an engine file from an exported graph.

    Args:
        onnx: what `export.to_onnx` wrote.
        folder: gets the engine; has to be there.
        settings: for what it is built.

    Raises:
        ValueError: the flavour does not build for that compute capability.
        ResourceError: the flavour is not installed.
        EngineError: the graph cannot be parsed or built, or its network is in parts.
    """
    trt = load_flavour(settings.flavour)
    check_target(trt, settings)
    messages = Messages(trt)
    builder = trt.Builder(messages.logger)
    # TensorRT 11 knows no other networks and ignores this; 10 has to be told.
    strongly_typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(strongly_typed)
    # The parser's memory holds the weights until the engine is built.
    parser = trt.OnnxParser(network, messages.logger)
    _parse(parser, onnx, settings.flavour, trt.__version__)
    check_network(trt, network, onnx)
    config = _configure(trt, builder, network, settings)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError(
            f"{onnx.graph}: {settings.flavour} {trt.__version__} built no engine for batches of "
            f"{settings.max_batch} ({messages.last()}); give a smaller --batch-size, or another "
            "--precision"
        )
    if settings.timing_cache is not None:
        keep_timings(config, settings.timing_cache)
    path = folder / ENGINE_FILE
    path.write_bytes(plan)
    return path


def check_target(trt: Any, settings: EngineSettings) -> None:
    """Refuse a compute capability that a flavour does not build for, or timings it does not take.

    Raises:
        ValueError: it does not, or it builds for the GPU of this machine only.
    """
    wanted = settings.compute_capability
    if settings.timing_cache is not None and settings.flavour == "tensorrt-rtx":
        raise ValueError(
            f"timing_cache is {settings.timing_cache}, and {settings.flavour} times nothing while "
            "it builds; leave it out"
        )
    if wanted is None:
        return
    if settings.flavour != "tensorrt-rtx":
        raise ValueError(
            f"compute capability is {wanted}, and {settings.flavour} builds for the GPU it runs on "
            "only; leave it out, or use --flavour tensorrt-rtx"
        )
    names = trt.ComputeCapability.__members__
    if _target_name(wanted) not in names:
        numbers = sorted(int(name[2:]) for name in names if name.startswith("SM"))
        raise ValueError(
            f"compute capability is {wanted}; {settings.flavour} {trt.__version__} builds for "
            f"{', '.join(f'{number // 10}.{number % 10}' for number in numbers)}; give one of "
            "these, or use --flavour tensorrt on such a GPU"
        )


def check_network(trt: Any, network: Any, onnx: OnnxFiles) -> None:
    """Hold a parsed network against its graph: attention native, normalisation whole.

    Raises:
        EngineError: it has fewer of either than the graph, or softmax on its own.
    """
    layers = Counter(
        str(network.get_layer(index).type).rpartition(".")[2] for index in range(network.num_layers)
    )
    found = {"Attention": layers["ATTENTION_INPUT"], "LayerNormalization": layers["NORMALIZATION"]}
    if found != onnx.nodes or layers["SOFTMAX"]:
        raise EngineError(
            f"{onnx.graph} became a network with {found['Attention']} attention layers of "
            f"{onnx.nodes['Attention']}, {found['LayerNormalization']} normalisation layers of "
            f"{onnx.nodes['LayerNormalization']} and {layers['SOFTMAX']} softmax layers of 0 in "
            f"{trt.__name__} {trt.__version__}; in parts it is slow and less exact: take another "
            "version (of TensorRT, 10.14 is the first with attention), or --backend compile"
        )


def _parse(parser: Any, onnx: OnnxFiles, flavour: str, version: str) -> None:
    # By its path, since the weights lie beside it.
    if parser.parse_from_file(str(onnx.graph)):
        return
    first = parser.get_error(0)
    where = f"node {first.node_name()} ({first.node_operator()})" if first.node_name() else "it"
    raise EngineError(
        f"{onnx.graph}: {flavour} {version} cannot parse {where}: {first.desc()} "
        f"({parser.num_errors} errors); take a newer version (of TensorRT, 10.14 is the first with "
        "attention), or --backend compile"
    )


def _configure(trt: Any, builder: Any, network: Any, settings: EngineSettings) -> Any:
    config = builder.create_builder_config()
    # Else float32 products have TensorFloat's ten bits.
    config.clear_flag(trt.BuilderFlag.TF32)
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE_BYTES)
    shape = tuple(network.get_input(0).shape)[1:]
    profile = builder.create_optimization_profile()
    largest = (settings.max_batch, *shape)
    profile.set_shape(INPUT, min=(1, *shape), opt=largest, max=largest)
    config.add_optimization_profile(profile)
    if settings.compute_capability is not None:
        config.num_compute_capabilities = 1
        target = getattr(trt.ComputeCapability, _target_name(settings.compute_capability))
        config.set_compute_capability(target, 0)
    if settings.timing_cache is not None:
        use_timings(config, settings.timing_cache)
    return config


def _target_name(compute_capability: str) -> str:
    return f"SM{compute_capability.replace('.', '')}"


def use_timings(config: Any, path: Path) -> None:
    """Let a build know the kernel timings of earlier ones; unusable ones are measured anew."""
    known = path.read_bytes() if path.exists() else b""
    timings = config.create_timing_cache(known)
    if timings is None or not config.set_timing_cache(timings, ignore_mismatch=False):
        log.warning("%s holds no timings for this GPU and version; they are measured anew", path)
        config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)


def keep_timings(config: Any, path: Path) -> None:
    """Keep the kernel timings of a build for later ones; of two writers the later one wins."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{new_attempt()}")
    unfinished.write_bytes(config.get_timing_cache().serialize())
    unfinished.rename(path)
