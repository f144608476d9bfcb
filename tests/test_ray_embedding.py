"""Commands with --executor ray: the bytes of an inline run, whatever happens to the workers."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from miner.audit import verify
from miner.store import Store
from tests.chaos_world import kill, workers_of
from tests.commands import Commands
from tests.ray_clusters import Watching, cluster
from tests.small import write_corpus
from tests.test_kills import committed, raw_parts, work_done

__all__ = ["cluster"]

RAY = ("--executor", "ray", "--num-workers", 2, "--cores-per-worker", 1)
WORDS = ("--batch-size", 4, "--max-bad-fraction", 0.5)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    write_corpus(tmp_path / "corpus", num_shards=10, images=8)
    return tmp_path / "corpus"


@pytest.fixture
def truth(commands: Commands, corpus: Path, tmp_path: Path) -> dict[str, bytes]:
    """What an inline run writes."""
    ran = commands.mine(corpus, *WORDS, "--decoders", "thread", "--out", tmp_path / "inline")
    assert ran.code == 0, ran.err
    return raw_parts(tmp_path / "inline")


def test_mine_on_ray_equals_inline(
    cluster: Cluster,
    commands: Commands,
    corpus: Path,
    tmp_path: Path,
    truth: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pipelines.ray_executor.RayExecutor", Watching)
    run = tmp_path / "run"
    ran = commands.mine(corpus, *WORDS, *RAY, "--out", run)
    assert ran.code == 0, ran.err
    assert "70 embedded" in ran.out
    assert raw_parts(run) == truth
    assert committed(run).keys() == committed(tmp_path / "inline").keys()
    assert verify(Store(run)) == []
    assert Store(run).leftovers() == []
    assert len(work_done(run)) == 10
    # Neither pixels nor vectors went through Ray.
    assert Watching.most_bytes < 2**16
    # Nothing is left to do, and nobody is hired for that.
    ran = commands.mine(corpus, *WORDS, *RAY, "--out", run)
    assert ran.code == 0
    assert "of which 0 had work to do" in ran.out
    assert "--executor ray" not in ran.err


def test_paths_may_be_relative(
    cluster: Cluster,
    commands: Commands,
    corpus: Path,
    tmp_path: Path,
    truth: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The workers of a cluster that is there stand in another folder."""
    for place in (3, 7):
        weights = Path(commands.encoders[place])
        (tmp_path / weights.name).write_bytes(weights.read_bytes())
    (tmp_path / "none.txt").write_text("nobody\n")
    monkeypatch.chdir(tmp_path)
    own = ("--clip-weights", "clip.safetensors", "--dino-weights", "dino.safetensors")
    own = (*own, "--exclude-ids", "none.txt", "--scratch", "scratch", "--decoders", "thread")
    ran = commands.mine("corpus", *WORDS, *RAY, *own, "--out", "run")
    assert ran.code == 0, ran.err
    assert raw_parts(tmp_path / "run") == truth
    record = Store("run").record("samples", "corpus.00000")
    assert record["shard"]["url"] == str(corpus / "00000.tar")


def test_a_limit_counts_on_ray_as_inline(
    cluster: Cluster, commands: Commands, corpus: Path, tmp_path: Path
) -> None:
    limited = (*WORDS, "--limit", 19, "--decoders", "thread")
    for name, how in (("inline", ()), ("ray", RAY)):
        ran = commands.mine(corpus, *limited, *how, "--out", tmp_path / name)
        assert ran.code == 0, ran.err
        told = "they go one at a time, so that one Ray worker alone is busy"
        assert " ".join(ran.err.split()).count(told) == (name == "ray")
    assert raw_parts(tmp_path / "ray") == raw_parts(tmp_path / "inline")
    assert committed(tmp_path / "ray").keys() == committed(tmp_path / "inline").keys()


def test_a_shard_that_cannot_be_read_is_reported(
    cluster: Cluster, commands: Commands, corpus: Path, tmp_path: Path
) -> None:
    (corpus / "00003.tar").write_bytes(b"no tar at all" * 100)
    ran = commands.mine(corpus, *WORDS, *RAY, "--decoders", "thread", "--out", tmp_path / "run")
    assert ran.code == 3, ran.err
    assert re.search(r"(failed|damaged): corpus\.00003", ran.out), ran.out


def start(commands: Commands, corpus: Path, run: Path, *words: object) -> subprocess.Popen[str]:
    given = ("mine", corpus, *commands.encoders, *WORDS, *words, "--out", run)
    given = (*given, "--clip-above", 0.9, "--dino-below", 0.8)
    return subprocess.Popen(
        [sys.executable, "-m", "tests.mine_small", *map(str, given)],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def wait_for_commits(process: subprocess.Popen[str], run: Path, number: int) -> None:
    deadline_s = time.monotonic() + 120
    while process.poll() is None and len(committed(run)) < number:
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def wait_for_workers(process: subprocess.Popen[str], run: Path) -> list[int]:
    deadline_s = time.monotonic() + 120
    while process.poll() is None and not (workers := workers_of(run)):
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    return workers


def test_killed_workers_change_no_byte(
    cluster: Cluster, commands: Commands, corpus: Path, tmp_path: Path, truth: dict[str, bytes]
) -> None:
    run = tmp_path / "run"
    driver = start(commands, corpus, run, *RAY, "--decoders", "thread")
    # The first dies at its first work, so that it is missed.
    workers = wait_for_workers(driver, run)
    assert workers
    kill(workers[0])
    for number in (7, 13):
        wait_for_commits(driver, run, number)
        for pid in workers_of(run)[:1]:
            kill(pid)
    said, _ = driver.communicate(timeout=120)
    assert driver.returncode == 0, said
    # A line of the log may be broken anywhere.
    assert "is replaced" in " ".join(said.split())
    assert raw_parts(run) == truth
    assert verify(Store(run)) == []
    assert Store(run).leftovers() == []


def test_sigterm_ends_the_driver_and_its_workers_and_the_run_goes_on(
    cluster: Cluster, commands: Commands, corpus: Path, tmp_path: Path, truth: dict[str, bytes]
) -> None:
    run = tmp_path / "run"
    driver = start(commands, corpus, run, *RAY, "--decoders", "thread")
    wait_for_commits(driver, run, 1)
    driver.send_signal(signal.SIGTERM)
    start_s = time.monotonic()
    said, _ = driver.communicate(timeout=30)
    assert driver.returncode == 130, said
    assert "interrupted; the same command goes on from here" in said
    while workers_of(run):
        assert time.monotonic() - start_s < 30
        time.sleep(0.1)
    before = committed(run)
    assert 1 <= len(before) < 30
    ran = commands.mine(corpus, *WORDS, "--decoders", "thread", "--out", run)
    assert ran.code == 0, ran.err
    after = committed(run)
    assert {name: after[name] for name in before} == before
    assert raw_parts(run) == truth


def test_settings_of_workers_have_no_effect_inline(commands: Commands, corpus: Path) -> None:
    ran = commands.mine(corpus, "--num-workers", 2, "--out", "never")
    assert ran.code == 2
    assert "--num-workers: no effect with --executor inline" in ran.err
