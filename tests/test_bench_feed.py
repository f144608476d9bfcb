"""The benchmarks of decoding and of the whole run: own results that are right, and refusal."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from bench import decode, pictures, pipeline
from bench.decode import DECODERS, REFERENCE, Decoder, WrongPixelsError
from bench.pipeline import WrongVectorsError, check
from bench.rows import read_rows
from miner import crops, images
from miner.config import ImageLimits


@pytest.fixture(scope="module")
def two_pictures() -> list[bytes]:
    return pictures.generated(2)


def test_generated_pictures_have_a_photographs_spectrum(two_pictures: list[bytes]) -> None:
    for data in two_pictures:
        image = Image.open(io.BytesIO(data))
        assert image.format == "JPEG"
        assert all(400 <= side <= 500 for side in image.size)
        assert 50_000 < len(data) < 200_000
        gray_HW = np.asarray(image.convert("L"), np.float64)
        power_HW = np.abs(np.fft.fft2(gray_HW - gray_HW.mean())) ** 2
        frequency_HW = np.hypot(*np.meshgrid(*map(np.fft.fftfreq, power_HW.shape), indexing="ij"))
        bands = [(0.01, 0.02), (0.04, 0.08), (0.1, 0.2)]
        low, middle, high = (
            power_HW[(a < frequency_HW) & (frequency_HW < b)].mean() for a, b in bands
        )
        # Power falls with the square of the frequency.
        assert 4 < low / middle < 64
        assert 2 < middle / high < 32
    assert pictures.generated(1, seed=1) != pictures.generated(1, seed=2)


def test_photographs_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert pictures.photographs(tmp_path) == []
    monkeypatch.setattr(pictures, "PHOTOGRAPHS", tmp_path)
    monkeypatch.setattr(pictures, "photographs", lambda: [])
    with pytest.raises(FileNotFoundError, match="no shard of photographs; give --data generated"):
        pictures.pictures_of("photographs", 3)
    assert len(pictures.pictures_of("generated", 3)) == 3


def test_reference_of_the_benchmark_is_the_library_s(two_pictures: list[bytes]) -> None:
    for data in two_pictures:
        pixels_HWC = images.decode(data, ImageLimits(), reference=True).pixels_HWC
        for crop, found_CHW in zip(decode.CROPS, REFERENCE.crops(data), strict=True):
            expected_CHW = crops.cut(pixels_HWC, crop, reference=True)
            np.testing.assert_array_equal(found_CHW, expected_CHW.numpy())


@pytest.mark.parametrize("decoder", DECODERS, ids=lambda decoder: decoder.name)
def test_every_decoder_makes_both_crops(decoder: Decoder, two_pictures: list[bytes]) -> None:
    crops = decoder.crops(two_pictures[0])
    assert [(crop.shape, crop.dtype) for crop in crops] == [((3, 224, 224), np.uint8)] * 2
    (levels,) = decode.differences(decoder, two_pictures[:1])
    assert levels <= (64 if decoder.name == "opencv" else 2)


def test_decode_writes_rows(tmp_path: Path) -> None:
    out = tmp_path / "decode.csv"
    threads = torch.get_num_threads()
    try:
        ran = CliRunner().invoke(
            decode.main, ["--pictures", "2", "--repeats", "2", "--out", str(out)]
        )
    finally:
        torch.set_num_threads(threads)
    assert ran.exit_code == 0, ran.output
    found = {(row.provider, row.metric): row for row in read_rows(out)}
    assert "target <= 1/1.8" in found["own", "time / pillow"].note
    for decoder in DECODERS:
        speed = found[decoder.name, "images per core second"].median
        assert speed is not None
        assert speed > 1


def test_decode_refuses_wrong_pixels(two_pictures: list[bytes]) -> None:
    def darker(data: bytes) -> decode.Crops:
        return [crop - np.minimum(crop, 3) for crop in decode.own(data)]

    with pytest.raises(WrongPixelsError, match=r"own is \d of 255 from Pillow, limit 2"):
        decode.compare("generated", two_pictures, 1, [Decoder(name="own", crops=darker), REFERENCE])


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_pipeline_writes_rows(tmp_path: Path) -> None:
    out = tmp_path / "pipeline.csv"
    threads = torch.get_num_threads()
    words = ["--images", "12", "--shards", "2", "--batch-size", "4", "--repeats", "1"]
    try:
        ran = CliRunner().invoke(pipeline.main, [*words, "--num-workers", "1", "--out", str(out)])
    finally:
        torch.set_num_threads(threads)
    assert ran.exit_code == 0, ran.output
    found = {(row.provider, row.metric): row for row in read_rows(out)}
    assert "target <= 1/2.5" in found["own", "time / clip-retrieval-style"].note
    shares = [found["own", f"share of {stage}"].median or 0.0 for stage in pipeline.STAGES]
    assert sum(shares) == pytest.approx(1)
    assert found["encoders alone", "images per second"].median is not None


def test_vectors_that_are_not_the_peers_are_refused() -> None:
    mine = {"a": np.array([1.0, 0.0]), "b": np.array([0.0, 1.0])}
    assert check([mine], [mine]) == 1
    with pytest.raises(WrongVectorsError, match="1 images are in one result only"):
        check([mine], [{"a": mine["a"]}])
    turned = {"a": np.array([1.0, 0.1]), "b": mine["b"]}
    with pytest.raises(WrongVectorsError, match=r"cosine 0\.9950 with the peer's, least 0\.999"):
        check([mine], [turned])
