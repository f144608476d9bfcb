from pathlib import Path

import pytest
import torch

from miner.audit import collect_garbage, verify
from miner.config import JoinSettings, SelectSettings
from miner.errors import MinerError, StoreError
from miner.files import Files, LocalFiles
from miner.join import join
from miner.records import new_attempt
from miner.select import select
from miner.store import Store
from tests.failing import HOWS, FailingFiles, How
from tests.runs import CLIP, DINO, commit_shard, unit

SETTINGS = JoinSettings(clip_above=0.9, dino_below=0.8)


SHARD = "set.00000"


def embed(store: Store, source: Store) -> None:
    """Commit what another run has of a shard, stage by stage."""
    for stage in source.stages():
        if store.is_committed(stage, SHARD):
            continue
        record = source.record(stage, SHARD)
        entries = []
        for file in record.pop("files"):
            folder = file["path"].rpartition("/")[0]
            name = f"{SHARD}.{new_attempt()}.parquet"
            entries.append(store.write_table(source.read_table(file["path"]), folder, name))
        store.commit(stage, SHARD, entries, record)


def work(store: Store, source: Store) -> None:
    """The least that uses every operation of a storage: embed, join, select."""
    store.update_run({"max_pixels": 1}, {}, {"command": "test"})
    with store.writing():
        embed(store, source)
        record = join(store, CLIP, DINO, SETTINGS, SelectSettings())
        select(store, record["name"], SelectSettings())
    collect_garbage(store)


@pytest.fixture
def source(tmp_path: Path) -> Store:
    store = Store(tmp_path / "source")
    rows = torch.randn(12, 4, generator=torch.Generator().manual_seed(0)).abs()
    store.update_run({"max_pixels": 1}, {}, {"command": "test"})
    commit_shard(store, "00000", unit(rows), unit(rows[:, :2]))
    return store


def tables(files: Files) -> dict[str, bytes]:
    entries = files.below("pairs")
    return {entry.path: files.read(entry.path) for entry in entries}


@pytest.mark.parametrize("is_done", [False, True])
def test_whichever_operation_fails_the_next_run_ends_alike(
    tmp_path: Path, source: Store, is_done: bool
) -> None:
    files = FailingFiles(LocalFiles(tmp_path / "0"), 0, "EIO")
    work(Store(tmp_path / "0", files=files), source)
    number = files.num_done
    truth = tables(files)
    assert len(truth) == 4
    failed = set()
    for k in range(1, number + 1):
        root = tmp_path / str(k)
        # Who asks sees no difference between the others but the error.
        how: How = "timeout after success" if is_done else HOWS[k % (len(HOWS) - 1)]
        broken = FailingFiles(LocalFiles(root), k, how)
        try:
            work(Store(root, files=broken), source)
        except (MinerError, OSError):
            pass
        else:
            # The answer to a commit was lost, and it was found to be done.
            assert (is_done, broken.failed) == (True, "put")
        failed.add(broken.failed)
        store = Store(root)
        work(store, source)
        assert tables(store.files) == truth, f"{k}: {broken.failed}"
        assert verify(store) == []
        assert store.leftovers() == []
        assert store.committed("samples") == [SHARD]
    assert failed >= {"update", "exists", "read", "names", "below", "put", "write", "open"}
    assert failed >= {"delete", "move_folder", "delete_folder", "sha256"}


def test_the_errors_are_those_of_a_storage(tmp_path: Path) -> None:
    for how, error in (
        ("ENOSPC", "No space left"),
        ("EIO", "Input/output error"),
        ("503", "503 Service Unavailable"),
        ("timeout", "no answer"),
        ("timeout after success", "no answer"),
    ):
        files = FailingFiles(LocalFiles(tmp_path / how), 2, how)
        files.write("a", b"1")
        with pytest.raises((StoreError, OSError), match=error):
            files.write("a", b"2")
        assert files.read("a") == (b"2" if how == "timeout after success" else b"1")
        assert (files.failed, files.num_done) == ("write", 3)
