import os
from pathlib import Path

import pytest

from miner.errors import FingerprintError, ShardError
from miner.records import Json
from miner.shards import Shard, checksum, list_shards
from miner.store import Store
from pipelines.settle import settle
from tests.small import jpeg, write_tar


def commit(store: Store, shard: Shard) -> None:
    record: Json = {
        "shard": {
            "dataset": shard.dataset,
            "stem": shard.stem,
            "url": shard.url,
            "num_bytes": shard.num_bytes,
            "modified": shard.modified,
            "sha256": checksum(shard),
        }
    }
    assert store.commit("samples", shard.shard_id, [], record)
    seen = {"url": shard.url, "num_bytes": shard.num_bytes, "modified": shard.modified}
    store.update_run({}, {shard.shard_id: seen}, {"command": "test"})


def listed(*folders: Path) -> list[Shard]:
    return list_shards([str(folder) for folder in folders])


def write(folder: Path, *stems: int) -> None:
    for stem in stems:
        write_tar(folder / f"{stem:05d}.tar", [("x.jpg", jpeg(stem))])


def ids(shards: list[Shard]) -> list[str]:
    return [shard.shard_id for shard in shards]


def test_new_run_takes_the_folders_name(tmp_path: Path) -> None:
    write(tmp_path / "cats", 0, 1)
    assert ids(settle(listed(tmp_path / "cats"), Store(tmp_path / "r"), dataset_given=False)) == [
        "cats.00000",
        "cats.00001",
    ]


def test_renamed_folder_keeps_its_ids_and_new_shards_join_them(tmp_path: Path) -> None:
    store = Store(tmp_path / "run")
    write(tmp_path / "cats", 0, 1)
    for shard in listed(tmp_path / "cats"):
        commit(store, shard)
    (tmp_path / "cats").rename(tmp_path / "felines")
    write(tmp_path / "felines", 2)
    for path in (tmp_path / "felines").glob("*.tar"):
        os.utime(path)
    shards = settle(listed(tmp_path / "felines"), store, dataset_given=False)
    assert ids(shards) == ["cats.00000", "cats.00001", "cats.00002"]
    assert all("felines" in shard.url for shard in shards)
    named = settle(listed(tmp_path / "felines"), store, dataset_given=True)
    assert ids(named) == ["felines.00000", "felines.00001", "felines.00002"]


def test_shard_first_run_under_a_given_name_is_known_by_its_url(tmp_path: Path) -> None:
    store = Store(tmp_path / "run")
    write(tmp_path / "cats", 0)
    (shard,) = list_shards([str(tmp_path / "cats")], dataset="pets")
    commit(store, shard)
    assert ids(settle(listed(tmp_path / "cats"), store, dataset_given=False)) == ["pets.00000"]


def test_other_folder_with_like_names_is_another_dataset(tmp_path: Path) -> None:
    store = Store(tmp_path / "run")
    write(tmp_path / "cats", 0)
    commit(store, listed(tmp_path / "cats")[0])
    write_tar(tmp_path / "dogs" / "00000.tar", [("x.jpg", jpeg(99))])
    assert ids(settle(listed(tmp_path / "dogs"), store, dataset_given=False)) == ["dogs.00000"]


def test_copy_beside_the_original_is_told_from_it(tmp_path: Path) -> None:
    store = Store(tmp_path / "run")
    write(tmp_path / "cats", 0)
    commit(store, listed(tmp_path / "cats")[0])
    write(tmp_path / "copy", 0)
    both = listed(tmp_path / "cats", tmp_path / "copy")
    assert ids(settle(both, store, dataset_given=False)) == ["cats.00000", "copy.00000"]


def test_two_moved_folders_that_would_share_an_id(tmp_path: Path) -> None:
    store = Store(tmp_path / "run")
    write(tmp_path / "cats", 0, 1)
    for shard in listed(tmp_path / "cats"):
        commit(store, shard)
    (tmp_path / "cats").rename(tmp_path / "moved")
    (tmp_path / "moved" / "00001.tar").unlink()
    write_tar(tmp_path / "cats" / "00000.tar", [("x.jpg", jpeg(50))])
    with pytest.raises(FingerprintError, match=r"cats\.00000 was committed"):
        settle(listed(tmp_path / "cats", tmp_path / "moved"), store, dataset_given=False)


