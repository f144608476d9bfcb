"""What a vision transformer is made of, whichever library built it.

open_clip and timm name and nest the same parts differently. `vit_parts` finds them, and checks
that there is nothing beside them: a part that is overlooked would be a wrong vector.

    D width, P prefix tokens (class token, registers), L patches, E dimensions of the projection;
    C, H, W channels, rows, columns of a patch
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from miner.encoders import EncoderModule

Activation = Callable[[torch.Tensor], torch.Tensor]


class UnknownTowerError(ValueError):
    """A tower has a part that is not known here."""


@dataclass(frozen=True, kw_only=True)
class LinearParts:
    """A linear map: weight [out, in], and its bias where it has one."""

    weight: torch.Tensor
    bias: torch.Tensor | None


@dataclass(frozen=True, kw_only=True)
class BlockParts:
    """One block: x + scale_1 * attention(norm_1(x)), then x + scale_2 * mlp(norm_2(x)).

    Attributes:
        norm_1: before the attention.
        qkv: queries, keys and values, in this order, each [D, D].
        out: what follows the attention.
        scale_1: [D] LayerScale, or None.
        norm_2: before the MLP.
        up: [hidden, D].
        activation: between the MLP's two maps.
        down: [D, hidden].
        scale_2: [D] LayerScale, or None.
    """

    norm_1: nn.LayerNorm
    qkv: LinearParts
    out: LinearParts
    scale_1: torch.Tensor | None
    norm_2: nn.LayerNorm
    up: LinearParts
    activation: Activation
    down: LinearParts
    scale_2: torch.Tensor | None


@dataclass(frozen=True, kw_only=True)
class VitParts:
    """A vision transformer that normalises before each step.

    Attributes:
        patch_DCHW: the patch embedding's kernel.
        patch_bias_D: its bias, or None.
        prefix_PD: class token first, then registers, with their positions.
        position_LD: of the patches.
        num_heads: of each attention.
        norm_pre: before the first block, or None.
        blocks: in their order.
        norm: after the last one.
        projection_DE: from the class token to the vector, or None.
    """

    patch_DCHW: torch.Tensor
    patch_bias_D: torch.Tensor | None
    prefix_PD: torch.Tensor
    position_LD: torch.Tensor
    num_heads: int
    norm_pre: nn.LayerNorm | None
    blocks: list[BlockParts]
    norm: nn.LayerNorm
    projection_DE: torch.Tensor | None


def quick_gelu(values: torch.Tensor) -> torch.Tensor:
    """OpenAI's approximation of GELU, rounded once, as torch's own GELU is.

    One expression, which a compiler fuses: between its steps nothing goes through memory.
    """
    wide = values.float()
    return (wide * torch.sigmoid(1.702 * wide)).to(values.dtype)


def vit_parts(module: EncoderModule) -> VitParts:
    """Take an encoder's tower apart.

    Raises:
        UnknownTowerError: the tower has parts, or a pooling, that are not known here.
    """
    if module.pooling == "clip_projection":
        return _from_open_clip(module.tower)
    _demand(module.pooling != "library_default", "timm's own pooling")
    return _from_timm(module.tower, needs_cls=module.pooling != "mean_patch")


def _from_open_clip(tower: Any) -> VitParts:
    from open_clip.transformer import ResidualAttentionBlock, VisionTransformer

    _demand_type(tower, VisionTransformer)
    _demand(tower.attn_pool is None, "an attention pool")
    _demand(tower.pool_type == "tok", f"pooling {tower.pool_type!r}")
    prefix_1D = (tower.class_embedding + tower.positional_embedding[0])[None]
    blocks = []
    for block in tower.transformer.resblocks:
        _demand_type(block, ResidualAttentionBlock)
        attention, mlp = block.attn, block.mlp
        _demand_type(attention, nn.MultiheadAttention)
        _demand(attention.in_proj_weight is not None, "keys or values of another width")
        _demand(attention.bias_k is None and not attention.add_zero_attn, "added keys")
        blocks.append(
            BlockParts(
                norm_1=_norm(block.ln_1),
                qkv=LinearParts(weight=attention.in_proj_weight, bias=attention.in_proj_bias),
                out=_linear(attention.out_proj),
                scale_1=_scale(block.ls_1),
                norm_2=_norm(block.ln_2),
                up=_linear(mlp.c_fc),
                activation=_activation(mlp.gelu),
                down=_linear(mlp.c_proj),
                scale_2=_scale(block.ls_2),
            )
        )
    return VitParts(
        patch_DCHW=tower.conv1.weight,
        patch_bias_D=tower.conv1.bias,
        prefix_PD=prefix_1D,
        position_LD=tower.positional_embedding[1:],
        num_heads=tower.transformer.resblocks[0].attn.num_heads,
        norm_pre=_optional_norm(tower.ln_pre),
        blocks=blocks,
        norm=_norm(tower.ln_post),
        projection_DE=tower.proj,
    )


def _from_timm(tower: Any, *, needs_cls: bool) -> VitParts:
    from timm.layers.attention import Attention
    from timm.layers.mlp import Mlp
    from timm.layers.patch_embed import PatchEmbed
    from timm.models.vision_transformer import Block, VisionTransformer

    _demand_type(tower, VisionTransformer)
    _demand_type(tower.patch_embed, PatchEmbed)
    _demand_type(tower.patch_embed.norm, nn.Identity)
    _demand(not needs_cls or tower.cls_token is not None, "no class token")
    _demand(tower.pos_embed is not None, "no position embedding")
    _demand(not tower.dynamic_img_size, "images of any size")
    blocks = []
    for block in tower.blocks:
        _demand_type(block, Block)
        attention, mlp = block.attn, block.mlp
        _demand_type(attention, Attention)
        _demand_type(mlp, Mlp)
        _demand(attention.gate is None, "gated attention")
        _demand(attention.attn_dim == tower.embed_dim, "attention of another width")
        for extra in (attention.q_norm, attention.k_norm, attention.norm, mlp.norm):
            _demand_type(extra, nn.Identity)
        blocks.append(
            BlockParts(
                norm_1=_norm(block.norm1),
                qkv=_linear(attention.qkv),
                out=_linear(attention.proj),
                scale_1=_scale(block.ls1),
                norm_2=_norm(block.norm2),
                up=_linear(mlp.fc1),
                activation=_activation(mlp.act),
                down=_linear(mlp.fc2),
                scale_2=_scale(block.ls2),
            )
        )
    prefix_PD, position_LD = _timm_tokens(tower)
    return VitParts(
        patch_DCHW=tower.patch_embed.proj.weight,
        patch_bias_D=tower.patch_embed.proj.bias,
        prefix_PD=prefix_PD,
        position_LD=position_LD,
        num_heads=tower.blocks[0].attn.num_heads,
        norm_pre=_optional_norm(tower.norm_pre),
        blocks=blocks,
        norm=_norm(tower.norm),
        projection_DE=None,
    )


def _timm_tokens(tower: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Prefix tokens with their positions, and the patches' positions."""
    there = [token[0] for token in (tower.cls_token, tower.reg_token) if token is not None]
    prefix_PD = torch.cat(there) if there else tower.pos_embed.new_empty(0, tower.embed_dim)
    position_LD = tower.pos_embed[0]
    if not tower.no_embed_class:
        prefix_PD = prefix_PD + position_LD[: len(prefix_PD)]
        position_LD = position_LD[len(prefix_PD) :]
    return prefix_PD, position_LD


