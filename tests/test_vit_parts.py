"""Towers of both libraries come apart; what is unknown about one is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm
import torch
from timm.layers import activations
from torch import nn

from miner.encoders import REGISTRY, EncoderModule, TorchEncoder
from miner.libraries import build_tower
from miner.vit_parts import UnknownTowerError, quick_gelu, vit_parts
from tests.small import small_encoders
from tests.towers import dino_record

Harm = Callable[[Any], object]


@pytest.fixture
def encoders(tmp_path: Path) -> list[TorchEncoder]:
    return small_encoders(tmp_path)


def test_every_weight_is_a_part(encoders: list[TorchEncoder]) -> None:
    for encoder in encoders:
        parts = vit_parts(encoder.module)
        assert len(parts.blocks) == 4
        tensors = [parts.patch_DCHW, parts.prefix_PD, parts.position_LD]
        tensors += [t for t in (parts.patch_bias_D, parts.projection_DE) if t is not None]
        for norm in (parts.norm_pre, parts.norm):
            tensors += list(norm.parameters()) if norm else []
        for block in parts.blocks:
            tensors += [*block.norm_1.parameters(), *block.norm_2.parameters()]
            tensors += [t for t in (block.scale_1, block.scale_2) if t is not None]
            for linear in (block.qkv, block.out, block.up, block.down):
                tensors += [linear.weight] + ([] if linear.bias is None else [linear.bias])
        # The class token and its position have become one.
        num_weights = sum(p.numel() for p in encoder.module.tower.parameters()) - 64
        assert sum(tensor.numel() for tensor in tensors) == num_weights


def test_default_encoders_and_those_with_registers_are_known() -> None:
    for name in ("clip-vit-l-14", "clip-vit-l-14-336", "dinov2-vit-l-14", "dinov2-vit-l-14-reg"):
        record = REGISTRY[name]
        with torch.device("meta"):
            module = EncoderModule(record, build_tower(record), torch.float32)
        parts = vit_parts(module)
        assert len(parts.blocks) == 24
        assert len(parts.prefix_PD) == (5 if name.endswith("reg") else 1)
        assert len(parts.position_LD) == (record.image_size // 14) ** 2


@pytest.mark.parametrize("name", ["siglip-vit-b-16", "dinov3-vit-l-16"])
def test_other_architectures_are_named(name: str) -> None:
    record = REGISTRY[name]
    with torch.device("meta"):
        module = EncoderModule(record, build_tower(record), torch.float32)
    with pytest.raises(UnknownTowerError, match="in the place of VisionTransformer, which"):
        vit_parts(module)


def timm_module(pooling: str = "cls", **changes: Any) -> EncoderModule:
    record = dino_record(pooling=pooling)
    tower = timm.models.vision_transformer.VisionTransformer(**record.config | changes)
    return EncoderModule(record, tower, torch.float32)


@pytest.mark.parametrize(
    ("module", "what"),
    [
        (lambda: timm_module("library_default"), "timm's own pooling"),
        (lambda: timm_module(class_token=False, global_pool="avg"), "no class token"),
        (lambda: timm_module(dynamic_img_size=True), "images of any size"),
        (lambda: timm_module(pos_embed="none"), "no position embedding"),
        (lambda: timm_module(qk_norm=True), "LayerNorm in the place of Identity"),
        (lambda: timm_module(scale_mlp_norm=True), "LayerNorm in the place of Identity"),
        (
            lambda: timm_module(norm_layer="rmsnorm"),
            "RmsNorm in the place of a LayerNorm with weights",
        ),
        (lambda: timm_module(act_layer="relu"), "ReLU in the place of GELU"),
        (lambda: timm_module(mlp_layer=timm.layers.SwiGLU), "SwiGLU in the place of Mlp"),
        (lambda: timm_module(attn_layer="diff"), "DiffAttention in the place of Attention"),
    ],
)
def test_unknown_parts_of_timm_are_named(module: Callable[[], EncoderModule], what: str) -> None:
    with pytest.raises(UnknownTowerError, match=f"{what}.*, which the fused .*use --backend torch"):
        vit_parts(module())


def gate(tower: Any) -> None:
    tower.blocks[0].attn.gate = nn.Linear(64, 64)


def narrow(tower: Any) -> None:
    tower.blocks[0].attn.attn_dim = 32


def conv(tower: Any) -> None:
    tower.blocks[0].mlp.fc1 = nn.Conv2d(64, 256, 1)


def scale(tower: Any) -> None:
    tower.blocks[0].ls1 = nn.Dropout()


@pytest.mark.parametrize(
    ("harm", "what"),
    [
        (gate, "gated attention"),
        (narrow, "attention of another width"),
        (conv, "Conv2d in the place of Linear"),
        (scale, "Dropout in the place of LayerScale"),
    ],
)
def test_unknown_parts_of_timm_blocks_are_named(harm: Harm, what: str) -> None:
    module = timm_module()
    harm(module.tower)
    with pytest.raises(UnknownTowerError, match=what):
        vit_parts(module)


def test_unknown_parts_of_open_clip_are_named(encoders: list[TorchEncoder]) -> None:
    module = encoders[0].module
    tower, attention = module.tower, module.tower.transformer.resblocks[0].attn
    for owner, name, value, what in (
        (tower, "attn_pool", nn.Identity(), "an attention pool"),
        (tower, "pool_type", "avg", "pooling 'avg'"),
        (attention, "in_proj_weight", None, "keys or values of another width"),
        (attention, "add_zero_attn", True, "added keys"),
    ):
        before = getattr(owner, name)
        setattr(owner, name, value)
        with pytest.raises(UnknownTowerError, match=what):
            vit_parts(module)
        setattr(owner, name, before)
    vit_parts(module)


@pytest.mark.parametrize(
    "activation",
    [
        nn.GELU(),
        nn.GELU(approximate="tanh"),
        activations.GELU(),
        activations.GELUTanh(),
        activations.QuickGELU(),
        open_clip.transformer.QuickGELU(),
    ],
    ids=str,
)
def test_activations_are_those_of_the_libraries(activation: nn.Module) -> None:
    module = timm_module()
    module.tower.blocks[2].mlp.act = activation
    values = torch.linspace(-8, 8, 1000)
    ours = vit_parts(module).blocks[2].activation(values)
    torch.testing.assert_close(ours, activation(values), atol=1e-7, rtol=1e-6)


def test_quick_gelu_is_rounded_once() -> None:
    values = torch.linspace(-8, 8, 1000).bfloat16()
    exact = values.double() * torch.sigmoid(1.702 * values.double())
    torch.testing.assert_close(quick_gelu(values), exact.bfloat16(), atol=0, rtol=0)
