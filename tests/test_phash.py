import imagehash
import numpy as np
import torch
from PIL import Image

from miner.config import ImageLimits
from miner.images import cut, decode
from miner.phash import PHASH_CROP, gray, hashes, perceptual_hash, shrunk
from miner.registry import REGISTRY
from tests.small import jpeg


def crop_of(data: bytes) -> torch.Tensor:
    return cut(decode(data, ImageLimits()).pixels_HWC, PHASH_CROP)


def by_imagehash(crop_CHW: torch.Tensor) -> int:
    image = Image.fromarray(crop_CHW.permute(1, 2, 0).contiguous().numpy())
    return int(str(imagehash.phash(image)), 16)


def flat(*colour: int) -> torch.Tensor:
    return torch.tensor(colour, dtype=torch.uint8)[:, None, None].expand(3, 224, 224).contiguous()


def test_values_are_imagehashs() -> None:
    generator = torch.Generator().manual_seed(3)
    noise = torch.randint(0, 256, (3, 224, 224), dtype=torch.uint8, generator=generator)
    crops = [crop_of(jpeg(seed, (300, 240))) for seed in range(60)]
    # In a flat picture all frequencies but one are exactly zero: equal to their median.
    crops += [noise, flat(0, 0, 0), flat(255, 255, 255), flat(13, 200, 77), noise // 128 * 255]
    found = [perceptual_hash(crop_CHW) for crop_CHW in crops]
    assert found == [by_imagehash(crop_CHW) for crop_CHW in crops]
    assert hashes(np.stack([shrunk(crop_CHW) for crop_CHW in crops])) == found
    assert len(set(found)) > 50
    assert max(found) >= 2**63


def test_gray_is_pillows() -> None:
    levels = np.arange(0, 256, 5, dtype=np.uint8)
    cube_CHW = np.stack(np.meshgrid(levels, levels, levels)).reshape(3, 52, -1)
    expected_HW = np.asarray(Image.fromarray(cube_CHW.transpose(1, 2, 0).copy()).convert("L"))
    np.testing.assert_array_equal(gray(torch.from_numpy(cube_CHW)), expected_HW)


def test_hash_of_a_copy_is_near_and_of_others_far() -> None:
    def hash_of(seed: int, size: tuple[int, int]) -> int:
        return perceptual_hash(crop_of(jpeg(seed, size)))

    def distance(a: int, b: int) -> int:
        return (a ^ b).bit_count()

    assert distance(hash_of(1, (400, 320)), hash_of(1, (300, 240))) <= 4
    assert min(distance(hash_of(1, (400, 320)), hash_of(seed, (400, 320))) for seed in (2, 3)) > 12


def test_crop_is_the_clip_defaults() -> None:
    assert REGISTRY["clip-vit-l-14"].crop == PHASH_CROP
