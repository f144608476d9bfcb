"""Thresholds by quantile, against numpy, and where the right answer is known."""

import numpy as np
import pytest
import torch

from miner.errors import StoreError
from miner.join import blind_pairs
from miner.measuring.calibrate import calibrate
from miner.measuring.calibration import Encoders, Rates


def vectors(num_rows: int, dim: int, seed: int, *, spread: float = 0.3) -> torch.Tensor:
    """Rows around a few centres, of unit length, float16."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(6, dim, generator=generator)
    of = torch.randint(0, 6, (num_rows,), generator=generator)
    rows = centres[of] + spread * torch.randn(num_rows, dim, generator=generator)
    return torch.nn.functional.normalize(rows, dim=1).half()


def encoders(num_rows: int = 300, seed: int = 0) -> Encoders:
    return Encoders(
        clip_ND=vectors(num_rows, 16, seed), dino_ND=vectors(num_rows, 12, seed + 50, spread=0.8)
    )


def all_cosines(rows_ND: torch.Tensor) -> np.ndarray:
    rows = rows_ND.double().numpy()
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    found: np.ndarray = (rows @ rows.T)[np.triu_indices(len(rows), 1)]
    return found


def shifted(rows_ND: torch.Tensor, constant: float) -> torch.Tensor:
    """Rows whose cosines are (c + constant^2) / (1 + constant^2) of what they were."""
    rows = torch.nn.functional.normalize(rows_ND.double(), dim=1)
    return torch.cat([rows, torch.full((len(rows), 1), constant, dtype=torch.float64)], dim=1)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(("above", "below"), [(0.9, 0.3), (0.8, 0.0)])
def test_thresholds_are_those_quantiles(seed: int, above: float, below: float) -> None:
    reference, other = encoders(seed=seed), encoders(seed=seed + 7)
    found = calibrate(other, (reference, above, below))
    clip, dino = all_cosines(reference.clip_ND), all_cosines(reference.dino_ND)
    num_above = int((clip > above).sum())
    share = float((dino[clip > above] < below).mean())
    clip, dino = all_cosines(other.clip_ND), all_cosines(other.dino_ND)
    highest = np.sort(clip)[::-1]
    assert highest[num_above - 1] > found.clip.value > highest[num_above]
    mine = np.sort(dino[clip > found.clip.value])
    num_below = round(share * num_above)
    assert mine[num_below - 1] < found.dino.value < mine[num_below]
    assert (found.clip.num_pairs, found.dino.num_pairs) == (num_above, num_below)
    assert found.clip.num_of == len(clip) == 300 * 299 // 2
    assert found.rates == Rates(candidates=num_above / len(clip), blind=share)
    # What is printed for a join gives as many pairs.
    pairs = blind_pairs(
        other.clip_ND, other.dino_ND, clip_above=found.clip.value, dino_below=found.dino.value
    )
    assert len(pairs) == num_below


def test_monotone_cosines_give_the_transformed_thresholds_and_the_same_pairs() -> None:
    reference = encoders(600)
    other = Encoders(
        clip_ND=shifted(reference.clip_ND, 2.0), dino_ND=shifted(reference.dino_ND, 0.5)
    )
    found = calibrate(other, (reference, 0.9, 0.2))
    assert abs(found.clip.value - (0.9 + 4) / 5) < 5e-4
    assert abs(found.dino.value - (0.2 + 0.25) / 1.25) < 5e-3
    before = blind_pairs(reference.clip_ND, reference.dino_ND, clip_above=0.9, dino_below=0.2)
    after = blind_pairs(
        other.clip_ND, other.dino_ND, clip_above=found.clip.value, dino_below=found.dino.value
    )
    assert len(before) > 100
    pairs = [set(zip(p.i.tolist(), p.j.tolist(), strict=True)) for p in (before, after)]
    assert pairs[0] == pairs[1]
    # Of equal order, resampling moves both alike.
    assert found.clip.high - found.clip.low < 1e-3
    for point in found.curve:
        assert point.reference is not None
        constant = 4 if point.side == "clip" else 0.25
        wanted = (point.reference + constant) / (1 + constant)
        assert abs(point.threshold - wanted) < 2e-3


def test_an_encoder_calibrated_on_itself_keeps_its_thresholds() -> None:
    own = encoders()
    found = calibrate(own, (own, 0.9, 0.3))
    assert (found.clip.value, found.dino.value) == (0.9, 0.3)
    assert (found.clip.low, found.clip.high) == (0.9, 0.9)
    assert (found.dino.low, found.dino.high) == (0.3, 0.3)


def test_bounds_of_what_equal_cosines_take(monkeypatch: pytest.MonkeyPatch) -> None:
    own = encoders(100)
    half = torch.cat([own.clip_ND[:1].expand(60, -1), own.clip_ND[60:]])
    copies = Encoders(clip_ND=half, dino_ND=own.dino_ND)
    monkeypatch.setattr("miner.measuring.calibration_pairs.MAX_CANDIDATES", 300)
    with pytest.raises(ValueError, match=r"more than 1600 pairs have a CLIP cosine .* equal"):
        calibrate(copies, Rates(candidates=250 / 4950, blind=0.5))
    # The threshold's own bin counts, whose pairs have to be looked at.
    with pytest.raises(ValueError, match=r"pairs lie above CLIP's threshold, limit 300"):
        calibrate(own, (copies, 1.0, 0.5))


def test_rates_without_a_reference() -> None:
    own = encoders()
    found = calibrate(own, Rates(candidates=0.01, blind=0.25))
    cos = all_cosines(own.clip_ND)
    assert (cos > found.clip.value).sum() == round(0.01 * len(cos)) == found.clip.num_pairs
    assert found.dino.num_pairs == round(0.25 * found.clip.num_pairs)
    assert found.clip.low < found.clip.value < found.clip.high
    assert found.dino.low < found.dino.value < found.dino.high
    assert all(point.reference is None for point in found.curve)
    assert {point.side for point in found.curve} == {"clip", "dino"}


def test_intervals_cover_the_threshold_of_many_images() -> None:
    """Of 40 samples of 200 images, most intervals hold what 3,000 images of the kind say."""
    rates = Rates(candidates=0.02, blind=0.3)
    truth = calibrate(encoders(3000), rates)
    large = encoders(3000)
    hits = np.zeros(2)
    for sample in range(40):
        rows = torch.randperm(3000, generator=torch.Generator().manual_seed(sample))[:200]
        some = Encoders(clip_ND=large.clip_ND[rows], dino_ND=large.dino_ND[rows])
        found = calibrate(some, rates)
        hits += [
            found.clip.low <= truth.clip.value <= found.clip.high,
            found.dino.low <= truth.dino.value <= found.dino.high,
        ]
    assert (hits >= 32).all(), hits


def test_too_few_pairs_are_refused_with_how_many_images_it_takes() -> None:
    own = encoders(100)
    with pytest.raises(StoreError, match=r"^25 pairs of 100 images .* embed about 200 images"):
        calibrate(own, Rates(candidates=25 / 4950, blind=0.5))
    told = r"^0 pairs .* embed more than 1000 images .* a lower --reference-clip-above"
    with pytest.raises(StoreError, match=told):
        calibrate(own, (own, 0.99999, 0.5))
    with pytest.raises(
        StoreError, match=r"5 of 495 candidates lie below .* about 200 images .* another --blind"
    ):
        calibrate(own, Rates(candidates=0.1, blind=0.01))
    with pytest.raises(StoreError, match=r"0 of \d+ candidates lie not below .* more than 448"):
        calibrate(own, (own, 0.8, 1.0))


def test_equal_cosines_let_nothing_through() -> None:
    rows = torch.ones(50, 4)
    same = Encoders(clip_ND=rows, dino_ND=rows)
    with pytest.raises(StoreError, match=r"^1225 pairs have the same CLIP cosine, 1, and 0"):
        calibrate(same, Rates(candidates=0.5, blind=0.5))


def test_thresholds_that_let_millions_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("miner.measuring.calibration_pairs.MAX_CANDIDATES", 1000)
    own = encoders(100)
    with pytest.raises(ValueError, match=r"4950 pairs lie above CLIP's threshold, limit 1000"):
        calibrate(own, (own, -1.0, 0.5))
    with pytest.raises(ValueError, match="2475 pairs lie above CLIP's threshold, limit 1000"):
        calibrate(own, Rates(candidates=0.5, blind=0.5))


@pytest.mark.parametrize("rates", [(0, 0.5), (1, 0.5), (0.1, 0), (0.1, 1), (float("nan"), 0.5)])
def test_rates_that_are_none(rates: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match=r"rate is .*; a quantile is between 0 and 1"):
        calibrate(encoders(50), Rates(candidates=rates[0], blind=rates[1]))
