"""Encoders in plain torch: the truth that every engine is compared with.

An encoder is a record (`miner.registry`) and a file of weights (`miner.weights`). Its tower is
built by open_clip or timm; what goes in and what comes out is decided here.

    B images, L tokens, D dimensions; C, H, W channels, rows, columns
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image

from miner.crops import cut
from miner.errors import ResourceError
from miner.images import rgb
from miner.libraries import build_tower, check_activation, open_clip_record, timm_record
from miner.registry import REGISTRY, EncoderRecord
from miner.weights import fit_state, locate

__all__ = [
    "REGISTRY",
    "Encoder",
    "EncoderModule",
    "EncoderRecord",
    "TorchEncoder",
    "check_pixels",
    "find_device",
    "find_dtype",
    "find_record",
    "load_encoder",
    "locate",
]

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Number formats in which a tower may compute, by their short names."""

BF16_DEVIATION = 5e-3
"""What bfloat16 may move a pair's cosine by where no parity check has measured it."""


class Encoder(Protocol):
    """What turns pixels into vectors: `TorchEncoder`, or an engine that was proven equal to it.

    Attributes:
        record: what decides its vectors, the weights' hash included.
        encoder_id: the record's.
        dim: length of a vector.
        device: where it computes.
        backend: torch, compile, onnx or tensorrt.
        precision: fp32, bf16 or fp16, in which the tower computes.
        deviation: how far a pair's cosine may be from that of `TorchEncoder` in fp32.
    """

    record: EncoderRecord
    encoder_id: str
    dim: int
    device: torch.device
    backend: str
    precision: str
    deviation: float

    def __call__(self, pixels_BCHW: torch.Tensor) -> torch.Tensor:
        """[B, 3, S, S] uint8 on any device to [B, dim] float32, rows of unit length."""
        ...


