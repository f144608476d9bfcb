import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from miner.config import ImageLimits
from miner.errors import ShardError
from miner.handoff.originals import Originals, Place
from miner.records import Json
from tests.report_runs import Shot, sample_rows
from tests.small import picture


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[274] = orientation
    buffer = io.BytesIO()
    picture(orientation, (60, 40)).save(buffer, "JPEG", exif=exif, quality=95)
    return buffer.getvalue()


SHOTS = [Shot(data=turned(number), exif_orientation=number) for number in range(1, 9)]


@pytest.fixture
def rows(tmp_path: Path) -> list[Json]:
    return sample_rows(SHOTS, tmp_path / "00000.tar")


def originals_of(rows: list[Json], *, bake: bool, **limits: int) -> Originals:
    places = {
        row["sha256"]: Place(
            url=row["shard"],
            member=row["member"],
            offset=row["offset"],
            num_bytes=row["num_bytes"],
        )
        for row in rows
    }
    return Originals(places, ImageLimits(**limits), bake=bake)


def test_bytes_are_the_own_ones_unless_asked_otherwise(rows: list[Json]) -> None:
    with originals_of(rows, bake=False) as originals:
        for row, shot in zip(rows, SHOTS, strict=True):
            assert originals.read(row) == shot.data
            assert originals.file_name(row) == f"{row['sha256']}.jpg"


def test_baked_images_are_turned_as_pillow_turns_them(rows: list[Json]) -> None:
    with originals_of(rows, bake=True) as originals:
        for row, shot in zip(rows, SHOTS, strict=True):
            data = originals.read(row)
            assert (data == shot.data) is (row["exif_orientation"] == 1)
            assert originals.extension(row) == ("jpg" if data == shot.data else "png")
            with Image.open(io.BytesIO(data)) as new, Image.open(io.BytesIO(shot.data)) as old:
                upright = ImageOps.exif_transpose(old).convert("RGB")
                assert new.size == upright.size
                difference = np.asarray(new, np.int16) - np.asarray(upright, np.int16)
                assert np.abs(difference).max() <= 2
                if data != shot.data:
                    assert 274 not in new.getexif()


def test_each_image_comes_once_in_the_order_of_its_shard(rows: list[Json]) -> None:
    with originals_of(rows, bake=False) as originals:
        found = [row["key"] for row, _ in originals.each([*rows[::-1], *rows])]
    assert found == [row["key"] for row in rows]


def test_bytes_that_are_others_are_refused(rows: list[Json]) -> None:
    path = Path(rows[0]["shard"])
    data = bytearray(path.read_bytes())
    data[rows[0]["offset"] + 50] ^= 1
    path.write_bytes(data)
    with (
        originals_of(rows, bake=False) as originals,
        pytest.raises(ShardError, match=r"set/00000/000000 have the sha256 .*restore the shard"),
    ):
        originals.read(rows[0])


def test_images_that_cannot_be_turned_are_told(rows: list[Json]) -> None:
    with (
        originals_of(rows, bake=True, max_pixels=100) as originals,
        pytest.raises(ShardError, match=r"cannot be decoded any more .*leave out --bake-orient"),
    ):
        originals.read(rows[5])
