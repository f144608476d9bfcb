"""The experiment with attention over 257 tokens: right by the interpreter, and without spills."""

from __future__ import annotations

import math

import pytest
import torch
from triton.backends.compiler import GPUTarget

from bench.attention import attend
from kernels.gpu_screens import FUSED
from tests.interpreting import interpreter

TOKENS = 257


def heads(seed: int, width: int = 64) -> tuple[torch.Tensor, ...]:
    """Query, key and value of 2 images and 2 heads, as views of one packed projection."""
    generator = torch.Generator().manual_seed(seed)
    qkv = torch.randn(2, TOKENS, 3, 2, width, generator=generator)
    # The class token matters as much as all patches together to every third query.
    qkv[:, ::3, 0] = 3 * qkv[:, :1, 1]
    return tuple(qkv.half().permute(2, 0, 3, 1, 4))


def interpreted(seed: int, width: int, queries: int) -> torch.Tensor:
    return attend(*heads(seed, width), queries=queries)


def test_attention_errs_no_more_than_torchs() -> None:
    with interpreter() as process:
        for seed, width, queries in ((0, 64, 128), (1, 64, 32), (2, 16, 64)):
            out_BHLD = process.submit(interpreted, seed, width, queries).result()
            query, key, value = heads(seed, width)
            truth_BHLD = torch.nn.functional.scaled_dot_product_attention(
                query.double(), key.double(), value.double()
            )
            theirs_BHLD = torch.nn.functional.scaled_dot_product_attention(query, key, value)
            error = (out_BHLD.double() - truth_BHLD).abs().max()
            assert error <= 1.5 * (theirs_BHLD.double() - truth_BHLD).abs().max()
            assert out_BHLD.transpose(1, 2).is_contiguous()


def test_the_class_token_is_attended_to() -> None:
    query, key, value = heads(0)
    with_cls = torch.nn.functional.scaled_dot_product_attention(query, key, value)
    without = torch.nn.functional.scaled_dot_product_attention(
        query, key[:, :, 1:], value[:, :, 1:]
    )
    # So that a kernel which forgot it would be seen.
    assert (with_cls - without).abs().max() > 0.5


def test_what_the_kernel_does_not_take() -> None:
    query, key, value = heads(0)
    with pytest.raises(ValueError, match="attention over 256 tokens of width 64; this kernel"):
        attend(query[:, :, 1:], key[:, :, 1:], value[:, :, 1:])
    with pytest.raises(ValueError, match="of width 48; this kernel takes 257"):
        attend(query[..., :48], key[..., :48], value[..., :48])
    turned = query.transpose(2, 3).contiguous().transpose(2, 3)
    with pytest.raises(ValueError, match="not contiguous"):
        attend(turned, key, value)


@pytest.mark.parametrize(("architecture", "queries", "num_warps"), [(90, 128, 8), (80, 32, 4)])
def test_no_register_spills(architecture: int, queries: int, num_warps: int) -> None:
    import triton
    from triton.compiler import ASTSource

    from bench import attention
    from bench.ahead_of_time import measured

    kernel = attention._attend
    kinds = {"scale_log2": "fp32", "QUERIES": "constexpr", "WIDTH": "constexpr"}
    types = {
        name: kinds.get(name, "*fp16" if name.endswith("ptr") else "i32")
        for name in kernel.arg_names
    }
    aligned = [["tt.divisibility", 16]]
    attributes = {
        (index,): aligned
        for index, name in enumerate(types)
        if name.endswith("ptr") or name.startswith("stride")
    }
    source = ASTSource(
        kernel, types, constexprs={"QUERIES": queries, "WIDTH": 64}, attrs=attributes
    )
    used = measured(
        triton.compile(
            source,
            target=GPUTarget("cuda", architecture, 32),
            options={"num_warps": num_warps, "num_stages": 1, **FUSED},
        )
    )
    assert used.spills == 0
    assert used.registers <= 255
    assert used.shared_bytes <= {90: 232_448, 80: 166_912}[architecture]
    assert used.matrix.keys() == {{90: "HGMMA", 80: "HMMA"}[architecture]}


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_on_a_gpu_it_errs_no_more_than_torchs(dtype: torch.dtype) -> None:
    qkv = torch.randn(64, TOKENS, 3, 16, 64, device="cuda").to(dtype)
    query, key, value = qkv.permute(2, 0, 3, 1, 4)
    truth_BHLD = torch.nn.functional.scaled_dot_product_attention(
        query.float(), key.float(), value.float()
    )
    theirs_BHLD = torch.nn.functional.scaled_dot_product_attention(query, key, value)
    error = (attend(query, key, value).float() - truth_BHLD).abs().max()
    assert error <= 2 * (theirs_BHLD.float() - truth_BHLD).abs().max()
    assert math.isfinite(float(error))
