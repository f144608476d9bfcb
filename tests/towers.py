"""Seeded towers for tests: random weights with which a parity test can fail.

A tower as its library initialises it is useless here. timm starts DINOv2's LayerScale at 1e-5, so
the blocks hardly change anything, and pairs of images come out with cosines near 1. These are
drawn so that cosines spread like a trained encoder's and every block matters: attention sharp
enough to depend on the image, residual updates as large as what they are added to.

    D width, L tokens
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors.torch
import torch
from PIL import Image

from miner.crops import CropSpec
from miner.encoders import EncoderRecord

CLIP_CONFIG: dict[str, Any] = {
    "embed_dim": 48,
    "quick_gelu": True,
    "vision_cfg": {
        "image_size": 64,
        "patch_size": 8,
        "width": 64,
        "layers": 4,
        "head_width": 16,
    },
    "text_cfg": {"context_length": 8, "vocab_size": 32, "width": 16, "heads": 2, "layers": 1},
}
"""A CLIP with all the parts of ViT-L-14-quickgelu, 1,500 times smaller."""

DINO_CONFIG: dict[str, Any] = {
    "img_size": 56,
    "patch_size": 7,
    "embed_dim": 64,
    "depth": 4,
    "num_heads": 4,
    "init_values": 1.0,
    "num_classes": 0,
}
"""A DINOv2 with all the parts of vit_large_patch14_dinov2, 1,500 times smaller."""

# Gains: the standard deviation of a linear map's output where its input has unit variance.
_PATCH = 3.0
_QUERY_KEY = 1.0
_VALUE = 1.5
_RESIDUAL = 0.5
_TOKEN_STD = 0.3


def clip_record(name: str = "small-clip", **changes: Any) -> EncoderRecord:
    """The record of a tower written by `write_clip_weights(path)`."""
    fields: dict[str, Any] = {
        "name": name,
        "library": "open_clip",
        "model": "CLIP",
        "weights": "seeded",
        "config": CLIP_CONFIG,
        "crop": CropSpec(mode="shortest", resize_to=64, size=64),
        "mean": (0.48145466, 0.4578275, 0.40821073),
        "std": (0.26862954, 0.26130258, 0.27577711),
        "pooling": "clip_projection",
        "activation": "quick_gelu",
        "dim": 48,
        "licence": "none",
    }
    return EncoderRecord(**fields | changes)


def dino_record(name: str = "small-dino", **changes: Any) -> EncoderRecord:
    """The record of a tower written by `write_dino_weights(path)`."""
    fields: dict[str, Any] = {
        "name": name,
        "library": "timm",
        "model": "VisionTransformer",
        "weights": "seeded",
        "config": DINO_CONFIG,
        "crop": CropSpec(mode="shortest", resize_to=64, size=56),
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "pooling": "cls",
        "position_embedding": "hub",
        "dim": 64,
        "licence": "none",
    }
    return EncoderRecord(**fields | changes)


def write_clip_weights(
    path: Path,
    model: str | dict[str, Any] = CLIP_CONFIG,
    *,
    seed: int = 0,
    layout: Literal["full", "visual"] = "full",
    dtype: torch.dtype = torch.float16,
) -> Path:
    """Write a seeded CLIP as safetensors.

    Args:
        path: the file to write.
        model: a model name of open_clip, or the arguments of `open_clip.CLIP`.
        seed: of all random numbers.
        layout: `full` with the text tower, `visual` the image tower alone, without a prefix.
        dtype: in which the weights are stored.
    """
    import open_clip

    config = open_clip.get_model_config(model) if isinstance(model, str) else model
    with torch.device("meta"):
        clip = open_clip.CLIP(**config)
    tower = clip if layout == "full" else clip.visual
    return _write(path, _draw(tower.state_dict(), seed, dtype))


def write_dino_weights(
    path: Path,
    model: str | dict[str, Any] = DINO_CONFIG,
    *,
    seed: int = 0,
    grid: int | None = None,
    layout: Literal["timm", "hub"] = "timm",
    dtype: torch.dtype = torch.float16,
) -> Path:
    """Write a seeded DINOv2 as safetensors.

    Args:
        path: the file to write.
        model: a model name of timm, or the arguments of timm's `VisionTransformer`.
        seed: of all random numbers.
        grid: patches to a side of the stored position embedding; default: the model's own.
        layout: timm's names, or those of the DINOv2 hub (mask_token, register_tokens).
        dtype: in which the weights are stored.
    """
    import timm
    from timm.models.vision_transformer import VisionTransformer

    with torch.device("meta"):
        if isinstance(model, str):
            tower = timm.create_model(model, pretrained=False, num_classes=0)
        else:
            tower = VisionTransformer(**model)
    shapes = tower.state_dict()
    if "pos_embed" not in shapes:
        # DINOv3 has rotary positions.
        return _write(path, _draw(shapes, seed, dtype))
    num_prefix = shapes["pos_embed"].shape[1] - tower.patch_embed.num_patches
    width = shapes["pos_embed"].shape[2]
    if layout == "hub":
        num_prefix = 1
        shapes["mask_token"] = torch.empty(1, width, device="meta")
        if "reg_token" in shapes:
            shapes["register_tokens"] = shapes.pop("reg_token")
    side = grid or math.isqrt(tower.patch_embed.num_patches)
    shapes["pos_embed"] = torch.empty(1, num_prefix + side**2, width, device="meta")
    return _write(path, _draw(shapes, seed, dtype))


def write_large_weights(record: EncoderRecord, path: Path) -> Path:
    """Write the seeded image tower of a record of the registry, at its full size."""
    if record.library == "open_clip":
        return write_clip_weights(path, record.model, layout="visual")
    return write_dino_weights(path, f"{record.model}.{record.weights}")


def scenes(number: int, seed: int = 0) -> list[Image.Image]:
    """Images of many sizes and shapes whose spectrum falls as a photograph's does."""
    generator = np.random.default_rng(seed)
    images = []
    for _ in range(number):
        width, height = generator.integers(60, 200, 2).tolist()
        total_HWC = np.zeros((height, width, 3))
        for cells in (1, 2, 4, 8, 16):
            noise = generator.normal(0, 200 / cells**0.5, (cells, cells, 3))
            layer = Image.fromarray(np.clip(noise + 128, 0, 255).astype(np.uint8))
            total_HWC += np.asarray(layer.resize((width, height), Image.Resampling.BICUBIC)) - 128.0
        images.append(Image.fromarray(np.clip(total_HWC + 128, 0, 255).astype(np.uint8)))
    return images


