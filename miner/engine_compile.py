"""An encoder by torch.compile: fused forward, one batch size, on a GPU one CUDA graph.

Inductor is told to be deterministic: it takes no choice by timing that changes a sum's order, so
that a run that was killed and goes on gives the same vectors. Matrix products stay with the
vendor's libraries.

B images, D dimensions; C, H, W channels, rows, columns
"""

from __future__ import annotations

import copy
import logging
import os
import shutil
from collections.abc import Callable

import torch

from miner.encoders import PRECISIONS, EncoderModule, TorchEncoder
from miner.engines import FixedBatch
from miner.errors import ResourceError
from miner.fused import FusedEncoder
from miner.vit_parts import UnknownTowerError, vit_parts

log = logging.getLogger(__name__)

_WARM_UPS = 3
"""Calls before a CUDA graph is captured, in which libraries choose and allocate."""

Forward = Callable[[torch.Tensor], torch.Tensor]


class CompiledEncoder(FixedBatch):
    """An encoder compiled for one batch size, at its first call.

    Args:
        truth: the encoder in float32, whose weights are taken.
        precision: fp32, bf16 or fp16.
        batch_size: images that are computed at a time.

    Attributes:
        module: what is compiled.

    Raises:
        ValueError: the encoder is not in float32.
        ResourceError: there is no compiler for what torch.compile writes.
    """

    backend = "compile"

    def __init__(self, truth: TorchEncoder, *, precision: str, batch_size: int) -> None:
        if truth.dtype != torch.float32:
            raise ValueError(
                f"{truth.record.name} is in {truth.precision}; load it in fp32, and name the "
                "precision that it is to be compiled in"
            )
        check_compiler()
        super().__init__(truth.record, truth.device, precision=precision, batch_size=batch_size)
        if precision not in PRECISIONS:
            raise ValueError(f"precision is {precision}; give one of {', '.join(PRECISIONS)}")
        self.module = inference_module(truth, PRECISIONS[precision])
        self._forward: Forward | None = None

    def resize(self, batch_size: int) -> None:
        """Compute this many images at a time from now on; compiles anew."""
        super().resize(batch_size)
        self._forward = None

    def _encode(self, pixels_BCHW: torch.Tensor) -> torch.Tensor:
        if self._forward is None:
            self._forward = self._compile()
        return self._forward(pixels_BCHW)

    def _compile(self) -> Forward:
        """The module for this batch size; on a CPU compiled when it is first called."""
        compiled = torch.compile(
            self.module, dynamic=False, fullgraph=True, options={"deterministic": True}
        )
        size = self.record.image_size
        # One tensor for all calls: another kind of tensor would be compiled for anew.
        pixels_BCHW = torch.zeros(
            (self.batch_size, 3, size, size), dtype=torch.uint8, device=self.device
        )
        if self.device.type == "cpu":
            return lambda given_BCHW: compiled(pixels_BCHW.copy_(given_BCHW))
        return _graph(compiled, pixels_BCHW)


def _graph(compiled: Forward, pixels_BCHW: torch.Tensor) -> Forward:
    """A CUDA graph of one call: pixels are copied in, the graph runs, vectors are copied out."""
    with torch.cuda.device(pixels_BCHW.device):
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UPS):
                compiled(pixels_BCHW)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            vectors_BD = compiled(pixels_BCHW)

    def replay(given_BCHW: torch.Tensor) -> torch.Tensor:
        pixels_BCHW.copy_(given_BCHW, non_blocking=True)
        graph.replay()
        # The next call writes over the graph's own.
        return vectors_BD.clone()

    return replay


def inference_module(truth: TorchEncoder, dtype: torch.dtype) -> torch.nn.Module:
    """An encoder's computation in a number format: fused where its tower's parts are known.

    Args:
        truth: the encoder in float32; its weights are shared or copied, never changed.
        dtype: float32, bfloat16 or float16.
    """
    try:
        return FusedEncoder(truth.record, vit_parts(truth.module), dtype).to(truth.device)
    except UnknownTowerError as error:
        log.info("%s is compiled as its library writes it: %s", truth.record.name, error)
    copied = EncoderModule(truth.record, copy.deepcopy(truth.module.tower), dtype)
    return copied.to(truth.device).eval().requires_grad_(False)


def check_compiler() -> None:
    """Refuse where torch.compile would find no C++ compiler.

    Raises:
        ResourceError: there is none.
    """
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise ResourceError(
            f"torch.compile needs a C++ compiler, and {compiler} is not there; install g++ (or "
            "set CXX to one), or use --backend torch"
        )
