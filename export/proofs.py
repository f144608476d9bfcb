"""Proofs that are remembered, so that the gate costs a pass in float32 once and not at each start.

A proof holds for what it names: the encoder, the engine and its batch size, the machine's device,
the versions of what computes, and the images. If one of these changes, the engine has to prove
itself again.
"""

from __future__ import annotations

import dataclasses
import logging
import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from export.look import Group
from export.verdict import Check, Verdict
from export.verify import verify
from miner.encoders import Encoder, TorchEncoder
from miner.engines import PAIR_LIMITS
from miner.errors import StoreError
from miner.records import Json, digest, read_record, replace_record
from miner.versions import versions

log = logging.getLogger(__name__)


def prove(
    encoder: Encoder,
    load_truth: Callable[[], TorchEncoder],
    groups: Sequence[Group],
    *,
    folder: Path,
    threshold: float | None = None,
    batch_size: int = 64,
    engine: Mapping[str, object] | None = None,
    anew: bool = False,
) -> Verdict:
    """Prove an engine equal to the truth, or remember that it was.

    Args:
        encoder: the engine, without `Guarded` around it. Its `deviation` becomes what was measured.
        load_truth: gives the same encoder in float32; called only where there is no proof.
        groups: see `export.verify.verify`.
        folder: where proofs are kept.
        threshold: of the cosine, at which a run decides.
        batch_size: images to a batch, as in the run.
        engine: what else decides its vectors, such as an engine file's sha256 or the version of
            its runtime.
        anew: verify it whatever was proven before, as an engine that was just built.

    Raises:
        ParityError: the engine is not equal, or cannot be judged by these images.
        StoreError: a proof was cut or edited.
    """
    terms = _terms(encoder, groups, threshold, batch_size, engine or {})
    path = folder / f"{encoder.encoder_id}.{encoder.backend}.{digest(terms)[:16]}.json"
    verdict = read_proof(path, terms) if path.exists() and not anew else None
    if verdict is None:
        verdict = verify(encoder, load_truth(), groups, threshold=threshold, batch_size=batch_size)
        verdict.refuse()
        write_proof(path, terms, verdict)
        log.info("%s: proven, pairs deviate by up to %.2g", path.stem, verdict.deviation)
    encoder.deviation = verdict.deviation
    return verdict


def write_proof(path: Path, terms: Json, verdict: Verdict) -> None:
    """Remember a verdict under the terms for which it holds."""
    replace_record(path, {"terms": terms, "verdict": dataclasses.asdict(verdict)})


def read_proof(path: Path, terms: Json) -> Verdict:
    """A verdict from a file.

    Raises:
        StoreError: it was cut or edited, is for other terms, or does not let the engine pass.
    """
    record = read_record(path)
    fields = dict(record["verdict"])
    checks = tuple(Check(**check) for check in fields.pop("checks"))
    verdict = Verdict(**fields, checks=checks)
    if record["terms"] != terms or verdict.failures or not checks:
        raise StoreError(f"{path} is no proof for this engine; remove it and run the command again")
    return verdict


def _terms(
    encoder: Encoder,
    groups: Sequence[Group],
    threshold: float | None,
    batch_size: int,
    engine: Mapping[str, object],
) -> Json:
    """Everything for which a verdict holds."""
    return {
        "encoder_id": encoder.encoder_id,
        "backend": encoder.backend,
        "precision": encoder.precision,
        "batch_size": batch_size,
        "device": device_name(encoder.device),
        "threads": torch.get_num_threads() if encoder.device.type == "cpu" else None,
        "engine": dict(engine),
        "versions": versions(),
        "limits": dataclasses.asdict(PAIR_LIMITS[encoder.precision]),
        "threshold": threshold,
        "images": [[group.name, group.sha256] for group in groups],
    }


def device_name(device: torch.device) -> str:
    """Model of a GPU with its capability, or of the processor with what torch uses of it."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return f"{properties.name} sm_{properties.major}{properties.minor}"
    return f"{_processor()} {torch.backends.cpu.get_cpu_capability()}"


def _processor() -> str:
    """Model of the processor, as the kernel calls it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text("utf-8").splitlines() if info.exists() else []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.machine())
