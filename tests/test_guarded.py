"""An engine under guard: halved batches, rows that are mended."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from miner.encoders import TorchEncoder
from miner.errors import ParityError, ResourceError
from miner.guarded import Guarded
from tests.small_engines import Cramped, Padded, clip, pixels_BCHW

__all__ = ["clip", "pixels_BCHW"]


def test_batch_is_halved_once_and_stays_halved(
    clip: TorchEncoder, pixels_BCHW: torch.Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    cramped = Cramped(clip, room=5)
    encoder = Guarded(cramped, load_truth=None)
    for _ in range(2):
        torch.testing.assert_close(encoder(pixels_BCHW), clip(pixels_BCHW), atol=1e-6, rtol=0)
    assert cramped.sizes == [11, 5, 5, 1, 5, 5, 1]
    assert caplog.messages == [
        "small-clip: out of memory on cpu at 11 images a batch; going on with 5"
    ]


def test_halving_reaches_an_engine_of_a_fixed_batch(
    clip: TorchEncoder, pixels_BCHW: torch.Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    engine = Padded(clip, batch_size=8, room=4)
    encoder = Guarded(engine, load_truth=None)
    # Three images, yet the engine had eight in work.
    torch.testing.assert_close(encoder(pixels_BCHW[:3]), clip(pixels_BCHW[:3]), atol=1e-6, rtol=0)
    assert engine.sizes == [8, 4]
    assert caplog.messages == [
        "small-clip: out of memory on cpu at 8 images a batch; going on with 4"
    ]


def test_second_shortage_says_what_to_give(clip: TorchEncoder, pixels_BCHW: torch.Tensor) -> None:
    encoder = Guarded(Cramped(clip, room=4), load_truth=None)
    with pytest.raises(
        ResourceError, match=r"small-clip ran out of memory on cpu at 5 .*--batch-size 2 or less"
    ):
        encoder(pixels_BCHW)
    with pytest.raises(ResourceError, match=r"at 1 images a batch.*; free some, or use another"):
        Guarded(Cramped(clip, room=0), load_truth=None)(pixels_BCHW[:2])


def test_single_image_cannot_be_halved(clip: TorchEncoder, pixels_BCHW: torch.Tensor) -> None:
    with pytest.raises(ResourceError, match="ran out of memory on cpu with a single image"):
        Guarded(Cramped(clip, room=0), load_truth=None)(pixels_BCHW[:1])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0])
def test_lost_rows_are_computed_by_the_truth(
    clip: TorchEncoder, pixels_BCHW: torch.Tensor, caplog: pytest.LogCaptureFixture, value: float
) -> None:
    caplog.set_level(logging.INFO)
    loaded = []

    def load() -> TorchEncoder:
        loaded.append(clip)
        return clip

    encoder = Guarded(Cramped(clip, lost={2: value, 7: value}), load_truth=load)
    for _ in range(2):
        torch.testing.assert_close(encoder(pixels_BCHW), clip(pixels_BCHW), atol=1e-6, rtol=0)
    assert len(loaded) == 1
    assert caplog.messages[0] == (
        "small-clip: 2 of 11 vectors were not finite by cramped in fp16; float32 gives 2 of them"
    )


def test_truth_is_not_loaded_while_all_is_well(
    clip: TorchEncoder, pixels_BCHW: torch.Tensor
) -> None:
    def load() -> TorchEncoder:
        raise AssertionError("nothing was lost")

    encoder = Guarded(Cramped(clip), load_truth=load)
    assert torch.equal(encoder(pixels_BCHW), clip(pixels_BCHW))
    assert (encoder.encoder_id, encoder.dim) == (clip.encoder_id, clip.dim)
    assert (encoder.backend, encoder.precision, encoder.deviation) == ("cramped", "fp16", 1e-3)


def test_what_the_truth_loses_too_stays_lost(clip: TorchEncoder, pixels_BCHW: torch.Tensor) -> None:
    hopeless = Cramped(clip, lost={0: torch.nan})
    encoder = Guarded(Cramped(clip, lost={4: torch.nan}), load_truth=lambda: hopeless)
    lost_B = ~encoder(pixels_BCHW).isfinite().all(dim=1)
    assert lost_B.nonzero().flatten().tolist() == [4]


def test_mending_fits_into_memory_too(
    tmp_path: Path, clip: TorchEncoder, pixels_BCHW: torch.Tensor
) -> None:
    lost = dict.fromkeys(range(11), torch.nan)
    truth = Cramped(clip, room=6)
    encoder = Guarded(Cramped(clip, lost=lost), load_truth=lambda: truth)
    torch.testing.assert_close(encoder(pixels_BCHW), clip(pixels_BCHW), atol=1e-6, rtol=0)
    assert truth.sizes == [11, 5, 5, 1]


def test_what_was_halved_is_proven_again_before_it_goes_on(
    clip: TorchEncoder, pixels_BCHW: torch.Tensor
) -> None:
    engine, proven = Padded(clip, batch_size=8, room=4), list[tuple[int, int]]()

    def prove(batch_size: int) -> float:
        proven.append((batch_size, engine.batch_size))
        return 0.25

    encoder = Guarded(engine, load_truth=None, batch_size=8, prove=prove)
    assert encoder.batch_size == 8
    for _ in range(2):
        encoder(pixels_BCHW[:3])
    assert proven == [(4, 4)]
    assert (encoder.batch_size, encoder.deviation) == (4, 0.25)

    def refuse(batch_size: int) -> float:
        raise ParityError(f"not equal at {batch_size}")

    encoder = Guarded(Padded(clip, batch_size=8, room=4), load_truth=None, prove=refuse)
    with pytest.raises(ParityError, match="not equal at 4"):
        encoder(pixels_BCHW[:3])


def test_what_was_halved_by_the_gate_is_not_halved_again(
    clip: TorchEncoder, pixels_BCHW: torch.Tensor
) -> None:
    encoder = Guarded(Cramped(clip, room=3), load_truth=None, batch_size=4, is_halved=True)
    with pytest.raises(ResourceError, match=r"at 4 images a batch, after a batch was halved once"):
        encoder(pixels_BCHW)
