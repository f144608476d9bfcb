"""The fused forward computes what the libraries' modules compute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from miner.encoders import TorchEncoder, load_encoder
from miner.fused import FusedEncoder
from miner.vit_parts import vit_parts
from tests.small import small_encoders
from tests.towers import dino_record, write_dino_weights


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> list[TorchEncoder]:
    return small_encoders(tmp_path_factory.mktemp("weights"))


def pixels_of(truth: TorchEncoder, number: int = 6) -> torch.Tensor:
    """Noise of very different brightness and contrast."""
    size = truth.record.image_size
    generator = torch.Generator().manual_seed(0)
    noise_BCHW = torch.randn(number, 3, size, size, generator=generator)
    contrast_B111 = torch.linspace(0, 200, number).view(-1, 1, 1, 1)
    return (128 + contrast_B111 * noise_BCHW).clamp(0, 255).to(torch.uint8)


@torch.inference_mode()
def check_equal(truth: TorchEncoder) -> None:
    fused = FusedEncoder(truth.record, vit_parts(truth.module), torch.float32)
    pixels_BCHW = pixels_of(truth)
    vectors_BD = truth(pixels_BCHW)
    assert (vectors_BD[0] - vectors_BD[-1]).abs().max() > 0.05
    torch.testing.assert_close(fused(pixels_BCHW), vectors_BD, atol=2e-6, rtol=0)


def test_equals_both_libraries(encoders: list[TorchEncoder]) -> None:
    for truth in encoders:
        check_equal(truth)


@pytest.mark.parametrize("name", ["demo-clip", "demo-dino"])
def test_equals_trained_encoders(name: str) -> None:
    check_equal(load_encoder(name))


@pytest.mark.parametrize(
    ("pooling", "config"),
    [
        ("cls", {"reg_tokens": 3}),
        ("cls", {"reg_tokens": 3, "no_embed_class": True}),
        ("cls", {"pre_norm": True, "init_values": None, "qkv_bias": False}),
        ("mean_patch", {"reg_tokens": 2}),
        ("cls+mean", {}),
        # 56 pixels are no multiple of 9: the last two rows and columns are not looked at.
        ("cls", {"patch_size": 9}),
    ],
    ids=str,
)
def test_equals_variants(pooling: str, config: dict[str, Any], tmp_path: Path) -> None:
    changed = dino_record().config | {"patch_size": 7, "qkv_bias": True} | config
    dim = 128 if pooling == "cls+mean" else 64
    record = dino_record(pooling=pooling, dim=dim, config=changed, position_embedding="native")
    path = write_dino_weights(tmp_path / "dino.safetensors", changed)
    check_equal(load_encoder(record, weights=path))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_pixels_go_in_exactly(encoders: list[TorchEncoder], dtype: torch.dtype) -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    inputs = (levels.to(dtype) - 128) / 128
    assert torch.equal(inputs.double(), (levels.double() - 128) / 128)
    # The embedding's other factor is rounded once, from float64.
    truth = encoders[0]
    fused = FusedEncoder(truth.record, vit_parts(truth.module), dtype)
    std_C11 = torch.tensor(truth.record.std, dtype=torch.float64).view(3, 1, 1)
    weight_DCHW = truth.module.tower.conv1.weight.double() * 128 / (255 * std_C11)
    assert torch.equal(fused.patch_DI, weight_DCHW.flatten(1).to(dtype))


def test_no_weight_becomes_subnormal_in_fp16(tmp_path: Path) -> None:
    """LayerScale may be tiny, as timm starts it; were it folded, weights would lose their bits."""
    path = write_dino_weights(tmp_path / "dino.safetensors", dtype=torch.float32)
    truth = load_encoder(dino_record(), weights=path)
    for block in truth.module.tower.blocks:
        block.ls1.gamma.mul_(1e-5)
        block.ls2.gamma.mul_(1e-5)
    parts = vit_parts(truth.module)
    half = dict(FusedEncoder(truth.record, parts, torch.float16).named_buffers())
    tiny = torch.finfo(torch.float16).tiny
    for name, wide in FusedEncoder(truth.record, parts, torch.float32).named_buffers():
        if half[name].dtype == torch.float16:
            # What the truth's own weights lose in float16 is lost; scaling must not add to it.
            assert (wide.abs() < tiny).float().mean() < 0.01, name
            torch.testing.assert_close(half[name].float(), wide, atol=tiny, rtol=1e-3)
        else:
            assert torch.equal(half[name], wide)


def test_last_block_computes_for_the_class_token_alone(encoders: list[TorchEncoder]) -> None:
    truth = encoders[1]
    fused = FusedEncoder(truth.record, vit_parts(truth.module), torch.float32)
    seen = []
    for block in fused.blocks:
        block.up.register_forward_hook(lambda module, given, out: seen.append(given[0].shape[1]))
    fused(pixels_of(truth))
    assert seen == [65, 65, 65, 1]
