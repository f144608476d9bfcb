"""No engine is published that differs from its encoder, or that nobody could see differ."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from export.engines import find_source
from export.gate import gate, read_images
from miner.encoders import Encoder, TorchEncoder, load_encoder
from miner.errors import ParityError, ShardError
from tests.small import write_corpus

CPU = torch.device("cpu")


def pictures(tmp_path: Path, number: int = 24) -> list[torch.Tensor]:
    return read_images([str(path) for path in write_corpus(tmp_path)], number)


class Planted:
    """An encoder whose vectors are changed on their way out."""

    def __init__(self, real: TorchEncoder, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.record, self.encoder_id, self.dim = real.record, real.encoder_id, real.dim
        self.device, self.backend, self.precision = real.device, "planted", real.precision
        self.deviation = 0.0
        self._real, self._change = real, change

    def __call__(self, pixels_BCHW: torch.Tensor) -> torch.Tensor:
        return self._change(self._real(pixels_BCHW))


def test_images_are_decoded_and_broken_ones_passed_over(tmp_path: Path) -> None:
    images = pictures(tmp_path, 30)
    # One in twelve is none.
    assert len(images) == 30
    assert {tuple(image_HWC.shape) for image_HWC in images} == {(80, 96, 3)}
    assert {image_HWC.dtype for image_HWC in images} == {torch.uint8}


def test_too_few_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="33 images can be decoded, an engine is proven on 34"):
        pictures(tmp_path, 34)


def test_an_equal_engine_passes_with_its_deviation(tmp_path: Path) -> None:
    prove = gate(find_source("demo-dino", None, "fp32"), CPU, pictures(tmp_path))
    truth = load_encoder("demo-dino")
    assert prove(truth) == 0.0
    half: Encoder = load_encoder("demo-dino", dtype="fp16")
    assert 0 < prove(half) < 2e-3


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda vectors_BD: 1.01 * vectors_BD, id="longer"),
        pytest.param(lambda vectors_BD: torch.nan * vectors_BD, id="no number"),
        pytest.param(lambda vectors_BD: vectors_BD.flip(0), id="another order"),
    ],
)
def test_another_engine_is_refused(
    tmp_path: Path, change: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    prove = gate(find_source("demo-dino", None, "fp32"), CPU, pictures(tmp_path))
    planted = Planted(load_encoder("demo-dino"), change)
    with pytest.raises(ParityError, match=r"by planted in fp32: cosines of pairs differ .*24 im"):
        prove(planted)
