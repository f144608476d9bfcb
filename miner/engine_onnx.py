"""An encoder computed by ONNX Runtime, on the CPU or with CUDA.

ONNX Runtime moves work to the CPU in silence, a whole session or single nodes. Here both are
looked up after loading, and refused; nodes of operators that compute shapes may stay there.

    B images, D dimensions; C, H, W channels, rows, columns
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from miner.encoders import check_pixels
from miner.errors import EngineError, ResourceError
from miner.registry import EncoderRecord
from miner.streams import in_order

INPUT = "pixels"
"""Name of a graph's input: [B, 3, S, S] uint8."""

OUTPUT = "vectors"
"""Name of a graph's output: [B, D] float32, rows of unit length."""

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}

_SHAPES_ONLY = {"Shape", "Gather", "Concat", "Unsqueeze", "Squeeze", "Slice", "Cast", "Constant"}
"""Operators with which graphs compute shapes, which ONNX Runtime keeps on the CPU whatever the
provider. They are told apart by name alone: one of them that strayed with pixels in it would slow a
run down and not be refused; its vectors would be held against the truth all the same."""

_NO_MEMORY = ("out of memory", "failed to allocate", "bad_alloc", "bad allocation")
"""Words of which one is in every message of ONNX Runtime about a lack of memory."""


class OnnxEncoder:
    """An encoder as a session of ONNX Runtime; an `Encoder`.

    Attributes:
        record: what decides its vectors, the weights' hash included.
        encoder_id: the record's.
        dim: length of a vector.
        device: where it computes.
        backend: onnx.
        precision: fp32 or fp16.
        deviation: how far a pair's cosine may be from that of `TorchEncoder` in fp32.
    """

    backend = "onnx"

    def __init__(
        self,
        record: EncoderRecord,
        graph: Path,
        *,
        device: torch.device,
        precision: str,
        deviation: float,
    ) -> None:
        """Load a graph that `export.to_onnx` wrote.

        Raises:
            ValueError: ONNX Runtime does not compute this precision.
            ResourceError: it does not use the device.
            EngineError: the graph is another encoder's, or of another precision.
        """
        check_precision(precision)
        self.record = record
        self.encoder_id = record.encoder_id
        self.dim = record.dim
        self.device = device
        self.precision = precision
        self.deviation = deviation
        self._stream = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            # With its number, where it had none.
            self.device = self._stream.device
        self._session = _open(graph, precision, self.device, self._stream)
        check_provider(self._session, PROVIDERS[device.type])
        _check_graph(self, graph, self._session.get_modelmeta().custom_metadata_map)

    @property
    def num_threads(self) -> int:
        """CPU threads that compute one node together."""
        return int(self._session.get_session_options().intra_op_num_threads)

    @torch.inference_mode()
    def __call__(self, pixels_BCHW: torch.Tensor) -> torch.Tensor:
        """[B, 3, S, S] uint8 on any device to [B, dim] float32, rows of unit length.

        Raises:
            ValueError: the pixels have another type or shape.
            torch.OutOfMemoryError: there is no memory for such a batch.
            EngineError: ONNX Runtime failed otherwise.
        """
        check_pixels(self.record, pixels_BCHW)
        pixels_BCHW = pixels_BCHW.to(self.device).contiguous()
        vectors_BD = torch.empty(len(pixels_BCHW), self.dim, device=self.device)
        if len(pixels_BCHW) == 0:
            return vectors_BD
        binding = self._bind(pixels_BCHW, vectors_BD)
        with nullcontext() if self._stream is None else in_order(self._stream):
            run_session(self._session, binding, len(pixels_BCHW))
        return vectors_BD

    def _bind(self, pixels_BCHW: torch.Tensor, vectors_BD: torch.Tensor) -> Any:
        """Input and output where torch has them, so that nothing is copied."""
        binding = self._session.io_binding()
        device, index = self.device.type, self.device.index or 0
        for bind, name, dtype, tensor in (
            (binding.bind_input, INPUT, np.uint8, pixels_BCHW),
            (binding.bind_output, OUTPUT, np.float32, vectors_BD),
        ):
            bind(name, device, index, dtype, tuple(tensor.shape), tensor.data_ptr())
        return binding


