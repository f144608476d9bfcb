"""What computes an encoder in a run, as the settings want it, and proven equal to it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from export.cache import EngineCache
from export.engines import Source, open_onnx, open_tensorrt
from export.gate import Gate
from export.look import Group
from export.parcel import unpack
from miner.config import EmbedSettings
from miner.encoders import Encoder, TorchEncoder, load_encoder
from miner.engine_compile import CompiledEncoder
from miner.guarded import Guarded
from miner.records import Json
from miner.registry import EncoderRecord
from miner.staging import staged

log = logging.getLogger(__name__)


def open_encoder(
    record: EncoderRecord,
    weights: Path,
    settings: EmbedSettings,
    device: str,
    *,
    threshold: float,
    own: Callable[[], Group | None],
) -> Encoder:
    """An encoder, guarded against short memory and lost rows.

    Args:
        record: which.
        weights: safetensors file.
        settings: backend, precision and batch size.
        device: where it computes.
        threshold: of the cosine, at which the run will decide.
        own: gives the first images of the run, cut for this encoder, on which an engine proves
            itself beside rendered scenes.

    Raises:
        ParityError: the engine does not equal the encoder.
        ResourceError: a package, a compiler or the device is missing.
        EngineError: the engine cannot be built.
        ValueError: there is no such engine on this device, or in this precision.
    """

    def load_truth() -> TorchEncoder:
        return load_encoder(record, device=device, weights=weights)

    if (settings.backend, settings.precision) == ("torch", "fp32"):
        return Guarded(load_truth(), load_truth=None, batch_size=settings.batch_size)
    log.warning(
        "%s by %s in %s on %s: held against float32 first, unless that was done here before",
        *(record.name, settings.backend, settings.precision, device),
    )
    gate = Gate(
        load_truth=load_truth,
        own=own(),
        batch_size=settings.batch_size,
        threshold=threshold,
    )
    encoder, engine = _open(record, weights, settings, torch.device(device), load_truth, gate)
    # An engine that was published before has not seen this run's images yet.
    encoder.deviation = gate(encoder, engine)
    return Guarded(
        encoder,
        load_truth=load_truth,
        batch_size=gate.batch_size,
        is_halved=gate.is_halved,
        prove=lambda batch_size: gate.at(batch_size, encoder, engine),
    )


def _open(
    record: EncoderRecord,
    weights: Path,
    settings: EmbedSettings,
    device: torch.device,
    load_truth: Callable[[], TorchEncoder],
    gate: Gate,
) -> tuple[Encoder, Json]:
    """What computes, and what else than its settings decides its vectors."""
    backend, precision = settings.backend, settings.precision
    if backend == "torch":
        return load_encoder(record, device=device, dtype=precision, weights=weights), {}
    if backend == "compile":
        compiled = CompiledEncoder(
            load_truth(), precision=precision, batch_size=settings.batch_size
        )
        # Inductor's kernels on a GPU are Triton's; torch's own version is in every proof.
        return compiled, {"triton": _triton_version()}
    if settings.engines is not None:
        unpack(EngineCache(), staged(settings.engines))
    source = Source(record=record, weights=weights, precision=precision)
    if backend == "onnx":
        proven = open_onnx(EngineCache(), source, device, gate)
    else:
        proven = open_tensorrt(
            EngineCache(), source, device, gate, flavour=backend, max_batch=settings.batch_size
        )
    return proven.encoder, proven.engine


def _triton_version() -> str:
    try:
        return version("triton")
    except PackageNotFoundError:
        return "missing"
