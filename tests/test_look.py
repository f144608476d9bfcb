"""The images that the gate sees: cut both ways, blended, and chosen out of many."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from export.look import Group, blends, pick_images
from miner.crops import CropSpec, cut
from tests.small import picture
from tests.towers import clip_record


def too_small(image_HWC: torch.Tensor, crop: CropSpec) -> torch.Tensor:
    return cut(image_HWC, crop)[:, :8, :8]


def images_HWC(number: int) -> list[torch.Tensor]:
    return [torch.from_numpy(np.array(picture(seed, (150, 110)))) for seed in range(number)]


def test_images_are_cut_by_the_reference_and_as_a_run_does() -> None:
    record, images = clip_record(), images_HWC(4)
    group = Group.of_images("pictures", record, images, num_blends=3)
    assert len(group) == 7
    for row, image_HWC in enumerate(images):
        reference_CHW = cut(image_HWC, record.crop, reference=True)
        assert torch.equal(group.reference_NCHW[row], reference_CHW)
        assert torch.equal(group.pixels_NCHW[row], cut(image_HWC, record.crop))
    assert not torch.equal(group.reference_NCHW, group.pixels_NCHW)
    with pytest.raises(ValueError, match=r"pixels are uint8 \[4, 3, 8, 8\], small-clip wants"):
        Group.of_images(
            "p", record, images, crop=lambda image, _: image.permute(2, 0, 1)[:, :8, :8]
        )


def test_both_see_the_same_images() -> None:
    pixels_NCHW = torch.zeros(3, 3, 8, 8, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"group g: the reference has \[3, 3, 8, 8\] pixels"):
        Group(name="g", reference_NCHW=pixels_NCHW, pixels_NCHW=pixels_NCHW[:2])


def test_hash_covers_name_pixels_and_reference() -> None:
    pixels_NCHW = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    other_NCHW = pixels_NCHW.clone()
    other_NCHW[1, 2, 7, 7] = 1
    groups = [
        Group.of_pixels("a", pixels_NCHW),
        Group.of_pixels("b", pixels_NCHW),
        Group.of_pixels("a", other_NCHW),
        Group(name="a", reference_NCHW=pixels_NCHW, pixels_NCHW=other_NCHW),
        Group(name="a", reference_NCHW=other_NCHW, pixels_NCHW=pixels_NCHW),
        Group.of_pixels("a", pixels_NCHW.view(2, 3, 4, 16)),
    ]
    assert len({group.sha256 for group in groups}) == len(groups)
    assert groups[0].sha256 == Group.of_pixels("a", pixels_NCHW.clone()).sha256


def test_blends_go_from_one_image_to_half_of_the_next() -> None:
    pixels_NCHW = torch.stack([torch.full((3, 4, 4), v, dtype=torch.uint8) for v in (0, 100, 200)])
    mixed_BCHW = blends(pixels_NCHW, 4)
    assert mixed_BCHW.dtype == torch.uint8
    # Shares 1/8, 1/4, 3/8, 1/2 of images 1, 2, 0, 1 in images 0, 1, 2, 0.
    assert mixed_BCHW[:, 0, 0, 0].tolist() == [12, 125, 125, 50]


def unit(*degrees: float) -> torch.Tensor:
    angles_N = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    return torch.stack([angles_N.cos(), angles_N.sin()], dim=1).float()


def test_picks_the_nearest_pairs_and_the_farthest_images() -> None:
    # 10 and 11 are the nearest pair, 40 and 42 the next; 180 lies opposite, then 270.
    vectors_ND = unit(10, 40, 180, 11, 42, 100, 270, 100.0)
    assert pick_images(vectors_ND, 4) == [0, 2, 3, 6]
    assert pick_images(vectors_ND, 6) == [0, 2, 3, 4, 5, 6]
    assert pick_images(vectors_ND, 8) == list(range(8))
    assert pick_images(vectors_ND, 100) == list(range(8))


def test_copies_form_no_pair() -> None:
    vectors_ND = unit(10, 10, 10, 50, 52, 200)
    assert pick_images(vectors_ND, 4) == [0, 3, 4, 5]


def test_pick_needs_a_pair() -> None:
    with pytest.raises(ValueError, match="1 images are to be picked; give at least 2"):
        pick_images(unit(0, 1), 1)