def _write(path: Path, state: dict[str, torch.Tensor]) -> Path:
    safetensors.torch.save_file(state, path)
    return path


def _draw(
    shapes: dict[str, torch.Tensor], seed: int, dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """Random tensors for a state dict's names and shapes, in the order of the names."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name in sorted(shapes):
        shape = shapes[name].shape
        state[name] = _draw_one(name, shape, generator).to(dtype)
    return state


def _draw_one(name: str, shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
    noise = torch.randn(shape, generator=generator)
    fan_in = math.prod(shape[1:])
    if "gamma" in name or (("norm" in name or "ln_" in name) and name.endswith("weight")):
        return noise.mul_(0.1).add_(1)
    if name.endswith("bias"):
        return noise.mul_(0.05)
    if name.endswith(("in_proj_weight", "qkv.weight")):
        num_query_key = 2 * shape[0] // 3
        noise[:num_query_key].mul_(_QUERY_KEY / fan_in**0.5)
        noise[num_query_key:].mul_(_VALUE / fan_in**0.5)
        return noise
    if name.endswith(("conv1.weight", "patch_embed.proj.weight")):
        return noise.mul_(_PATCH / fan_in**0.5)
    if name.endswith(("out_proj.weight", "attn.proj.weight", "c_proj.weight", "fc2.weight")):
        return noise.mul_(_RESIDUAL / fan_in**0.5)
    if name.endswith(("c_fc.weight", "fc1.weight")):
        return noise.mul_(1.5 / fan_in**0.5)
    if name.endswith("proj"):
        return noise.mul_(shape[0] ** -0.5)
    return noise.mul_(_TOKEN_STD)
