from pathlib import Path

import pytest

from miner.errors import ShardError, StoreError
from miner.handoff.registry import FORMATS
from miner.store import Store
from tests.handoff_runs import deliver, many_shots, review, run_of, selected_of, tree


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return run_of(tmp_path, many_shots(3))


@pytest.mark.parametrize("name", sorted(set(FORMATS) - {"mmvp", "mmvp-vlm"}))
def test_the_same_hand_off_again_changes_nothing(store: Store, tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    assert deliver(store, name, out).written.is_new
    before = tree(out)
    when = (out / "handoff.json").stat().st_mtime_ns
    again = deliver(store, name, out, reviewed="all", images="original", limit=3)
    assert not again.written.is_new
    assert tree(out) == before
    assert (out / "handoff.json").stat().st_mtime_ns == when
    deliver(store, name, tmp_path / "other")
    assert tree(tmp_path / "other") == before


def test_another_hand_off_is_refused_unless_it_may_be_replaced(
    store: Store, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    deliver(store, "webdataset", out)
    for name, settings in (("hf", {}), ("webdataset", {"limit": 1})):
        with pytest.raises(StoreError, match=r"holds another hand-off \(webdataset\); give"):
            deliver(store, name, out, **settings)
    review(store, selected_of(store)[:1])
    with pytest.raises(StoreError, match="holds another hand-off"):
        deliver(store, "webdataset", out)
    deliver(store, "hf", out, overwrite=True)
    assert (out / "data").is_dir()
    assert not list(out.glob("*.tar"))


def test_what_is_no_hand_off_is_never_replaced(store: Store, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(StoreError, match=r"mine is there and is no hand-off"):
            deliver(store, "csv", tmp_path / "mine", overwrite=overwrite)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
    (tmp_path / "empty").mkdir()
    assert deliver(store, "csv", tmp_path / "empty").written.is_new


@pytest.mark.parametrize("edit", ["change", "add", "remove"])
def test_an_edited_hand_off_is_told(store: Store, tmp_path: Path, edit: str) -> None:
    out = tmp_path / "out"
    deliver(store, "csv", out)
    if edit == "change":
        text = (out / "pairs.csv").read_text("utf-8")
        (out / "pairs.csv").write_text(text.replace("set", "SET"), "utf-8", newline="")
    elif edit == "add":
        (out / "notes.txt").write_text("my notes")
    else:
        (out / "README.md").unlink()
    with pytest.raises(StoreError, match="was changed since it was written"):
        deliver(store, "csv", out)
    assert deliver(store, "csv", out, overwrite=True).written.is_new


def test_no_half_hand_off_stays(store: Store, tmp_path: Path) -> None:
    out = tmp_path / "out"
    deliver(store, "webdataset", out)
    before = tree(out)
    shard = tmp_path / "corpus" / "00000.tar"
    shard.write_bytes(shard.read_bytes()[:2000])
    with pytest.raises(ShardError, match=r"00000\.tar"):
        deliver(store, "webdataset", out, limit=2, overwrite=True)
    assert tree(out) == before
    with pytest.raises(ShardError, match=r"00000\.tar"):
        deliver(store, "hf", tmp_path / "new")
    assert {path.name for path in tmp_path.iterdir()} == {"corpus", "out", "run"}


@pytest.mark.parametrize(
    ("name", "settings", "flag"),
    [
        ("csv", {"images": "none"}, "--images"),
        ("jsonl", {"bake_orientation": True}, "--bake-orientation"),
        ("clip-retrieval", {"images": "none"}, "--images"),
        ("hf", {"skip_incomplete": True}, "--skip-incomplete"),
        ("mmvp", {"all_images": True}, "--all-images"),
    ],
)
def test_settings_without_effect_are_refused(
    store: Store, tmp_path: Path, name: str, settings: dict[str, object], flag: str
) -> None:
    with pytest.raises(ValueError, match=f"{flag} has no effect on {name}; leave it out"):
        deliver(store, name, tmp_path / "out", **settings)


def test_a_name_of_a_file_is_no_name_of_a_folder(store: Store, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"pairs.csv names a file; a hand-off is a folder"):
        deliver(store, "csv", tmp_path / "pairs.csv")


def test_a_runs_own_files_are_left_alone(store: Store, tmp_path: Path) -> None:
    before = tree(tmp_path / "run")
    for out in (Path(store.root) / "pairs" / "out", tmp_path / "x" / ".." / "run" / "new"):
        with pytest.raises(ValueError, match=r"lies in the run .*; give an --out outside it"):
            deliver(store, "csv", out)
    with pytest.raises(StoreError, match="is there and is no hand-off"):
        deliver(store, "csv", Path(store.root), overwrite=True)
    assert tree(tmp_path / "run") == before
