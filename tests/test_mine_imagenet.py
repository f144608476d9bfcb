from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import pipelines.mine_imagenet
from miner.filesystems import expand
from miner.store import Store
from pipelines.mine_imagenet import IMAGENET, mine_imagenet
from tests.commands import Commands
from tests.small import PHOTOGRAPHS, jpeg, write_tar

CLASSES = ("tench", "goldfish")


def write_imagenet(folder: Path, name: str, first: int) -> None:
    """A shard in the layout of timm's imagenet-1k-wds, of two classes."""
    members = []
    for number in range(first, first + 8):
        key, label = f"{number:08d}", number % 2
        fields = {"label": label, "class_name": CLASSES[label], "filename": f"n0_{number}.JPEG"}
        members += [(f"{key}.jpg", jpeg(number)), (f"{key}.cls", str(label).encode())]
        members += [(f"{key}.json", json.dumps(fields).encode())]
    write_tar(folder / name, members)


def test_train_and_validation_are_its_home() -> None:
    train, validation = (expand(pattern) for pattern in IMAGENET.shards)
    assert (len(train), len(validation)) == (1024, 64)
    assert train[1023].endswith("/imagenet1k-train-1023.tar")
    assert validation[0].endswith("/imagenet1k-validation-00.tar")


def test_labels_and_splits_are_carried_and_select(commands: Commands, tmp_path: Path) -> None:
    write_imagenet(tmp_path / "wds", "imagenet1k-train-0000.tar", 0)
    write_imagenet(tmp_path / "wds", "imagenet1k-validation-00.tar", 100)
    run = tmp_path / "run"
    words = (*commands.encoders, "--decoders", "thread", "--out", run)
    words += ("--clip-above", "0.8", "--dino-below", "0.9", "--max-per-image", "50")
    ran = commands.run(mine_imagenet, tmp_path / "wds", *words, "--labels", "different")
    assert ran.code == 0, ran.err
    store = Store(run)
    samples = {
        shard_id.split("-")[1]: store.samples(shard_id).to_pylist()
        for shard_id in store.committed("samples")
    }
    for split, rows in (("train", samples["train"]), ("val", samples["validation"])):
        assert [row["label"] for row in rows] == ["0", "1"] * 4
        assert {json.loads(row["meta"])["split"] for row in rows} == {split}
    (name,) = store.joins()
    counts = store.join_record(name)["selection"]["counts"]  # type: ignore[index]
    rows = pq.read_table(run / "pairs" / name / "selected.parquet").to_pylist()
    assert len(rows) == counts["kept"] > 0
    assert all(row["label_1"] != row["label_2"] for row in rows)
    assert commands("select", run, "--labels", "same", "--max-per-image", "50").code == 0
    same = store.join_record(name)["selection"]["counts"]  # type: ignore[index]
    assert same["kept"] == counts["same_label"] > 0
    assert same["different_labels"] == counts["kept"]


def test_the_script_speaks_where_only_it_was_copied(tmp_path: Path) -> None:
    script = shutil.copy(pipelines.mine_imagenet.__file__, tmp_path)
    words = [sys.executable, script, "--help"]
    ran = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    assert "Usage: mine_imagenet.py [OPTIONS] [SHARD]..." in ran.stdout
    assert "[default: imagenet]" in ran.stdout


@pytest.mark.skipif(not PHOTOGRAPHS.exists(), reason="no photographs beside the repo")
def test_photographs(commands: Commands, tmp_path: Path) -> None:
    words = (*commands.encoders, "--decoders", "thread", "--limit", "30")
    words += ("--out", tmp_path / "run", "--labels", "same")
    ran = commands.run(mine_imagenet, PHOTOGRAPHS, *words)
    assert ran.code == 0, ran.err
    store = Store(tmp_path / "run")
    rows = [row for i in store.committed("samples") for row in store.samples(i).to_pylist()]
    assert len(rows) == 30
    assert all(0 <= int(row["label"]) < 1000 for row in rows)
    assert all("synset" in json.loads(row["meta"]) for row in rows)
