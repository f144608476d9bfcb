"""Whole runs whose shards and folder lie in a bucket."""

from pathlib import Path

from miner.store import Store
from tests.buckets import objects, upload
from tests.commands import Commands
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
