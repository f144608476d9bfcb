"""Whole runs whose shards and folder lie in a bucket."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from miner import objects as objects_module
from miner.audit import verify
from miner.config import JoinSettings, SelectSettings
from miner.errors import StoreError
from miner.join import join
from miner.select import select
from miner.store import Store
from miner.why import explain
from tests.buckets import free_port, objects, put, reach, upload
from tests.commands import Commands
from tests.runs import CLIP, DINO, commit_shard, make_store, unit
from tests.small import write_corpus

EXACT = ("/raw/", "selected.parquet", "histogram.parquet")
"""What is byte-equal wherever a run lies."""


def exact(files: dict[str, bytes]) -> dict[str, bytes]:
    return {path: data for path, data in files.items() if any(part in path for part in EXACT)}


def local(root: Path) -> dict[str, bytes]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def test_a_run_in_a_bucket_is_the_run_in_a_folder(
    commands: Commands, s3: str, tmp_path: Path
) -> None:
    write_corpus(tmp_path / "corpus")
    upload(tmp_path / "corpus", f"{s3}/corpus")
    assert commands.mine(tmp_path / "corpus", "--out", tmp_path / "run").code == 0
    run = f"{s3}/runs/one"
    words = (f"{s3}/corpus/{{00000..00002}}.tar", "--dataset", "corpus", "--out", run)
    ran = commands.mine(*words, "--scratch", tmp_path / "scratch")
    assert ran.code == 0, ran.err
    there = objects(run)
    assert exact(there).keys() == exact(local(tmp_path / "run")).keys() != set()
    raw = {path: data for path, data in exact(there).items() if "selected" not in path}
    assert raw == {path: exact(local(tmp_path / "run"))[path] for path in raw}
    assert Store(run).leftovers() == []
    assert not any(path.startswith((".leases/", "packed/")) for path in there)
    again = commands.mine(*words)
    assert again.code == 0, again.err
    assert "of which 0 had work to do" in again.out
    after = objects(run)
    assert {path for path in after if after[path] != there.get(path)} == {"run.json"}
    for words in (
        ("status", run),
        ("verify", run, "--gc"),
        ("join", run, "--clip-above", "0.93"),
        ("select", run, "--max-per-image", "1"),
        ("report", run),
        ("plan", f"{s3}/corpus", "--out", run, *commands.encoders),
    ):
        ran = commands(*words)
        assert ran.code == 0, f"{words}: {ran.err}"
    pair = Store(run).raw(Store(run).joins()[0]).to_pylist()[0]
    assert "CLIP cosine" in commands("why", run, pair["image_1"], pair["image_2"]).out


def test_two_drivers_on_one_bucket_end_as_one_in_a_folder(
    commands: Commands, s3: str, tmp_path: Path
) -> None:
    write_corpus(tmp_path / "corpus", num_shards=4, images=8)
    upload(tmp_path / "corpus", f"{s3}/corpus")
    options = ["--max-bad-fraction", "0.5", *commands.encoders]
    options += ["--clip-above", "0.9", "--dino-below", "0.8"]
    words = ["mine", f"{s3}/corpus/*.tar", "--dataset", "corpus", "--out", f"{s3}/run", *options]
    drivers = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.mine_small", *words],
            env={**os.environ, "HOME": str(tmp_path / name), "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        for name in ("one", "other")
    ]
    said = [driver.communicate()[1] for driver in drivers]
    assert [driver.returncode for driver in drivers] == [0, 0], said
    store = Store(f"{s3}/run")
    ids = [f"corpus.{number:05d}" for number in range(4)]
    assert {stage: store.committed(stage) for stage in store.stages()[:3]} == dict.fromkeys(
        store.stages()[:3], ids
    )
    assert len(store.run()["commands"]) == 2
    assert verify(store) == []
    assert commands("verify", f"{s3}/run", "--gc").code == 0
    assert store.leftovers() == []
    assert objects(f"{s3}/run/.leases") == {}
    assert commands("mine", tmp_path / "corpus", "--out", tmp_path / "run", *options).code == 0
    raw = [
        {path: data for path, data in exact(files).items() if "selected" not in path}
        for files in (objects(f"{s3}/run"), local(tmp_path / "run"))
    ]
    assert raw[0] == raw[1] != {}


def test_a_run_goes_on_where_a_killed_one_left_it(
    commands: Commands, s3: str, tmp_path: Path
) -> None:
    write_corpus(tmp_path / "corpus", num_shards=2, images=6)
    run = f"{s3}/run"
    words = (tmp_path / "corpus", "--max-bad-fraction", "0.5", "--out", run)
    assert commands.mine(*words).code == 0
    truth = objects(run)
    # As if the process had died before its last two commits, and amid its tables.
    gone = [path for path in truth if "commits/vectors/small-dino" in path or "join.json" in path]
    assert len(gone) == 3
    for path in gone:
        Store(run).files.delete(path)
    put(f"{run}/samples/corpus.00000.dead.parquet", b"half")
    put(f"{run}/pairs/{Store(run).files.names('pairs')[0]}/raw.dead/part-00000.parquet", b"half")
    assert commands.mine(*words).code == 0
    after = objects(run)
    assert exact(after) == exact(truth)
    assert Store(run).leftovers() == []
    samples = "commits/samples/"
    assert {p: after[p] for p in after if p.startswith(samples)} == {
        path: truth[path] for path in truth if path.startswith(samples)
    }


def test_a_run_in_a_folder_is_joined_against_one_in_a_bucket(s3: str, tmp_path: Path) -> None:
    settings = JoinSettings(clip_above=0.9, dino_below=0.3)
    raw = []
    for root in (f"{s3}/theirs", tmp_path / "theirs"):
        theirs = Store(root)
        ours = make_store(tmp_path / f"ours{len(raw)}", num_shards=1)
        theirs.update_run({}, {}, {"command": "test"})
        clip = torch.tensor(ours.vectors(CLIP, "set.00000")[1][:40], dtype=torch.float32)
        dino = torch.randn(40, 24, generator=torch.Generator().manual_seed(1))
        commit_shard(theirs, "00009", unit(clip), unit(dino))
        against = settings.model_copy(update={"against": str(root)})
        record = join(ours, CLIP, DINO, against, SelectSettings())
        assert record["against"] == str(root)
        raw.append(ours.raw(record["name"]))
        select(ours, record["name"], SelectSettings())
        said = explain(ours, record["name"], raw[0]["image_1"][0].as_py(), "set/00009/000000")
        assert said.clip_cos is not None
    assert raw[0].num_rows > 0
    assert raw[0] == raw[1]
    itself = settings.model_copy(update={"against": f"{s3}/theirs/"})
    with pytest.raises(StoreError, match="is the run itself"):
        join(Store(f"{s3}/theirs"), CLIP, DINO, itself, SelectSettings())


def test_what_is_wrong_with_a_bucket_is_an_exit_code_and_advice(
    commands: Commands, s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_corpus(tmp_path / "corpus", num_shards=1, images=2)
    ran = commands.mine(tmp_path / "corpus", "--out", f"{s3}-gone/run")
    assert ran.code == 4
    assert "there is no such bucket; create it" in ran.err
    ran = commands("status", f"{s3}/nothing")
    assert ran.code == 4
    assert "holds no run" in ran.err
    monkeypatch.setattr(objects_module, "MAX_RETRIES", 1)
    reach(monkeypatch, f"http://127.0.0.1:{free_port()}")
    for words in (("status", f"{s3}/run"), ("plan", f"{s3}/laion/*.tar")):
        ran = commands(*words)
        assert ran.code == 4
        assert "see whether the storage can be reached" in ran.err
