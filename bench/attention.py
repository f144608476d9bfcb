"""An attention kernel for a class token and 256 patches, as an experiment beside torch's own.

A ViT at 224 px has 257 tokens: one more than its tiles hold, so that a kernel for any length works
on a last tile with a single key in it. Here the keys are the 256 patches in whole tiles, and the
class token's key is one further column, added outside of the tensor cores:

    out_q = softmax(q . [k_cls, K] / sqrt(d)) [v_cls, V]

Grid: (blocks of queries, images x heads). A block of queries sees all keys at once, so there is one
maximum and one sum for each query, and nothing is rescaled on the way. Scores are at most
`QUERIES` x 256 float32.

Shape suffixes: B images, H heads, L = 257 tokens, D width of a head, Q queries of a block,
K = 256 patches.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl

from kernels.gpu_screens import FUSED
from miner.fused import FusedEncoder

TOKENS = 257
PATCHES = tl.constexpr(TOKENS - 1)


@triton.jit
def _attend(
    query_ptr,
    key_ptr,
    value_ptr,
    out_ptr,
    stride_qb,
    stride_qh,
    stride_ql,
    stride_kb,
    stride_kh,
    stride_kl,
    stride_vb,
    stride_vh,
    stride_vl,
    stride_ob,
    stride_oh,
    stride_ol,
    heads,
    scale_log2,
    QUERIES: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """One block of queries of one head of one image.

    Of three rows with two patches: scores [s_cls, s_1, s_2], weights 2^(s - max), their sum, and
    the values' weighted mean.
    """
    block = tl.program_id(0)
    image = (tl.program_id(1) // heads).to(tl.int64)
    head = (tl.program_id(1) % heads).to(tl.int64)
    rows_Q = block * QUERIES + tl.arange(0, QUERIES)
    columns_D = tl.arange(0, WIDTH)
    patches_K = 1 + tl.arange(0, PATCHES)
    is_row_Q = rows_Q < PATCHES + 1
    query_ptr += image * stride_qb + head * stride_qh
    key_ptr += image * stride_kb + head * stride_kh
    value_ptr += image * stride_vb + head * stride_vh
    out_ptr += image * stride_ob + head * stride_oh

    query_QD = tl.load(
        query_ptr + rows_Q[:, None] * stride_ql + columns_D[None, :],
        mask=is_row_Q[:, None],
        other=0.0,
    )
    key_KD = tl.load(key_ptr + patches_K[:, None] * stride_kl + columns_D[None, :])
    cls_key_D = tl.load(key_ptr + columns_D).to(tl.float32)
    scores_QK = tl.dot(query_QD, tl.trans(key_KD)) * scale_log2
    cls_scores_Q = tl.sum(query_QD.to(tl.float32) * cls_key_D[None, :], axis=1) * scale_log2

    most_Q = tl.maximum(tl.max(scores_QK, axis=1), cls_scores_Q)
    weights_QK = tl.exp2(scores_QK - most_Q[:, None])
    cls_weights_Q = tl.exp2(cls_scores_Q - most_Q)
    sums_Q = tl.sum(weights_QK, axis=1) + cls_weights_Q

    value_KD = tl.load(value_ptr + patches_K[:, None] * stride_vl + columns_D[None, :])
    cls_value_D = tl.load(value_ptr + columns_D).to(tl.float32)
    out_QD = tl.dot(weights_QK.to(value_KD.dtype), value_KD)
    out_QD += cls_weights_Q[:, None] * cls_value_D[None, :]
    out_QD /= sums_Q[:, None]
    tl.store(
        out_ptr + rows_Q[:, None] * stride_ol + columns_D[None, :],
        out_QD.to(out_ptr.dtype.element_ty),
        mask=is_row_Q[:, None],
    )


def attend(
    query_BHLD: torch.Tensor,
    key_BHLD: torch.Tensor,
    value_BHLD: torch.Tensor,
    *,
    queries: int = 128,
    num_warps: int = 8,
) -> torch.Tensor:
    """Softmax attention over 257 tokens, scaled by 1 / sqrt(D).

    Args:
        query_BHLD: [B, H, 257, D] float16 or bfloat16, D a power of two, its last axis contiguous.
        key_BHLD: likewise.
        value_BHLD: likewise.
        queries: rows of a block, a power of two of 16 at least. 128 with 8 warps fit the registers
            of SM90, 32 with 4 those of SM80.
        num_warps: of a block.

    Returns:
        [B, H, 257, D] in the inputs' dtype, lying as [B, 257, H, D], ready for the projection.

    Raises:
        ValueError: there are not 257 tokens, D is no power of two, or rows are not contiguous.
    """
    images, heads, tokens, width = query_BHLD.shape
    if tokens != TOKENS or width & (width - 1) or width < 16:
        raise ValueError(
            f"attention over {tokens} tokens of width {width}; this kernel takes {TOKENS} tokens "
            "and a power of two from 16"
        )
    if any(each.stride(-1) != 1 for each in (query_BHLD, key_BHLD, value_BHLD)):
        raise ValueError("a head's vectors are not contiguous; call .contiguous() on them")
    out_BHLD = torch.empty(
        images, tokens, heads, width, dtype=query_BHLD.dtype, device=query_BHLD.device
    ).transpose(1, 2)
    grid = (triton.cdiv(TOKENS, queries), images * heads)
    _attend[grid](
        query_BHLD,
        key_BHLD,
        value_BHLD,
        out_BHLD,
        *query_BHLD.stride()[:3],
        *key_BHLD.stride()[:3],
        *value_BHLD.stride()[:3],
        *out_BHLD.stride()[:3],
        heads,
        width**-0.5 * math.log2(math.e),
        QUERIES=queries,
        WIDTH=width,
        num_warps=num_warps,
        num_stages=1,
        **FUSED,
    )
    return out_BHLD


def use_attend(encoder: FusedEncoder) -> int:
    """Let a fused encoder's blocks attend by this kernel; how many do.

    The last block, which asks for the class token alone, does so by torch's.
    """
    for block in encoder.blocks[:-1]:
        block.attention = attend
    return len(encoder.blocks) - 1
