"""The gate lets right engines pass and refuses wrong ones, each for what is wrong with it."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from export.look import Group
from export.verify import _pair_checks, verify
from miner.config import ImageLimits
from miner.crops import CropSpec, cut
from miner.encoders import TorchEncoder, load_encoder
from miner.engines import PAIR_LIMITS
from miner.errors import ParityError
from miner.images import decode
from miner.registry import EncoderRecord
from tests import wrong_engines
from tests.exports import LargeWeights
from tests.small import PHOTOGRAPHS, small_encoders
from tests.towers import dino_record, scenes, write_dino_weights
from tests.wrong_engines import Engine

CLIP_ABOVE = 0.95
DINO_BELOW = 0.6
BATCH_SIZE = 16


def decoded(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image.convert("RGB")))


def group(record: EncoderRecord, **settings: object) -> Group:
    images_HWC = [decoded(image) for image in scenes(40)]
    return Group.of_images("scenes", record, images_HWC, num_blends=24, **settings)


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> list[TorchEncoder]:
    return small_encoders(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def clip(encoders: list[TorchEncoder]) -> TorchEncoder:
    return encoders[0]


@pytest.fixture(scope="module")
def seen(clip: TorchEncoder) -> list[Group]:
    return [group(clip.record)]


def without_antialias(pixels_HWC: torch.Tensor, crop: CropSpec) -> torch.Tensor:
    height, width = pixels_HWC.shape[:2]
    sides = [crop.resize_to * side // min(height, width) for side in (height, width)]
    resized_BCHW = torch.nn.functional.interpolate(
        pixels_HWC.permute(2, 0, 1)[None].float(), size=sides, mode="bicubic"
    )
    top, left = (round((side - crop.size) / 2) for side in resized_BCHW.shape[2:])
    square_BCHW = resized_BCHW[..., top : top + crop.size, left : left + crop.size]
    return square_BCHW[0].round().clamp(0, 255).to(torch.uint8)


@pytest.mark.parametrize(("which", "threshold"), [(0, CLIP_ABOVE), (1, DINO_BELOW), (0, None)])
def test_truth_equals_itself(
    encoders: list[TorchEncoder], which: int, threshold: float | None
) -> None:
    truth = encoders[which]
    groups = [group(truth.record)]
    verdict = verify(truth, truth, groups, threshold=threshold, batch_size=BATCH_SIZE)
    verdict.refuse()
    # What is left is the truth's own, whose sums depend a little on how many images come at once.
    assert verdict.deviation < 1e-6
    assert verdict.num_images == 64
    assert verdict.num_near_pairs >= 8
    assert verdict.spread > 0.5
    assert {c.name for c in verdict.checks} >= {"pixels", "pair p99", "near", "position", "repeat"}
    assert ("candidates" in {c.name for c in verdict.checks}) == (threshold is not None)


@pytest.mark.parametrize(
    ("engine", "because"),
    [
        ({"harm": wrong_engines.plain_gelu}, {"pair max", "pair p99"}),
        ({"harm": wrong_engines.layer_norm_epsilon}, {"pair p99"}),
        ({"harm": wrong_engines.layer_norm_weight}, {"pair max", "pair p99", "near"}),
        ({"harm": wrong_engines.block_dropped}, {"image", "pair max", "near", "candidates"}),
        ({"before": wrong_engines.swapped_channels}, {"image", "pair max", "near", "candidates"}),
        ({"computes": "bf16", "precision": "fp32"}, {"pair max", "pair p99", "near"}),
        ({"computes": "bf16"}, {"pair p99"}),
        ({"after": wrong_engines.half_norm}, {"norm"}),
        ({"after": wrong_engines.lost_row}, {"finite", "image", "pair max", "position", "repeat"}),
    ],
    ids=lambda value: "+".join(
        getattr(part, "__name__", str(part)) for part in getattr(value, "values", list)()
    ),
)
def test_wrong_engine_is_refused(
    clip: TorchEncoder, seen: list[Group], engine: dict[str, object], because: set[str]
) -> None:
    wrong = Engine(clip, **engine)
    verdict = verify(wrong, clip, seen, threshold=CLIP_ABOVE, batch_size=BATCH_SIZE)
    assert {check.name for check in verdict.failures} >= because, verdict.failures
    with pytest.raises(ParityError, match=rf"{sorted(because)[0]} of .* limit"):
        verdict.refuse()


@pytest.mark.parametrize(
    ("change", "alone"),
    [
        (wrong_engines.rotated, {"image"}),
        (wrong_engines.stale_tail, {"position", "moved pair"}),
        (wrong_engines.restless, {"repeat"}),
    ],
)
def test_what_one_check_alone_can_see(
    clip: TorchEncoder, seen: list[Group], change: wrong_engines.Change, alone: set[str]
) -> None:
    torch.manual_seed(0)
    wrong = Engine(clip, after=change)
    verdict = verify(wrong, clip, seen, threshold=CLIP_ABOVE, batch_size=BATCH_SIZE)
    assert {check.name for check in verdict.failures} == alone
    with pytest.raises(ParityError, match="by planted in fp32 on cpu does not equal TorchEncoder"):
        verdict.refuse()


@pytest.mark.parametrize(
    "crop",
    [without_antialias, lambda pixels, crop: wrong_engines.swapped_channels(cut(pixels, crop))],
    ids=["antialias off", "swapped channels"],
)
def test_wrong_preprocessing_is_refused(
    clip: TorchEncoder, crop: Callable[[torch.Tensor, CropSpec], torch.Tensor]
) -> None:
    groups = [group(clip.record, crop=crop)]
    verdict = verify(clip, clip, groups, threshold=CLIP_ABOVE, batch_size=BATCH_SIZE)
    assert {check.name for check in verdict.failures} == {"pixels"}
    with pytest.raises(ParityError, match=r"pixels of scenes is \d+, limit 2"):
        verdict.refuse()


def test_engine_that_is_right_on_one_kind_of_images_alone(
    clip: TorchEncoder, seen: list[Group]
) -> None:
    wrong = Engine(clip, before=wrong_engines.saturated)
    dim = Group.of_pixels("dim", (seen[0].pixels_NCHW.float() * 0.7).to(torch.uint8))
    verify(wrong, clip, [dim], threshold=CLIP_ABOVE, batch_size=BATCH_SIZE).refuse()
    verdict = verify(wrong, clip, [dim, *seen], threshold=CLIP_ABOVE, batch_size=BATCH_SIZE)
    failed = {(check.name, check.group) for check in verdict.failures}
    assert failed >= {("pair p99", "scenes"), ("pair max", "all"), ("image", "scenes")}
    assert "dim" not in {kind for _, kind in failed}


@pytest.mark.parametrize("which", [0, 1], ids=["clip", "dino"])
def test_outlier_channel_overflows_fp16(encoders: list[TorchEncoder], which: int) -> None:
    outlier = Engine(encoders[which], harm=wrong_engines.outlier_channel).encode
    groups = [group(outlier.record)]
    verify(Engine(outlier), outlier, groups, batch_size=BATCH_SIZE).refuse()
    verdict = verify(Engine(outlier, computes="fp16"), outlier, groups, batch_size=BATCH_SIZE)
    with pytest.raises(ParityError, match="finite of all is 64, limit 0"):
        verdict.refuse()


@pytest.mark.parametrize("which", [0, 1], ids=["clip", "dino"])
def test_fused_fp16_passes(encoders: list[TorchEncoder], which: int) -> None:
    truth = encoders[which]
    engine = Engine(truth, fused=True, computes="fp16")
    verdict = verify(engine, truth, [group(truth.record)], batch_size=BATCH_SIZE)
    verdict.refuse()
    assert 1e-5 < verdict.deviation < 2e-3


def test_bf16_passes_where_a_tower_is_wide_enough(tmp_path: Path) -> None:
    record = dino_record(config=dino_record().config | {"embed_dim": 384, "num_heads": 6}, dim=384)
    path = write_dino_weights(tmp_path / "dino.safetensors", record.config)
    wide = load_encoder(record, weights=path)
    groups = [group(record)]
    engine = Engine(wide, fused=True, computes="bf16")
    verdict = verify(engine, wide, groups, threshold=DINO_BELOW, batch_size=BATCH_SIZE)
    verdict.refuse()
    assert 5e-4 < verdict.deviation < 5e-3
    pretending = Engine(wide, fused=True, computes="bf16", precision="fp32")
    verdict = verify(pretending, wide, groups, threshold=DINO_BELOW, batch_size=BATCH_SIZE)
    with pytest.raises(ParityError, match=r"by fused in fp32 on cpu .* pair p99 of"):
        verdict.refuse()


@pytest.mark.slow
@pytest.mark.parametrize("which", ["clip-vit-l-14", "dinov2-vit-l-14"])
def test_bf16_passes_for_full_architectures(which: str, large_weights: LargeWeights) -> None:
    truth = load_encoder(which, weights=large_weights(which))
    images_HWC = [decoded(image.resize((300, 260))) for image in scenes(7)]
    groups = [Group.of_images("scenes", truth.record, images_HWC, num_blends=13)]
    engine = Engine(truth, fused=True, computes="bf16")
    verdict = verify(engine, truth, groups, threshold=0.95, batch_size=8)
    verdict.refuse()
    assert verdict.deviation > 1e-4


@pytest.mark.skipif(not PHOTOGRAPHS.exists(), reason="no photographs beside the repo")
def test_photographs(encoders: list[TorchEncoder]) -> None:
    images_HWC = []
    for path in sorted(PHOTOGRAPHS.glob("*.tar")):
        with tarfile.open(path) as shard:
            files = (shard.extractfile(m) for m in shard if m.name.endswith(".jpg"))
            images_HWC += [decode(f.read(), ImageLimits()).pixels_HWC for f in files if f]
    for truth, threshold in zip(encoders, (CLIP_ABOVE, DINO_BELOW), strict=True):
        groups = [
            Group.of_images("photographs", truth.record, images_HWC[::3], num_blends=20),
            group(truth.record),
        ]
        verify(truth, truth, groups, threshold=threshold, batch_size=BATCH_SIZE).refuse()
        wrong = Engine(truth, harm=wrong_engines.layer_norm_weight)
        verdict = verify(wrong, truth, groups, threshold=threshold, batch_size=BATCH_SIZE)
        with pytest.raises(ParityError, match=r"pair max of photographs .* pair max of scenes"):
            verdict.refuse()


def test_images_by_which_nothing_can_be_said(clip: TorchEncoder, seen: list[Group]) -> None:
    pixels_NCHW = seen[0].pixels_NCHW
    few = Group.of_pixels("few", pixels_NCHW[:15])
    with pytest.raises(ParityError, match="cannot be judged: group few has 15 images, at least 16"):
        verify(clip, clip, [*seen, few])
    alike = Group.of_pixels("alike", pixels_NCHW[:1].repeat(16, 1, 1, 1))
    with pytest.raises(ParityError, match=r"cosines spread by 0\.000, at least 0\.3 are needed"):
        verify(clip, clip, [alike])
    everything_NCHW = torch.cat([group.pixels_NCHW for group in seen])
    vectors_ND = clip(everything_NCHW)
    rows = [0]
    for row in range(len(vectors_ND)):
        if (vectors_ND[rows] @ vectors_ND[row]).max() < 0.91:
            rows.append(row)
    apart = Group.of_pixels("apart", everything_NCHW[rows])
    with pytest.raises(ParityError, match=r"pairs have a cosine above 0\.9, at least 8 are needed"):
        verify(clip, clip, [apart])
    # With a threshold the nearest pairs there are count as near.
    assert verify(clip, clip, [apart], threshold=0.999).num_near_pairs >= 8


def test_what_cannot_be_compared(encoders: list[TorchEncoder], seen: list[Group]) -> None:
    clip, dino = encoders
    with pytest.raises(ValueError, match="the truth is in bf16; load TorchEncoder in fp32"):
        verify(clip, Engine(clip, computes="bf16").encode, seen)
    with pytest.raises(ValueError, match=r"the engine is small-dino-\w+, the truth small-clip-"):
        verify(dino, clip, seen)
    with pytest.raises(ValueError, match="there are no limits for int4; precisions are fp32"):
        verify(Engine(clip, precision="int4"), clip, seen)
    with pytest.raises(ValueError, match="batch_size is 0; give at least 1"):
        verify(clip, clip, seen, batch_size=0)


def test_deviation_covers_what_an_image_gets_in_other_batches(
    clip: TorchEncoder, seen: list[Group]
) -> None:
    def off_where_not_full(vectors_BD: torch.Tensor) -> torch.Tensor:
        if len(vectors_BD) == BATCH_SIZE:
            return vectors_BD
        turned_BD = vectors_BD + 1e-3 * vectors_BD.roll(1, dims=1)
        return torch.nn.functional.normalize(turned_BD, dim=1)

    assert len(seen[0]) % BATCH_SIZE == 0
    engine = Engine(clip, after=off_where_not_full)
    verdict = verify(engine, clip, seen, threshold=CLIP_ABOVE, batch_size=BATCH_SIZE)
    worst = {check.name: check.value for check in verdict.checks}
    assert worst["pair max"] == 0
    assert verdict.deviation == worst["moved pair"] > 1e-5


@pytest.mark.parametrize(("num_near", "fails"), [(8, False), (99, False), (100, True)])
def test_few_near_pairs_are_held_against_the_limit_of_any_pair(num_near: int, fails: bool) -> None:
    """Of 99 pairs one in a hundred is the largest one, which may err by more."""
    rows, columns = torch.triu_indices(40, 40, 1)
    error_NN, near_NN = torch.zeros(40, 40), torch.zeros(40, 40, dtype=torch.bool)
    near_NN[rows[:num_near], columns[:num_near]] = True
    limits = PAIR_LIMITS["fp32"]
    wrong = slice(0, 1 if num_near < 100 else 2)
    error_NN[rows[wrong], columns[wrong]] = (limits.p99 + limits.max) / 2
    checks = {check.name: check for check in _pair_checks("all", error_NN, near_NN, limits)}
    assert checks["pair p99"].passed
    assert checks["near"].passed != fails
    error_NN[rows[0], columns[0]] = 1.01 * limits.max
    checks = {check.name: check for check in _pair_checks("all", error_NN, near_NN, limits)}
    assert not checks["near"].passed