def run_session(session: Any, binding: Any, batch_size: int) -> None:
    """Compute a batch; on a GPU, its vectors are there when the session's stream has come to them.

    Raises:
        torch.OutOfMemoryError: there is no memory for such a batch.
        EngineError: ONNX Runtime failed otherwise.
    """
    import onnxruntime

    options = onnxruntime.RunOptions()
    # Without this every run on a GPU ends with the host waiting for it.
    options.add_run_config_entry("disable_synchronize_execution_providers", "1")
    try:
        session.run_with_iobinding(binding, options)
    # Its exceptions have no base of their own, and none for memory.
    except Exception as error:
        if any(words in str(error).lower() for words in _NO_MEMORY):
            raise torch.OutOfMemoryError(str(error)) from error
        raise EngineError(
            f"ONNX Runtime {onnxruntime.__version__} failed on a batch of {batch_size} ({error}); "
            "use --backend torch or compile"
        ) from error


def check_precision(precision: str) -> None:
    """Refuse what ONNX Runtime has no kernels for.

    Raises:
        ValueError: it is bfloat16.
    """
    if precision == "bf16":
        raise ValueError(
            "precision is bf16, for which ONNX Runtime has not all kernels; use --precision fp16 "
            "or fp32, or --backend torch, compile or tensorrt"
        )


def check_provider(session: Any, provider: str) -> None:
    """Refuse a session that does not compute where it was told to.

    Raises:
        ResourceError: it fell back to another provider, or some of its nodes did.
    """
    import onnxruntime

    found = session.get_providers()[0]
    if found != provider:
        raise ResourceError(
            f"ONNX Runtime {onnxruntime.__version__} computes with {found} instead of {provider}; "
            "check that onnxruntime-gpu fits the CUDA and cuDNN that are installed, or use "
            "--device cpu"
        )
    strayed = sorted(
        {
            node.op_type
            for part in session.get_provider_graph_assignment_info()
            if part.ep_name != provider
            for node in part.get_nodes()
        }
        - _SHAPES_ONLY
    )
    if strayed:
        raise ResourceError(
            f"ONNX Runtime {onnxruntime.__version__} has no kernels of {provider} for "
            f"{', '.join(strayed)} and would compute them elsewhere; use --backend compile, "
            "tensorrt or torch, or a newer onnxruntime-gpu"
        )


def _open(
    graph: Path, precision: str, device: torch.device, stream: torch.cuda.Stream | None
) -> Any:
    import onnxruntime

    levels = onnxruntime.GraphOptimizationLevel
    options = onnxruntime.SessionOptions()
    # With all of them, its optimiser crashes the process on float16 graphs of CLIP.
    options.graph_optimization_level = (
        levels.ORT_ENABLE_EXTENDED if precision == "fp16" else levels.ORT_ENABLE_ALL
    )
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    settings: dict[str, str] = {}
    if stream is not None:
        settings = {
            "device_id": str(device.index or 0),
            "user_compute_stream": str(stream.cuda_stream),
            # Else float32 products have TensorFloat's ten bits.
            "use_tf32": "0",
            "arena_extend_strategy": "kSameAsRequested",
            "cudnn_conv_algo_search": "HEURISTIC",
        }
    try:
        return onnxruntime.InferenceSession(
            str(graph), options, providers=[(PROVIDERS[device.type], settings)], enable_fallback=0
        )
    # Its exceptions have no base of their own.
    except Exception as error:
        raise EngineError(
            f"ONNX Runtime {onnxruntime.__version__} cannot load {graph} ({error}); remove it and "
            "export again"
        ) from error


def _check_graph(encoder: OnnxEncoder, graph: Path, named: Mapping[str, str]) -> None:
    wanted = {"encoder_id": encoder.encoder_id, "precision": encoder.precision}
    for name, value in wanted.items():
        if named.get(name) != value:
            raise EngineError(
                f"{graph} has {name} {named.get(name)}, wanted is {value}; export the right one"
            )
