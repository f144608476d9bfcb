"""Engines for tests of the parity gate: right ones, and wrong in one thing each.

B images, D dimensions; C, H, W channels, rows, columns
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import nn

from miner.encoders import PRECISIONS, EncoderModule, TorchEncoder
from miner.fused import FusedEncoder
from miner.vit_parts import vit_parts

Change = Callable[[torch.Tensor], torch.Tensor]


class Engine:
    """An engine around a copy of the truth.

    Args:
        truth: the encoder in float32.
        computes: the number format in which it computes.
        fused: whether it computes by `FusedEncoder`.
        precision: the one it says it computes in.
        harm: changes the tower, before it is brought to its number format.
        before: changes the pixels of a batch.
        after: changes the vectors of a batch.
    """

    backend = "planted"
    encode: Callable[[torch.Tensor], torch.Tensor]

    def __init__(
        self,
        truth: TorchEncoder,
        *,
        computes: str = "fp32",
        fused: bool = False,
        precision: str | None = None,
        harm: Callable[[nn.Module], object] | None = None,
        before: Change | None = None,
        after: Change | None = None,
    ) -> None:
        tower = copy.deepcopy(truth.module.tower)
        if harm is not None:
            harm(tower)
        module = EncoderModule(truth.record, tower, torch.float32)
        if fused:
            self.backend = "fused"
            self.encode = FusedEncoder(truth.record, vit_parts(module), PRECISIONS[computes])
        else:
            module = EncoderModule(truth.record, tower, PRECISIONS[computes])
            self.encode = TorchEncoder(truth.record, module, truth.device)
        self._before, self._after = before, after
        self.record, self.encoder_id, self.dim = truth.record, truth.encoder_id, truth.dim
        self.device, self.precision, self.deviation = truth.device, precision or computes, 0.0

    @torch.inference_mode()
    def __call__(self, pixels_BCHW: torch.Tensor) -> torch.Tensor:
        vectors_BD = self.encode(pixels_BCHW if not self._before else self._before(pixels_BCHW))
        return vectors_BD if self._after is None else self._after(vectors_BD)


def plain_gelu(tower: nn.Module) -> None:
    """GELU where the weights were trained with QuickGELU."""
    for block in tower.transformer.resblocks:
        block.mlp.gelu = nn.GELU()


def layer_norm_epsilon(tower: nn.Module) -> None:
    """An epsilon that was lost on the way and became another."""
    for module in tower.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 0.03


def layer_norm_weight(tower: nn.Module) -> None:
    """One LayerNorm of all forgets its weights."""
    norm = next(m for name, m in tower.named_modules() if name.endswith(("1.ln_2", "1.norm2")))
    with torch.no_grad():
        norm.weight.fill_(1)


def block_dropped(tower: nn.Module) -> None:
    """The last block but one is missing."""
    blocks = tower.transformer.resblocks if hasattr(tower, "transformer") else tower.blocks
    del blocks[-2]


def outlier_channel(tower: nn.Module) -> None:
    """A hidden channel of 100,000, as trained towers have; the next map brings it back to 1."""
    blocks = tower.transformer.resblocks if hasattr(tower, "transformer") else tower.blocks
    mlp = blocks[1].mlp
    up, down = (mlp.c_fc, mlp.c_proj) if hasattr(mlp, "c_fc") else (mlp.fc1, mlp.fc2)
    with torch.no_grad():
        up.bias[0] = 1e5
        down.weight[:, 0] *= 1e-5


def swapped_channels(pixels: torch.Tensor) -> torch.Tensor:
    """BGR for RGB, of a batch or of one image."""
    return pixels.flip(-3)


def saturated(pixels_BCHW: torch.Tensor) -> torch.Tensor:
    """Pixels brighter than 190 become 190: nothing to a dim image."""
    return pixels_BCHW.clamp(max=190)


def stale_tail(vectors_BD: torch.Tensor) -> torch.Tensor:
    """The last image of a batch gets the first one's vector unless the batch is a multiple of 4."""
    return vectors_BD if len(vectors_BD) % 4 == 0 else torch.cat([vectors_BD[:-1], vectors_BD[:1]])


def half_norm(vectors_BD: torch.Tensor) -> torch.Tensor:
    """Brought to unit length in float16."""
    return nn.functional.normalize((3 * vectors_BD).half(), dim=-1).float()


def rotated(vectors_BD: torch.Tensor) -> torch.Tensor:
    """Another basis: every pair keeps its cosine."""
    generator = torch.Generator().manual_seed(0)
    rotation_DD, _ = torch.linalg.qr(torch.randn(2 * vectors_BD.shape[1:], generator=generator))
    return vectors_BD @ rotation_DD


def restless(vectors_BD: torch.Tensor) -> torch.Tensor:
    """Rounding that differs from call to call."""
    return vectors_BD + 1e-8 * torch.randn_like(vectors_BD)


def lost_row(vectors_BD: torch.Tensor) -> torch.Tensor:
    """One NaN."""
    vectors_BD = vectors_BD.clone()
    vectors_BD[0, 0] = torch.nan
    return vectors_BD
