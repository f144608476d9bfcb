"""Linear layers in eight-bit floats, as an experiment: do they gain speed, and what do they cost?

Weights and inputs are e4m3, with a scale for every row of each; products are added up in the
tensor cores and come out in the layer's own number format. Whether the vectors stay near enough is
not decided here: `bench.encode` holds them to the limits of the parity gate.

    y = (x / s_x) (W / s_W)^T * s_x s_W + b,     s = largest magnitude of a row / 448

Shape suffixes: M rows of inputs, I inputs and O outputs of a layer.
"""

from __future__ import annotations

import torch

from miner.fused import FusedEncoder, Linear

LARGEST = 448.0
"""Largest e4m3 number."""

SMALLEST_SCALE = 1e-12
"""A row of zeros is divided by this."""

WIDTHS = 16
"""What both widths of a layer have to be a multiple of."""


def quantised(rows_MI: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """[M, I] e4m3 rows and their scales [M, 1] float32; the largest value of a row becomes 448."""
    largest_M1 = rows_MI.abs().amax(dim=1, keepdim=True).float()
    scale_M1 = (largest_M1 / LARGEST).clamp(min=SMALLEST_SCALE)
    return (rows_MI.float() / scale_M1).to(torch.float8_e4m3fn), scale_M1


class Float8Linear(torch.nn.Module):
    """A linear layer that multiplies e4m3 numbers."""

    weight_OI: torch.Tensor
    scale_O1: torch.Tensor
    bias_O: torch.Tensor | None

    def __init__(self, layer: Linear) -> None:
        super().__init__()
        weight_OI, scale_O1 = quantised(layer.weight.detach())
        self.register_buffer("weight_OI", weight_OI)
        self.register_buffer("scale_O1", scale_O1)
        self.register_buffer("bias_O", None if layer.bias is None else layer.bias.detach())

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """[..., I] to [..., O] in the inputs' dtype."""
        rows_MI, scale_M1 = quantised(inputs.flatten(0, -2))
        outputs_MO = torch._scaled_mm(
            rows_MI,
            self.weight_OI.t(),
            scale_a=scale_M1,
            scale_b=self.scale_O1.t(),
            bias=self.bias_O,
            out_dtype=inputs.dtype,
        )
        return outputs_MO.view(*inputs.shape[:-1], -1)


def use_float8(encoder: FusedEncoder) -> int:
    """Put e4m3 layers in the place of a fused encoder's linear ones; how many there were.

    Layers of other widths than multiples of 16 stay, and so does the last block, which multiplies
    parts of its weights alone.
    """
    found = [
        (block, name, layer)
        for block in encoder.blocks[:-1]
        for name, layer in block.named_children()
        if isinstance(layer, Linear) and not any(width % WIDTHS for width in layer.weight.shape)
    ]
    for block, name, layer in found:
        setattr(block, name, Float8Linear(layer))
    return len(found)
