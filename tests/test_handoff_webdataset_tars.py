import gc
import tarfile
from pathlib import Path
from typing import Any

import pytest
import webdataset

from miner.handoff import webdataset_tars
from miner.store import Store
from tests.handoff_runs import deliver, originals_of, selected_of


@pytest.fixture(scope="module")
def folder(reviewed: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wds") / "out"
    deliver(reviewed, "webdataset", out)
    return out


# webdataset leaves open tars to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


def read(folder: Path, *, decode: bool = False) -> list[dict[str, Any]]:
    tars = [str(path) for path in sorted(folder.glob("*.tar"))]
    pairs = webdataset.WebDataset(tars, shardshuffle=False, empty_check=False)
    found = list(pairs.decode("pil") if decode else pairs)
    del pairs
    gc.collect()
    return found


def test_webdataset_reads_pairs_with_the_bytes_of_their_shards(
    reviewed: Store, folder: Path
) -> None:
    originals, rows = originals_of(reviewed), selected_of(reviewed)[:-2]
    found = read(folder)
    assert [pair["__key__"] for pair in found] == [row["pair_id"] for row in rows]
    for pair, row in zip(found, rows, strict=True):
        for number in (1, 2):
            (name,) = (name for name in pair if name.startswith(f"image_{number}."))
            assert pair[name] == originals[row[f"sha256_{number}"]]


def test_webdataset_decodes_images_and_fields(reviewed: Store, folder: Path) -> None:
    for pair, row in zip(read(folder, decode=True), selected_of(reviewed)[:-2], strict=True):
        assert pair["json"]["caption_2"] == row["caption_2"]
        assert pair["json"]["clip_cos"] == pytest.approx(row["clip_cos"], rel=1e-7)
        images = [pair[name] for name in pair if name.startswith("image_")]
        assert len(images) == 2
        assert all(image.mode == "RGB" for image in images)


def test_tars_tell_no_time_and_no_owner(folder: Path) -> None:
    (path,) = folder.glob("*.tar")
    with tarfile.open(path) as tar:
        for info in tar:
            assert (info.mtime, info.uid, info.gid, info.uname) == (0, 0, 0, "")
            assert "/" not in info.name


def test_large_hand_offs_are_parted(
    reviewed: Store, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webdataset_tars, "TAR_BYTES", 40_000)
    deliver(reviewed, "webdataset", tmp_path / "out")
    assert len(list((tmp_path / "out").glob("pairs-00000?.tar"))) > 3
    assert [p["__key__"] for p in read(tmp_path / "out")] == [p["__key__"] for p in read(folder)]
