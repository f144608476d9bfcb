from pathlib import Path

import pytest

from miner.config import ImageLimits
from miner.handoff import locate
from miner.handoff.locate import in_folder, in_shards
from miner.handoff.originals import Originals
from miner.records import Json
from tests.report_runs import Shot, encoded, sample_rows
from tests.small import write_tar

SHOTS = [Shot(data=encoded(seed)) for seed in range(5)]


@pytest.fixture
def images(tmp_path: Path) -> list[Json]:
    rows = sample_rows(SHOTS, tmp_path / "corpus" / "00000.tar")
    return [row | {"shard": "00000.tar"} for row in rows]


def check_places(images: list[Json], places: dict[str, object]) -> None:
    assert set(places) == {image["sha256"] for image in images}
    with Originals(places, ImageLimits(), bake=False) as originals:  # type: ignore[arg-type]
        for image in images:
            assert originals.read(image)


def test_a_shard_that_is_the_same_is_not_scanned(
    images: list[Json], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(shard: object, wanted: object) -> None:
        raise AssertionError(f"{shard} is scanned")

    monkeypatch.setattr(locate, "_scan", refuse)
    check_places(images, in_shards([str(tmp_path / "corpus")], images, ImageLimits()))


def test_shards_are_scanned_until_all_is_found(
    images: list[Json], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = [(f"{n}.jpg", shot.data) for n, shot in enumerate(SHOTS)]
    write_tar(tmp_path / "copy" / "1" / "x.tar", members[:2])
    write_tar(tmp_path / "copy" / "2" / "x.tar", members)
    write_tar(tmp_path / "copy" / "3" / "x.tar", members)
    scanned = []
    scan = locate._scan
    monkeypatch.setattr(
        locate, "_scan", lambda shard, *args: (scanned.append(shard.url), scan(shard, *args))[1]
    )
    check_places(images, in_shards([str(tmp_path / "copy" / "*" / "x.tar")], images, ImageLimits()))
    assert [Path(url).parent.name for url in scanned] == ["1", "2"]


def test_folder_trees_are_shards_too(images: list[Json], tmp_path: Path) -> None:
    (tmp_path / "tree" / "a").mkdir(parents=True)
    for number, shot in enumerate(SHOTS):
        (tmp_path / "tree" / "a" / f"{number}.jpg").write_bytes(shot.data)
    check_places(images, in_shards([str(tmp_path / "tree")], images, ImageLimits()))


def test_files_are_told_by_their_bytes(images: list[Json], tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    for number, shot in enumerate(SHOTS):
        (tmp_path / "files" / f"{number}.txt").write_bytes(shot.data)
    (tmp_path / "files" / "other").write_bytes(SHOTS[0].data[::-1])
    check_places(images, in_folder(tmp_path / "files", images))
    assert in_folder(tmp_path / "corpus", images) == {}


def test_shards_are_scanned_under_the_runs_own_limits(images: list[Json], tmp_path: Path) -> None:
    write_tar(tmp_path / "copy.tar", [(f"{n}.jpg", shot.data) for n, shot in enumerate(SHOTS)])
    sizes = sorted(image["num_bytes"] for image in images)
    limits = ImageLimits(max_member_bytes=sizes[-1] - 1)
    found = in_shards([str(tmp_path / "copy.tar")], images, limits)
    assert {place.num_bytes for place in found.values()} == {*sizes} - {sizes[-1]}


@pytest.mark.parametrize(
    "forged", [{"offset": 2**62}, {"num_bytes": 2**62}, {"offset": 2**63 - 2}, {"member": "\0"}]
)
def test_rows_that_lead_nowhere_are_scanned_for(
    images: list[Json], tmp_path: Path, forged: Json
) -> None:
    wanted = [images[0] | forged, *images[1:]]
    found = in_shards([str(tmp_path / "corpus")], wanted, ImageLimits())
    is_there = "num_bytes" not in forged
    assert (images[0]["sha256"] in found) is is_there
