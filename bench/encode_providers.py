"""Who encodes in the benchmark of the encoders: the own engines, and what one would use instead.

A provider takes uint8 pixels where it computes and gives unit vectors in float32, as `mine` wants
them; what it turns the pixels into is part of its time. The stock modules are those of open_clip
and timm, called as their documentation does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch

from bench.attention import use_attend
from bench.fp8 import use_float8
from bench.towers import load_seeded, seeded_record
from export.cache import EngineCache
from export.engines import find_source, open_onnx, open_tensorrt
from miner.encoders import Encoder
from miner.engine_compile import CompiledEncoder
from miner.engines import PAIR_LIMITS
from miner.fused import FusedEncoder

Encode = Callable[[torch.Tensor], torch.Tensor]
"""[B, 3, S, S] uint8 on the device to [B, D] float32 of unit length."""

Make = Callable[[str, Path, str, int], Encode]
"""(registry name, weights, device, batch size) to an encoder that is ready to be timed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeProvider:
    """Something that turns pixels into vectors.

    Attributes:
        name: as in the rows.
        make: builds it.
        precision: fp32, bf16, fp16 or fp8, whose limits its pair cosines have to keep.
        own: whether it is the project's.
        device: `cuda` where it runs on nothing else; empty for any.
        needs: the module it cannot do without.
        note: what one has to know of it.
    """

    name: str
    make: Make
    precision: str
    own: bool = False
    device: str = ""
    needs: str | None = None
    note: str = ""

    def why_not(self, device: str) -> str:
        """Why it does not run here; empty where it does."""
        if self.device and torch.device(device).type != self.device:
            return f"needs {self.device}"
        if self.needs is not None and not find_spec(self.needs):
            return f"{self.needs} is not installed"
        return ""


def providers() -> list[EncodeProvider]:
    """Everyone, the yardstick first."""
    return [*_stock(), *_own(), *_experiments()]


def _stock() -> list[EncodeProvider]:
    def eager(dtype: str) -> Make:
        def make(name: str, weights: Path, device: str, batch_size: int) -> Encode:
            return load_seeded(name, device, dtype, weights)

        return make

    def autocast(name: str, weights: Path, device: str, batch_size: int) -> Encode:
        encoder = load_seeded(name, device, "fp32", weights)

        def encode(pixels_BCHW: torch.Tensor) -> torch.Tensor:
            with torch.autocast(torch.device(device).type, torch.bfloat16):
                return encoder(pixels_BCHW)

        return encode

    def tuned(dtype: str) -> Make:
        def make(name: str, weights: Path, device: str, batch_size: int) -> Encode:
            module = load_seeded(name, device, dtype, weights).module
            compiled = torch.compile(module, mode="max-autotune", dynamic=False)

            def encode(pixels_BCHW: torch.Tensor) -> torch.Tensor:
                with torch.inference_mode():
                    # A CUDA graph's output is overwritten by its next replay.
                    return compiled(pixels_BCHW).clone()

            return encode

        return make

    tuned_note = 'torch.compile(mode="max-autotune") of the stock module'
    return [
        EncodeProvider(name="stock-fp32", make=eager("fp32"), precision="fp32"),
        EncodeProvider(name="stock-autocast", make=autocast, precision="bf16"),
        EncodeProvider(name="stock-bf16", make=eager("bf16"), precision="bf16"),
        EncodeProvider(
            name="stock-tuned-bf16", make=tuned("bf16"), precision="bf16", note=tuned_note
        ),
        EncodeProvider(
            name="stock-tuned-fp16",
            make=tuned("fp16"),
            precision="fp16",
            device="cuda",
            note=tuned_note,
        ),
    ]


def _own() -> list[EncodeProvider]:
    def compiled(precision: str) -> Make:
        def make(name: str, weights: Path, device: str, batch_size: int) -> Encode:
            truth = load_seeded(name, device, "fp32", weights)
            return CompiledEncoder(truth, precision=precision, batch_size=batch_size)

        return make

    def engine(to: str, precision: str) -> Make:
        def make(name: str, weights: Path, device: str, batch_size: int) -> Encode:
            source = find_source(seeded_record(name), weights, precision)
            cache = EngineCache(weights.parent / "engines")

            def unproven(
                encoder: Encoder, engine: Mapping[str, object], *, anew: bool = False
            ) -> float:
                # The benchmark holds every provider against the truth itself.
                return PAIR_LIMITS[precision].max

            where = torch.device(device)
            if to == "onnx":
                return open_onnx(cache, source, where, unproven).encoder
            return open_tensorrt(
                cache, source, where, unproven, flavour="tensorrt", max_batch=batch_size
            ).encoder

        return make

    own = [
        EncodeProvider(
            name=f"compile-{precision}",
            make=compiled(precision),
            precision=precision,
            own=True,
            # Processors without instructions for float16 take minutes for a batch.
            device="cuda" if precision == "fp16" else "",
        )
        for precision in ("fp32", "bf16", "fp16")
    ]
    own.append(
        EncodeProvider(
            name="onnx-fp32",
            make=engine("onnx", "fp32"),
            precision="fp32",
            own=True,
            needs="onnxruntime",
        )
    )
    gpu_engines = (("onnx", "fp16"), ("tensorrt", "fp16"), ("tensorrt", "bf16"))
    own += [
        EncodeProvider(
            name=f"{to}-{precision}",
            make=engine(to, precision),
            precision=precision,
            own=True,
            device="cuda",
            needs={"onnx": "onnxruntime"}.get(to, to),
        )
        for to, precision in gpu_engines
    ]
    return own


def _experiments() -> list[EncodeProvider]:
    """The compiled encoder with one thing changed, to see whether that is worth keeping."""

    def changed(change: Callable[[FusedEncoder], int], precision: str) -> Make:
        def make(name: str, weights: Path, device: str, batch_size: int) -> Encode:
            truth = load_seeded(name, device, "fp32", weights)
            encoder = CompiledEncoder(truth, precision=precision, batch_size=batch_size)
            assert isinstance(encoder.module, FusedEncoder)
            change(encoder.module)
            return encoder

        return make

    return [
        EncodeProvider(
            name="compile-bf16-attention257",
            make=changed(use_attend, "bf16"),
            precision="bf16",
            device="cuda",
            note="experiment: bench/attention.py in every block but the last",
        ),
        EncodeProvider(
            name="compile-bf16-float8",
            make=changed(use_float8, "bf16"),
            precision="fp8",
            device="cuda",
            note="experiment: e4m3 linear layers, bench/fp8.py",
        ),
    ]
