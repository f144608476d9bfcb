import io

import imagehash
import numpy as np
import pytest
import torch
from PIL import Image

from miner.config import ImageLimits
from miner.crops import cut
from miner.images import decode
from miner.phash import PHASH_CROP, gray, hashes, perceptual_hash, shrunk
from miner.registry import REGISTRY
from tests.small import jpeg

SIDE = PHASH_CROP.size


def crop_of(data: bytes) -> torch.Tensor:
    return cut(decode(data, ImageLimits()).pixels_HWC, PHASH_CROP)


def by_imagehash(image: Image.Image) -> int:
    return int(str(imagehash.phash(image)), 16)


def flat(*colour: int) -> torch.Tensor:
    return torch.tensor(colour, dtype=torch.uint8)[:, None, None].expand(3, SIDE, SIDE).contiguous()


def distance(a: int, b: int) -> int:
    return (a ^ b).bit_count()


def crops() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    noise = torch.randint(0, 256, (3, SIDE, SIDE), dtype=torch.uint8, generator=generator)
    found = [crop_of(jpeg(seed, (300, 240))) for seed in range(60)]
    # In a flat picture all frequencies but one are exactly zero: equal to their median.
    return [
        *found,
        noise,
        flat(0, 0, 0),
        flat(255, 255, 255),
        flat(13, 200, 77),
        noise // 128 * 255,
    ]


def test_values_are_imagehashs() -> None:
    found = hashes(crops())
    pictures = [Image.fromarray(crop.permute(1, 2, 0).contiguous().numpy()) for crop in crops()]
    assert found == [by_imagehash(picture) for picture in pictures]
    assert found == [perceptual_hash(crop_CHW) for crop_CHW in crops()]
    assert len(set(found)) > 50
    assert max(found) >= 2**63


def test_gray_is_pillows() -> None:
    levels = np.arange(0, 256, 5, dtype=np.uint8)
    cube_CHW = np.stack(np.meshgrid(levels, levels, levels)).reshape(3, 52, -1)
    expected_HW = np.asarray(Image.fromarray(cube_CHW.transpose(1, 2, 0).copy()).convert("L"))
    np.testing.assert_array_equal(gray(cube_CHW[None])[0], expected_HW)


def test_shrinking_is_pillows() -> None:
    generator = np.random.default_rng(0)
    noise_NHW = generator.integers(0, 256, (40, SIDE, SIDE), dtype=np.uint8)
    # Black beside white: what overshoots is clipped between the passes.
    pictures_NHW = np.concatenate([noise_NHW, noise_NHW // 128 * 255, noise_NHW // 255 * 255])
    expected = [
        np.asarray(Image.fromarray(each_HW).resize((32, 32), Image.Resampling.LANCZOS))
        for each_HW in pictures_NHW
    ]
    np.testing.assert_array_equal(shrunk(pictures_NHW), np.stack(expected))


def photograph(seed: int) -> Image.Image:
    """Amplitudes fall with the frequency, as in photographs."""
    generator = np.random.default_rng(seed)
    frequency_HW = np.hypot(np.fft.fftfreq(360)[:, None], np.fft.rfftfreq(420))
    planes = []
    for _ in range(3):
        noise_HW = np.fft.rfft2(generator.standard_normal((360, 420)))
        planes.append(np.fft.irfft2(noise_HW / np.maximum(frequency_HW, 1 / 420), (360, 420)))
    pixels_HWC = np.stack([planes[0] + 0.3 * plane for plane in planes], axis=2)
    pixels_HWC = 128 + 50 * pixels_HWC / pixels_HWC.std()
    return Image.fromarray(pixels_HWC.clip(0, 255).astype(np.uint8))


def hash_of(image: Image.Image, quality: int = 90) -> int:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return perceptual_hash(crop_of(buffer.getvalue()))


@pytest.mark.parametrize("seed", range(6))
def test_hash_of_an_edited_copy_is_near(seed: int) -> None:
    image = photograph(seed)
    original = hash_of(image)
    assert distance(original, hash_of(image, quality=40)) <= 4
    assert distance(original, hash_of(image.resize((210, 180)))) <= 4
    assert distance(original, hash_of(image.resize((630, 540)))) <= 4
    assert distance(original, hash_of(image.crop((4, 4, 416, 356)))) <= 8
    # What a hash of the whole square, at full resolution, makes of it.
    square = image.crop((30, 0, 390, 360))
    assert distance(original, by_imagehash(square)) <= 4


def test_hashes_of_other_pictures_are_far() -> None:
    found = [hash_of(photograph(seed)) for seed in range(12)]
    others = [distance(a, b) for place, a in enumerate(found) for b in found[:place]]
    assert min(others) > 12


def test_crop_is_the_demos() -> None:
    assert REGISTRY["demo-clip"].crop == REGISTRY["demo-dino"].crop == PHASH_CROP