def _activation(module: nn.Module) -> Activation:
    from open_clip.transformer import QuickGELU
    from timm.layers import activations

    if isinstance(module, QuickGELU | activations.QuickGELU):
        return quick_gelu
    if isinstance(module, activations.GELU):
        return functional.gelu
    if isinstance(module, activations.GELUTanh):
        return partial(functional.gelu, approximate="tanh")
    if type(module) is not nn.GELU:
        raise UnknownTowerError(_has(f"{type(module).__name__} in the place of GELU"))
    return partial(functional.gelu, approximate=module.approximate)


def _norm(module: nn.Module) -> nn.LayerNorm:
    if not isinstance(module, nn.LayerNorm) or module.weight is None or module.bias is None:
        raise UnknownTowerError(
            _has(f"{type(module).__name__} in the place of a LayerNorm with weights")
        )
    return module


def _optional_norm(module: nn.Module) -> nn.LayerNorm | None:
    return None if isinstance(module, nn.Identity) else _norm(module)


def _linear(module: nn.Module) -> LinearParts:
    if not isinstance(module, nn.Linear):
        raise UnknownTowerError(_has(f"{type(module).__name__} in the place of Linear"))
    return LinearParts(weight=module.weight, bias=module.bias)


def _scale(module: Any) -> torch.Tensor | None:
    if isinstance(module, nn.Identity):
        return None
    name = type(module).__name__
    _demand(name == "LayerScale", f"{name} in the place of LayerScale")
    gamma_D: torch.Tensor = module.gamma
    return gamma_D


def _demand_type(module: Any, wanted: type) -> None:
    found = type(module).__name__
    _demand(type(module) is wanted, f"{found} in the place of {wanted.__name__}")


def _demand(condition: bool, otherwise: str) -> None:
    if not condition:
        raise UnknownTowerError(_has(otherwise))


def _has(what: str) -> str:
    return f"the tower has {what}, which the fused forward does not know; use --backend torch"
