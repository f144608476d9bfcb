"""The fast path of cutting a square against Pillow and torchvision."""

import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as tv

from miner.config import ImageLimits
from miner.crops import CropSpec, cut
from miner.images import decode
from miner.phash import PHASH_CROP
from tests.pictures import largest_difference

PHOTOGRAPHS = sorted((Path(__file__).parents[2] / "shared" / "data").glob("*.tar"))
CROPS = [
    PHASH_CROP,
    CropSpec(mode="shortest", resize_to=256, size=224),
    CropSpec(mode="shortest", resize_to=336, size=336),
    CropSpec(mode="shortest", resize_to=64, size=64, interpolation="bilinear"),
    CropSpec(mode="shortest", resize_to=70, size=63),
    CropSpec(mode="shortest", resize_to=256, size=224, interpolation="bilinear"),
    CropSpec(mode="squash", resize_to=224, size=224),
    CropSpec(mode="squash", resize_to=64, size=64, interpolation="bilinear"),
]


@pytest.fixture(scope="module")
def photographs() -> list[bytes]:
    found = []
    for path in PHOTOGRAPHS:
        with tarfile.open(path) as tar:
            found += [tar.extractfile(member).read() for member in tar if ".jpg" in member.name]
    if not found:
        pytest.skip("no photographs in ../shared/data")
    return found


def test_photographs_by_both_paths(photographs: list[bytes]) -> None:
    for at, data in enumerate(photographs):
        fast = decode(data, ImageLimits())
        slow = decode(data, ImageLimits(), reference=True)
        assert largest_difference(fast.pixels_HWC, slow.pixels_HWC) <= 2
        for crop in CROPS if at % 8 == 0 else CROPS[:2]:
            fast_CHW = cut(fast.pixels_HWC, crop)
            assert largest_difference(fast_CHW, cut(slow.pixels_HWC, crop, reference=True)) <= 2


def texture(kind: str, height: int, width: int, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    period = 1 + seed % 9
    pixels_HWC = {
        "noise": lambda: rng.integers(0, 256, (height, width, 3)),
        "salt": lambda: rng.integers(0, 2, (height, width, 3)) * 255,
        "checkers": lambda: np.repeat(((y // period + x // period) % 2 * 255)[..., None], 3, 2),
        "stripes": lambda: np.repeat((x // period % 2 * 255)[..., None], 3, 2),
        "ramp": lambda: np.stack([x * 255 // width, y * 255 // height, (x + y) % 256], -1),
    }[kind]()
    return torch.from_numpy(pixels_HWC.astype(np.uint8))


@st.composite
def textures(draw: st.DrawFn) -> torch.Tensor:
    short = draw(st.one_of(st.integers(1, 12), st.integers(1, 400)))
    long = draw(st.integers(short, min(100 * short, max(600, 2 * short))))
    height, width = draw(st.permutations([short, long]))
    kind = draw(st.sampled_from(["noise", "salt", "checkers", "stripes", "ramp"]))
    return texture(kind, height, width, draw(st.integers(0, 99)))


@settings(deadline=None, max_examples=250)
@given(textures(), st.sampled_from(CROPS))
def test_any_image_by_both_paths(pixels_HWC: torch.Tensor, crop: CropSpec) -> None:
    fast_CHW = cut(pixels_HWC, crop)
    assert fast_CHW.shape == (3, crop.size, crop.size)
    assert fast_CHW.dtype == torch.uint8
    assert fast_CHW.is_contiguous()
    assert largest_difference(fast_CHW, cut(pixels_HWC, crop, reference=True)) <= 2


@pytest.mark.parametrize("crop", CROPS, ids=str)
@pytest.mark.parametrize(
    ("height", "width"),
    [(1, 1), (2, 200), (200, 2), (480, 239), (2460, 345), (670, 76), (300, 2500), (361, 5),
     (8, 790), (224, 224), (225, 224), (224, 500), (63, 64), (1, 7)],
)  # fmt: skip
def test_hard_contrast_by_both_paths(height: int, width: int, crop: CropSpec) -> None:
    pixels_HWC = texture("salt", height, width)
    slow_CHW = cut(pixels_HWC, crop, reference=True)
    assert largest_difference(cut(pixels_HWC, crop), slow_CHW) <= 2


@pytest.mark.parametrize("crop", CROPS, ids=str)
@pytest.mark.parametrize(("height", "width"), [(375, 500), (501, 333), (3, 5), (50, 431)])
def test_the_reference_is_torchvisions_transforms(height: int, width: int, crop: CropSpec) -> None:
    pixels_HWC = texture("noise", height, width)
    size = [crop.size, crop.size] if crop.mode == "squash" else [crop.resize_to]
    image = Image.fromarray(pixels_HWC.numpy())
    image = tv.resize(image, size, InterpolationMode(crop.interpolation))
    expected_HWC = np.asarray(tv.center_crop(image, [crop.size, crop.size]))
    assert np.array_equal(cut(pixels_HWC, crop, reference=True).permute(1, 2, 0), expected_HWC)


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"mode": "shortest", "resize_to": 200, "size": 224}, r"resize_to is 200, less than size"),
        ({"mode": "squash", "resize_to": 256, "size": 224}, r"resize_to is 256, but a squash goes"),
        ({"mode": "shortest", "resize_to": 0, "size": 0}, "greater than 0"),
    ],
)
def test_impossible_crops_are_refused(fields: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        CropSpec(**fields)