class EncoderModule(torch.nn.Module):
    """Pixels to unit vectors as one module, which is what engines are made from.

    Normalisation of the pixels and of the vectors is float32; the tower computes in its own type.
    """

    mean_C11: torch.Tensor
    std_C11: torch.Tensor

    def __init__(self, record: EncoderRecord, tower: torch.nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.pooling = record.pooling
        self.dtype = dtype
        self.tower: Any = tower.to(dtype)
        for name, values in (("mean_C11", record.mean), ("std_C11", record.std)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    def forward(self, pixels_BCHW: torch.Tensor) -> torch.Tensor:
        """[B, 3, S, S] uint8 to [B, D] float32, rows of unit length."""
        inputs_BCHW = (pixels_BCHW.float() / 255 - self.mean_C11) / self.std_C11
        vectors_BD = self._pooled(inputs_BCHW.to(self.dtype))
        return torch.nn.functional.normalize(vectors_BD.float(), dim=-1)

    def _pooled(self, inputs_BCHW: torch.Tensor) -> torch.Tensor:
        if self.pooling in ("clip_projection", "library_default"):
            vectors_BD: torch.Tensor = self.tower(inputs_BCHW)
            return vectors_BD
        tokens_BLD: torch.Tensor = self.tower.forward_features(inputs_BCHW).float()
        cls_BD: torch.Tensor = tokens_BLD[:, 0]
        if self.pooling == "cls":
            return cls_BD
        mean_BD: torch.Tensor = tokens_BLD[:, self.tower.num_prefix_tokens :].mean(dim=1)
        return mean_BD if self.pooling == "mean_patch" else torch.cat([cls_BD, mean_BD], dim=-1)


class TorchEncoder:
    """An encoder with its weights on a device.

    Attributes:
        record: what decides its vectors, the weights' hash included.
        encoder_id: the record's.
        module: the computation, from uint8 pixels to unit vectors.
        dim: length of a vector.
        device: where it computes.
        dtype: in what the tower computes.
        backend: torch.
        precision: short name of the dtype.
        deviation: 0 in float32; else the most that may be expected until it is measured.
    """

    backend = "torch"

    def __init__(self, record: EncoderRecord, module: EncoderModule, device: torch.device) -> None:
        self.record = record
        self.encoder_id = record.encoder_id
        self.dim = record.dim
        self.device = device
        self.dtype = module.dtype
        self.precision = next(name for name, dtype in PRECISIONS.items() if dtype == self.dtype)
        self.deviation = 0.0 if self.dtype == torch.float32 else BF16_DEVIATION
        self.module = module.to(device).eval().requires_grad_(False)

    def preprocess(self, image: Image.Image) -> torch.Tensor:
        """An image as this encoder wants it: [3, S, S] uint8, resized by Pillow itself."""
        pixels_HWC = torch.from_numpy(np.array(rgb(image)))
        return cut(pixels_HWC, self.record.crop, reference=True)

    @torch.inference_mode()
    def __call__(self, pixels_BCHW: torch.Tensor) -> torch.Tensor:
        """Encode pixels.

        Args:
            pixels_BCHW: [B, 3, S, S] uint8 on any device, S being the record's image size.

        Returns:
            [B, D] float32 on the encoder's device, rows of unit length.

        Raises:
            ValueError: the pixels have another type or shape.
        """
        check_pixels(self.record, pixels_BCHW)
        with _exact_convolution(self.device):
            vectors_BD: torch.Tensor = self.module(pixels_BCHW.to(self.device))
        return vectors_BD


def check_pixels(record: EncoderRecord, pixels_BCHW: torch.Tensor) -> None:
    """Refuse pixels that an encoder does not take.

    Raises:
        ValueError: they are not uint8 [B, 3, S, S], S being the record's image size.
    """
    wanted = [3, record.image_size, record.image_size]
    if (
        pixels_BCHW.dtype != torch.uint8
        or pixels_BCHW.ndim != 4
        or list(pixels_BCHW.shape[1:]) != wanted
    ):
        dtype = str(pixels_BCHW.dtype).removeprefix("torch.")
        raise ValueError(
            f"pixels are {dtype} {list(pixels_BCHW.shape)}, {record.name} wants uint8 "
            f"[B, {', '.join(map(str, wanted))}]; stack what its preprocess returns"
        )


def load_encoder(
    name: str | EncoderRecord,
    *,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = "float32",
    weights: str | Path | None = None,
) -> TorchEncoder:
    """Build an encoder and load its weights.

    Args:
        name: a registry name, `library:model:weights`, or a record.
        device: cpu, cuda or cuda:N.
        dtype: float32 (fp32), bfloat16 (bf16) or float16 (fp16), in which the tower computes.
        weights: safetensors file, or its URL and hash; default: bundled, or the hub's local
            cache, or the hub.

    Raises:
        ValueError: no such encoder, device or dtype, or a model with the wrong kind of weights.
        ResourceError: the weights or the device are missing, or the weights do not fit.
    """
    record = find_record(name) if isinstance(name, str) else name
    torch_dtype = find_dtype(dtype)
    torch_device = find_device(device)
    check_activation(record)
    record, path = locate(record, weights)
    # Without memory first: initial values would take seconds, and are thrown away.
    with torch.device("meta"):
        tower = build_tower(record)
    state = fit_state(record, path, tower)
    if any(name not in state for name, _ in tower.named_buffers()):
        # Computed buffers (rotary positions) are in no file.
        tower = build_tower(record)
    tower.load_state_dict(state, assign=True)
    return TorchEncoder(record, EncoderModule(record, tower, torch_dtype), torch_device)


def find_record(name: str) -> EncoderRecord:
    """The record of a registry name, or of `library:model:weights`.

    The latter takes its preprocessing from the library's own settings for those weights.

    Raises:
        ValueError: nothing goes by that name, or its preprocessing is none that can be done.
    """
    if name in REGISTRY:
        return REGISTRY[name]
    library, *rest = name.split(":")
    if len(rest) == 2 and library in ("open_clip", "timm"):
        model, weights = rest
        return (open_clip_record if library == "open_clip" else timm_record)(model, weights)
    raise ValueError(
        f"no encoder is called {name!r}; give library:model:weights (library: open_clip or timm) "
        f"or one of {', '.join(sorted(REGISTRY))}"
    )


def find_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """The number format of a name.

    Raises:
        ValueError: it is none in which a tower may compute.
    """
    name = str(dtype).removeprefix("torch.")
    for short, found in PRECISIONS.items():
        if name in (short, str(found).removeprefix("torch.")):
            return found
    raise ValueError(f"dtype is {name}; give float32 (fp32), bfloat16 (bf16) or float16 (fp16)")


def find_device(device: str | torch.device) -> torch.device:
    """The device of a name.

    Raises:
        ValueError: it is none of cpu, cuda and cuda:N.
        ResourceError: torch sees no such device.
    """
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device is {device}; give cpu, cuda or cuda:N") from error
    if found.type not in ("cpu", "cuda"):
        raise ValueError(f"device is {device}; give cpu, cuda or cuda:N")
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise ResourceError(
            f"device {device} is not there: torch {torch.__version__} sees "
            f"{torch.cuda.device_count()} CUDA devices; use --device cpu, or check the driver "
            "(nvidia-smi) and that torch is a CUDA build"
        )
    return found


def _exact_convolution(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """On a GPU, convolutions of float32 in float32: cuDNN takes TF32 by default."""
    if device.type == "cpu":
        return contextlib.nullcontext()
    return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
