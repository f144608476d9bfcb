"""An encoder computed by TensorRT, or by TensorRT for RTX: two packages with one API.

Which of them is named by whoever asks, never found out: an engine of one is no engine of the other.

    B images, D dimensions; C, H, W channels, rows, columns
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Literal

import torch

from miner.encoders import check_pixels
from miner.engine_onnx import INPUT, OUTPUT
from miner.errors import EngineError, ResourceError
from miner.registry import EncoderRecord
from miner.streams import in_order

log = logging.getLogger(__name__)

Flavour = Literal["tensorrt", "tensorrt-rtx"]
"""TensorRT, or TensorRT for RTX."""

_NO_MEMORY = ("out of memory", "outofmemory", "could not be allocated", "failed to allocate")
"""Words of which one is in its messages about a lack of memory."""


class TensorRTEncoder:
    """An encoder as an engine of TensorRT; an `Encoder`.

    Its working memory is that of the largest batch, taken when it is loaded: where that fails, an
    engine for a smaller --batch-size has to be built. A batch that does not fit later is halved as
    everybody's is.

    Attributes:
        record: what decides its vectors, the weights' hash included.
        encoder_id: the record's.
        dim: length of a vector.
        device: the GPU on which it computes.
        backend: tensorrt or tensorrt-rtx, its flavour.
        precision: fp32, bf16 or fp16.
        deviation: how far a pair's cosine may be from that of `TorchEncoder` in fp32.
        max_batch: images that the engine takes at once; more are taken in turns.
    """

    def __init__(
        self,
        record: EncoderRecord,
        engine: Path,
        *,
        flavour: Flavour,
        device: torch.device,
        precision: str,
        max_batch: int,
        deviation: float,
    ) -> None:
        """Load an engine that `export.to_tensorrt` built; engines run code, load only your own.

        Raises:
            ResourceError: the device or the package is missing.
            EngineError: it is no engine for this package and GPU, or another encoder's.
        """
        check_gpu(device)
        self.record = record
        self.encoder_id = record.encoder_id
        self.dim = record.dim
        self.backend: str = flavour
        self.precision = precision
        self.deviation = deviation
        self.max_batch = max_batch
        trt = load_flavour(flavour)
        with torch.cuda.device(device):
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            # With its number, where it had none.
            self.device: torch.device = self._stream.device
            self._messages = Messages(trt)
            # Both have to live as long as the context.
            self._runtime = trt.Runtime(self._messages.logger)
            self._engine = load_engine(self._runtime, engine, self._messages)
            check_engine(trt, self._engine, engine, record, max_batch)
            self._context = open_context(self._engine, engine, self._messages)

    @torch.inference_mode()
    def __call__(self, pixels_BCHW: torch.Tensor) -> torch.Tensor:
        """[B, 3, S, S] uint8 on any device to [B, dim] float32, rows of unit length.

        Raises:
            ValueError: the pixels have another type or shape.
            torch.OutOfMemoryError: there is no memory for such a batch.
            EngineError: TensorRT refused to compute otherwise.
        """
        check_pixels(self.record, pixels_BCHW)
        pixels_BCHW = pixels_BCHW.to(self.device, non_blocking=True).contiguous()
        vectors_BD = torch.empty(len(pixels_BCHW), self.dim, device=self.device)
        with torch.cuda.device(self.device), in_order(self._stream):
            for start in range(0, len(pixels_BCHW), self.max_batch):
                batch = slice(start, start + self.max_batch)
                enqueue(
                    self._context,
                    self._stream.cuda_stream,
                    pixels_BCHW[batch],
                    vectors_BD[batch],
                    self._messages,
                )
        return vectors_BD


class Messages:
    """What TensorRT says: passed on to logging, and kept for our own errors.

    Attributes:
        logger: the object that TensorRT wants.
    """

    def __init__(self, trt: Any) -> None:
        errors: list[str] = []
        levels = {
            trt.ILogger.INTERNAL_ERROR: logging.DEBUG,
            trt.ILogger.ERROR: logging.DEBUG,
            trt.ILogger.WARNING: logging.INFO,
        }

        class Logger(trt.ILogger):  # type: ignore[misc]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, text: str) -> None:
                if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                    errors.append(text)
                # Errors become exceptions of ours, so nobody has to see them twice.
                log.log(levels.get(severity, logging.DEBUG), "TensorRT: %s", text)

        self.logger = Logger()
        self._errors = errors

    def forget(self) -> None:
        """Let no earlier error explain a later failure."""
        self._errors.clear()

    def last(self) -> str:
        """The error that was reported last."""
        return self._errors[-1].strip() if self._errors else "it gave no reason"


def load_flavour(flavour: Flavour) -> Any:
    """The module of a flavour of TensorRT.

    Raises:
        ResourceError: it is not installed, or cannot be imported.
    """
    try:
        if flavour == "tensorrt":
            import tensorrt

            return tensorrt
        import tensorrt_rtx_bindings

        return tensorrt_rtx_bindings
    except ImportError as error:
        raise ResourceError(
            f'{flavour} cannot be imported ({error}); pip install "blindpairs[{flavour}]"'
        ) from error


def check_gpu(device: torch.device) -> None:
    """Refuse a device on which no engine can run.

    Raises:
        ValueError: it is no GPU.
        ResourceError: torch sees no such GPU.
    """
    if device.type != "cuda":
        raise ValueError(f"device is {device}, and TensorRT runs on GPUs; use --device cuda")
    if (device.index or 0) >= torch.cuda.device_count():
        raise ResourceError(
            f"device {device} is not there: torch {torch.__version__} sees "
            f"{torch.cuda.device_count()} CUDA devices; use --backend onnx --device cpu"
        )


def load_engine(runtime: Any, engine: Path, messages: Messages) -> Any:
    """An engine from its file, on the current GPU.

    Raises:
        EngineError: it was built by another version or for another GPU, or is damaged.
    """
    loaded = runtime.deserialize_cuda_engine(engine.read_bytes())
    if loaded is None:
        raise EngineError(
            f"{engine} cannot be loaded ({messages.last()}); remove it and export again"
        )
    return loaded


def check_engine(
    trt: Any, loaded: Any, engine: Path, record: EncoderRecord, max_batch: int
) -> None:
    """Refuse an engine whose input, output or largest batch are not those of a record.

    Raises:
        EngineError: they differ.
    """
    size = record.image_size
    wanted = {
        INPUT: (trt.uint8, (-1, 3, size, size)),
        OUTPUT: (trt.float32, (-1, record.dim)),
    }
    names = [loaded.get_tensor_name(index) for index in range(loaded.num_io_tensors)]
    found = {
        name: (loaded.get_tensor_dtype(name), tuple(loaded.get_tensor_shape(name)))
        for name in names
    }
    largest = loaded.get_tensor_profile_shape(INPUT, 0)[2][0] if INPUT in names else 0
    if found != wanted or largest != max_batch:
        raise EngineError(
            f"{engine} takes and gives {found} for up to {largest} images, {record.name} needs "
            f"{wanted} for {max_batch}; remove it and export again"
        )


def open_context(loaded: Any, engine: Path, messages: Messages) -> Any:
    """What an engine computes in: its working memory on the GPU.

    Raises:
        EngineError: there is no memory for it.
    """
    context = loaded.create_execution_context()
    if context is None:
        raise EngineError(
            f"{engine}: TensorRT cannot prepare to run it ({messages.last()}); give a smaller "
            "--batch-size"
        )
    return context


def enqueue(
    context: Any,
    stream_handle: int,
    pixels_BCHW: torch.Tensor,
    vectors_BD: torch.Tensor,
    messages: Messages,
) -> None:
    """Put a batch on a stream; vectors are there when the stream has come to them.

    Raises:
        torch.OutOfMemoryError: there is no memory for such a batch.
        EngineError: TensorRT refused the batch otherwise.
    """
    messages.forget()
    done = (
        context.set_input_shape(INPUT, tuple(pixels_BCHW.shape))
        and context.set_tensor_address(INPUT, pixels_BCHW.data_ptr())
        and context.set_tensor_address(OUTPUT, vectors_BD.data_ptr())
        and context.execute_async_v3(stream_handle)
    )
    if not done:
        if any(words in messages.last().lower() for words in _NO_MEMORY):
            raise torch.OutOfMemoryError(messages.last())
        raise EngineError(
            f"TensorRT refused a batch of {len(pixels_BCHW)} ({messages.last()}); give a smaller "
            "--batch-size, or use --backend compile"
        )
