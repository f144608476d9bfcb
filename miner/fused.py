"""An encoder's whole computation written for a compiler: from uint8 pixels to unit vectors.

The same function as `EncoderModule`, arranged so that little is left beside matrix products:

*   Pixels are normalised by the patch embedding itself. It takes (x - 128) / 128, which is exact
    in float16 and bfloat16, and its weights and positions take up the rest:
    ((x / 255) - mean) / std = ((x - 128) / 128) * scale + shift,
    scale = 128 / (255 * std), shift = (128 / 255 - mean) / std.
    scale is about 2, so that no weight becomes subnormal in float16. LayerScale is kept apart for
    the same reason: a weight times a small gamma would.
*   The patch embedding is a product over patches, not a convolution.
*   Where only the class token is pooled, the last block computes nothing for the other tokens but
    their keys and values.
*   What runs past the blocks and is added to, LayerNorm, the last projection and the unit length
    are float32; that halves what 16 bits do to a pair's cosine.

    B images, L tokens, D width, C, H, W channels, rows, columns; N heads, K width of a head
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from miner.registry import EncoderRecord
from miner.vit_parts import BlockParts, LinearParts, VitParts


class FusedEncoder(nn.Module):
    """Pixels to unit vectors, over the parts of a vision transformer.

    Args:
        record: mean, std and pooling.
        parts: float32 weights.
        dtype: of the operands of matrix products and of attention.
    """

    patch_DI: torch.Tensor
    position_LD: torch.Tensor
    prefix_PD: torch.Tensor
    projection_DE: torch.Tensor | None

    def __init__(self, record: EncoderRecord, parts: VitParts, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.pooling = record.pooling
        self.num_prefix = len(parts.prefix_PD)
        self.patch_size: int = parts.patch_DCHW.shape[-1]
        patch_DI, shift_D = _fold(record, parts)
        _keep(self, "patch_DI", patch_DI.to(dtype))
        _keep(self, "position_LD", (parts.position_LD.double() + shift_D).float())
        _keep(self, "prefix_PD", parts.prefix_PD.float())
        self.norm_pre = None if parts.norm_pre is None else _Norm(parts.norm_pre, torch.float32)
        self.blocks = nn.ModuleList(_Block(b, parts.num_heads, dtype) for b in parts.blocks)
        self.norm = _Norm(parts.norm, torch.float32)
        _keep(self, "projection_DE", parts.projection_DE)
        self.requires_grad_(False).eval()

    def forward(self, pixels_BCHW: torch.Tensor) -> torch.Tensor:
        """[B, 3, S, S] uint8 to [B, E] float32, rows of unit length."""
        tokens_BLD = self._embed(pixels_BCHW)
        for block in self.blocks[:-1]:
            tokens_BLD = block(tokens_BLD, tokens_BLD.shape[1])
        takes_cls_only = self.pooling in ("clip_projection", "cls")
        tokens_BLD = self.blocks[-1](tokens_BLD, 1 if takes_cls_only else tokens_BLD.shape[1])
        vectors_BD = self._pool(self.norm(tokens_BLD))
        if self.projection_DE is not None:
            vectors_BD = vectors_BD @ self.projection_DE
        return functional.normalize(vectors_BD, dim=-1)

    def _embed(self, pixels_BCHW: torch.Tensor) -> torch.Tensor:
        """[B, L, D] float32: prefix tokens, then patches, with their positions."""
        size, batch = self.patch_size, len(pixels_BCHW)
        rows, columns = (side // size for side in pixels_BCHW.shape[2:])
        inputs_BCHW = (pixels_BCHW.to(self.dtype) - 128) / 128
        patches_BLI = (
            inputs_BCHW[:, :, : rows * size, : columns * size]
            .reshape(batch, 3, rows, size, columns, size)
            .permute(0, 2, 4, 1, 3, 5)
            .reshape(batch, rows * columns, 3 * size * size)
        )
        patches_BLD = functional.linear(patches_BLI, self.patch_DI).float() + self.position_LD
        prefix_BPD = self.prefix_PD.expand(batch, -1, -1)
        tokens_BLD = torch.cat([prefix_BPD, patches_BLD], dim=1)
        return tokens_BLD if self.norm_pre is None else self.norm_pre(tokens_BLD)

    def _pool(self, tokens_BLD: torch.Tensor) -> torch.Tensor:
        cls_BD = tokens_BLD[:, 0]
        if self.pooling in ("clip_projection", "cls"):
            return cls_BD
        mean_BD = tokens_BLD[:, self.num_prefix :].mean(dim=1)
        return mean_BD if self.pooling == "mean_patch" else torch.cat([cls_BD, mean_BD], dim=-1)


class _Block(nn.Module):
    """Attention and MLP, each normalised before and added to its input."""

    scale_1: torch.Tensor | None
    scale_2: torch.Tensor | None

    def __init__(self, parts: BlockParts, num_heads: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention = functional.scaled_dot_product_attention
        self.norm_1 = _Norm(parts.norm_1, dtype)
        self.qkv = Linear(parts.qkv, dtype)
        self.out = Linear(parts.out, dtype)
        self.norm_2 = _Norm(parts.norm_2, dtype)
        self.up = Linear(parts.up, dtype)
        self.activation = parts.activation
        self.down = Linear(parts.down, dtype)
        _keep(self, "scale_1", parts.scale_1)
        _keep(self, "scale_2", parts.scale_2)

    def forward(self, tokens_BLD: torch.Tensor, num_queries: int) -> torch.Tensor:
        """[B, L, D] float32 to [B, num_queries, D]: the first tokens, as the block leaves them."""
        update_BLD = self.out(self._attend(self.norm_1(tokens_BLD), num_queries))
        tokens_BLD = tokens_BLD[:, :num_queries] + _scaled(update_BLD, self.scale_1)
        update_BLD = self.down(self.activation(self.up(self.norm_2(tokens_BLD))))
        return tokens_BLD + _scaled(update_BLD, self.scale_2)

    def _attend(self, tokens_BLD: torch.Tensor, num_queries: int) -> torch.Tensor:
        width = tokens_BLD.shape[2]
        if num_queries == tokens_BLD.shape[1]:
            query_BLD, key_BLD, value_BLD = self.qkv(tokens_BLD).chunk(3, dim=-1)
        else:
            query_BLD = self.qkv(tokens_BLD[:, :num_queries], slice(0, width))
            key_BLD, value_BLD = self.qkv(tokens_BLD, slice(width, None)).chunk(2, dim=-1)
        mixed_BNLK = self.attention(
            self._heads(query_BLD), self._heads(key_BLD), self._heads(value_BLD)
        )
        return mixed_BNLK.transpose(1, 2).flatten(2)

    def _heads(self, part_BLD: torch.Tensor) -> torch.Tensor:
        batch, num_tokens, _ = part_BLD.shape
        return part_BLD.reshape(batch, num_tokens, self.num_heads, -1).transpose(1, 2)


class Linear(nn.Module):
    """A linear map, or some rows of it."""

    weight: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, parts: LinearParts, dtype: torch.dtype) -> None:
        super().__init__()
        _keep(self, "weight", parts.weight.to(dtype))
        _keep(self, "bias", None if parts.bias is None else parts.bias.to(dtype))

    def forward(self, values: torch.Tensor, rows: slice = slice(None)) -> torch.Tensor:
        """[..., I] to [..., O], or to some of the outputs."""
        bias = None if self.bias is None else self.bias[rows]
        return functional.linear(values, self.weight[rows], bias)


class _Norm(nn.Module):
    """LayerNorm in float32; `dtype` goes out."""

    weight: torch.Tensor
    bias: torch.Tensor

    def __init__(self, norm: nn.LayerNorm, dtype: torch.dtype) -> None:
        super().__init__()
        self.eps = norm.eps
        self.dtype = dtype
        _keep(self, "weight", norm.weight.float())
        _keep(self, "bias", norm.bias.float())

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        shape = self.weight.shape
        normed = functional.layer_norm(values, shape, self.weight, self.bias, self.eps)
        return normed.to(self.dtype)


def _scaled(update_BLD: torch.Tensor, scale_D: torch.Tensor | None) -> torch.Tensor:
    """What a block adds, in float32."""
    return update_BLD.float() if scale_D is None else update_BLD.float() * scale_D


def _fold(record: EncoderRecord, parts: VitParts) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights and bias of a patch embedding that takes (x - 128) / 128, in float64 [D, I], [D]."""
    device = parts.patch_DCHW.device
    mean_C, std_C = (
        torch.tensor(values, dtype=torch.float64, device=device)
        for values in (record.mean, record.std)
    )
    weight_DCHW = parts.patch_DCHW.double()
    scale_C11 = (128 / (255 * std_C)).view(3, 1, 1)
    shift_C11 = ((128 / 255 - mean_C) / std_C).view(3, 1, 1)
    bias_D = (weight_DCHW * shift_C11).sum(dim=(1, 2, 3))
    if parts.patch_bias_D is not None:
        bias_D = bias_D + parts.patch_bias_D.double()
    return (weight_DCHW * scale_C11).flatten(1), bias_D


def _keep(module: nn.Module, name: str, tensor: torch.Tensor | None) -> None:
    """Hold a constant, so that it moves to a device with the module."""
    module.register_buffer(name, None if tensor is None else tensor.detach(), persistent=False)
