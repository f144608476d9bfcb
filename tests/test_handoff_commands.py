import re
from pathlib import Path

import pytest

from miner.store import Store
from tests.commands import Commands
from tests.handoff_runs import QUESTION, many_shots, originals_of, review, run_of, selected_of, tree
from tests.small import write_tar


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return Path(run_of(tmp_path, many_shots(4)).root)


def test_pairs_are_handed_off(commands: Commands, run: Path, tmp_path: Path) -> None:
    ran = commands("handoff", "webdataset", run, "--out", tmp_path / "out")
    assert ran.code == 0, ran.err
    assert "nobody has reviewed any; taken: all" in ran.out
    assert list((tmp_path / "out").glob("*.tar"))
    again = commands("handoff", "webdataset", run, "--out", tmp_path / "out")
    assert "was there already" in again.out
    other = commands("handoff", "hf", run, "--out", tmp_path / "out")
    assert other.code == 4
    assert "holds another hand-off (webdataset)" in other.err
    assert commands("handoff", "hf", run, "--out", tmp_path / "out", "--overwrite").code == 0


def test_accepted_pairs_are_taken_and_counted(
    commands: Commands, run: Path, tmp_path: Path
) -> None:
    store = Store(run)
    rows = selected_of(store)
    review(store, rows[:2], **QUESTION)
    ran = commands("handoff", "mmvp", run, "--out", tmp_path / "out")
    assert ran.code == 0, ran.err
    assert f"{len(rows)} pairs, reviewers accepted 2; taken: accepted" in ran.out
    assert "2 pairs of" in ran.out
    ran = commands("handoff", "mmvp", run, "--out", tmp_path / "all", "--reviewed", "all")
    assert ran.code == 2
    assert f"mmvp: {len(rows) - 2} of {len(rows)} pairs cannot be asked about" in ran.err
    ran = commands("handoff", "mmvp-vlm", run, "--out", tmp_path / "all")
    assert ran.code == 2
    assert "Camera Perspective" in ran.err


def test_options_without_effect_are_refused(commands: Commands, run: Path, tmp_path: Path) -> None:
    ran = commands("handoff", "csv", run, "--out", tmp_path / "out", "--images", "none")
    assert ran.code == 2
    assert "--images has no effect on csv" in ran.err
    ran = commands("handoff", "excel", run, "--out", tmp_path / "out")
    assert ran.code == 2


def test_ids_are_hydrated_from_the_readers_copy(
    commands: Commands, run: Path, tmp_path: Path
) -> None:
    ids = tmp_path / "ids"
    ran = commands("handoff", "label-studio", run, "--out", ids, "--images", "none")
    assert f"blindpairs hydrate {ids} --shards SHARD" in ran.out
    commands("handoff", "label-studio", run, "--out", tmp_path / "whole")
    assert commands("hydrate", ids).code == 2
    members = [(f"{n}.jpg", data) for n, data in enumerate(originals_of(Store(run)).values())]
    first = write_tar(tmp_path / "first.tar", members[:3])
    second = write_tar(tmp_path / "second.tar", members[3:])
    ran = commands("hydrate", ids, "--shards", first)
    assert ran.code == 3
    assert re.search(r"missing: [0-9a-f]{64}, once at '.*: .*'", ran.out)
    assert "stays as it is" in ran.out
    ran = commands("hydrate", ids, "--shards", first, "--shards", second)
    assert ran.code == 0, ran.err
    assert tree(ids) == tree(tmp_path / "whole")
    assert "has its images already" in commands("hydrate", ids, "--shards", first).out


def test_missing_images_may_be_left_out(commands: Commands, run: Path, tmp_path: Path) -> None:
    ids = tmp_path / "ids"
    commands("handoff", "webdataset", run, "--out", ids, "--images", "none")
    members = [(f"{n}.jpg", data) for n, data in enumerate(originals_of(Store(run)).values())]
    first = write_tar(tmp_path / "first.tar", members[:3])
    ran = commands("hydrate", ids, "--shards", first, "--skip-missing")
    assert ran.code == 2
    assert "--skip-missing would put fewer pairs in the place of the ids" in ran.err
    ran = commands(
        *("hydrate", ids, "--shards", first, "--skip-missing", "--out", tmp_path / "some")
    )
    assert ran.code == 3
    assert "3 pairs, 3 left out" in ran.out
    assert (tmp_path / "some" / "missing.csv").is_file()
    assert list((tmp_path / "some").glob("*.tar"))
    assert not (ids / "missing.csv").exists()


def test_a_lost_image_ends_no_hand_off(commands: Commands, run: Path, tmp_path: Path) -> None:
    shard = tmp_path / "corpus" / "00000.tar"
    lost = next(iter(originals_of(Store(run)).values()))
    shard.write_bytes(shard.read_bytes().replace(lost, lost[::-1]))
    assert commands("handoff", "hf", run, "--out", tmp_path / "out").code == 4
    ran = commands("handoff", "hf", run, "--out", tmp_path / "out", "--skip-missing")
    assert ran.code == 3, ran.err
    assert "3 pairs, as 1 images cannot be read" in ran.out
