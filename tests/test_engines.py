"""What engines share: batches of one size, padded and cut."""

from __future__ import annotations

import pytest
import torch

from miner.encoders import TorchEncoder
from miner.engines import FixedBatch
from tests.small_engines import Padded, clip, pixels_BCHW

__all__ = ["clip", "pixels_BCHW"]


@pytest.mark.parametrize("number", [1, 4, 5, 8, 11])
def test_tail_is_padded_and_cut(clip: TorchEncoder, pixels_BCHW: torch.Tensor, number: int) -> None:
    engine = Padded(clip, batch_size=4)
    vectors_BD = engine(pixels_BCHW[:number])
    assert engine.sizes == [4] * -(-number // 4)
    assert vectors_BD.dtype == torch.float32
    torch.testing.assert_close(vectors_BD, clip(pixels_BCHW[:number]), atol=1e-6, rtol=0)


def test_no_image_gives_no_vector(clip: TorchEncoder, pixels_BCHW: torch.Tensor) -> None:
    assert Padded(clip, batch_size=4)(pixels_BCHW[:0]).shape == (0, 48)


def test_vector_depends_on_its_own_pixels_alone(
    clip: TorchEncoder, pixels_BCHW: torch.Tensor
) -> None:
    engine = Padded(clip, batch_size=4)
    assert torch.equal(engine(pixels_BCHW)[8:9], engine(pixels_BCHW[8:9]))


def test_fixed_batch_checks_what_it_is_given(clip: TorchEncoder, pixels_BCHW: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="batch_size is 0; give at least 1"):
        Padded(clip, batch_size=0)
    with pytest.raises(ValueError, match=r"pixels are float32 \[11, 3, 64, 64\]"):
        Padded(clip, batch_size=4)(pixels_BCHW.float())
    with pytest.raises(ValueError, match="precision is int4; give one of fp32, fp16, bf16, fp8"):
        FixedBatch.__init__(
            Padded(clip, batch_size=1), clip.record, clip.device, precision="int4", batch_size=1
        )