@pytest.mark.parametrize("change", ["size", "content"])
def test_changed_shard_is_refused(tmp_path: Path, change: str) -> None:
    store = Store(tmp_path / "run")
    write(tmp_path / "cats", 0)
    commit(store, listed(tmp_path / "cats")[0])
    path = tmp_path / "cats" / "00000.tar"
    data = bytearray(path.read_bytes())
    data[600] ^= 1
    path.write_bytes(data if change == "content" else data + bytes(512))
    with pytest.raises(FingerprintError, match=r"cats\.00000 was committed .* restore it"):
        settle(listed(tmp_path / "cats"), store, dataset_given=False)


def test_two_copies_of_a_shard_that_is_gone(tmp_path: Path) -> None:
    store = Store(tmp_path / "run")
    write(tmp_path / "cats", 0)
    commit(store, listed(tmp_path / "cats")[0])
    (tmp_path / "cats").rename(tmp_path / "a")
    write(tmp_path / "b", 0)
    with pytest.raises(ShardError, match=r"two of the listed shards are cats\.00000.*--dataset"):
        settle(listed(tmp_path / "a", tmp_path / "b"), store, dataset_given=False)


def test_renamed_folder_tree_keeps_its_ids(tmp_path: Path) -> None:
    store = Store(tmp_path / "run")
    for name in ("a/x.jpg", "b/y.jpg"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True)
        (tmp_path / "photos" / name).write_bytes(jpeg(len(name)))
    (shard,) = listed(tmp_path / "photos")
    commit(store, shard)
    (tmp_path / "photos").rename(tmp_path / "pictures")
    assert ids(settle(listed(tmp_path / "pictures"), store, dataset_given=False)) == [
        shard.shard_id
    ]


def test_stem_with_its_folder_survives_a_rename(tmp_path: Path) -> None:
    store = Store(tmp_path / "run")
    write(tmp_path / "part1", 0)
    (shard,) = list_shards([str(tmp_path / "part1")], dataset="set", stem_depth=2)
    commit(store, shard)
    (tmp_path / "part1").rename(tmp_path / "teil1")
    moved = list_shards([str(tmp_path / "teil1")], stem_depth=2)
    assert ids(settle(moved, store, dataset_given=False)) == ["set.part1.00000"]


def test_moved_shards_are_read_once_and_then_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[str] = []

    def counted(shard: Shard) -> str:
        reads.append(shard.stem)
        return checksum(shard)

    monkeypatch.setattr("pipelines.settle.checksum", counted)
    store = Store(tmp_path / "run")
    write(tmp_path / "cats", 0, 1)
    for shard in listed(tmp_path / "cats"):
        commit(store, shard)
    (tmp_path / "cats").rename(tmp_path / "felines")
    for path in (tmp_path / "felines").glob("*.tar"):
        os.utime(path)
    shards = settle(listed(tmp_path / "felines"), store, dataset_given=False)
    assert sorted(reads) == ["00000", "00001"]
    seen = {s.shard_id: {"url": s.url, "modified": s.modified} for s in shards}
    store.update_run({}, seen, {"command": "test"})
    settle(listed(tmp_path / "felines"), store, dataset_given=False)
    assert len(reads) == 2


def test_other_shard_of_equal_size_and_date_is_no_moved_one(tmp_path: Path) -> None:
    store = Store(tmp_path / "run")
    write(tmp_path / "a", 0)
    write_tar(tmp_path / "b" / "00001.tar", [("x.jpg", jpeg(77))])
    paths = [tmp_path / "a" / "00000.tar", tmp_path / "b" / "00001.tar"]
    for path in paths:
        os.utime(path, (0, 0))
    assert paths[0].stat().st_size == paths[1].stat().st_size
    commit(store, listed(tmp_path / "a")[0])
    assert ids(settle(listed(tmp_path / "b"), store, dataset_given=False)) == ["b.00001"]
    # At the place of the committed one it would be another shard too, if its date tells.
    os.replace(paths[1], paths[0])
    os.utime(paths[0], (1, 1))
    with pytest.raises(FingerprintError, match="has other bytes now"):
        settle(listed(tmp_path / "a"), store, dataset_given=False)
