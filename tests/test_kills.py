"""A run that is killed at any moment and started again ends as if it had never been killed."""

import json
import os
import random
import signal
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

from miner.audit import verify
from miner.store import Store
from tests.near_corpora import THRESHOLDS, write_near_corpus
from tests.small import write_corpus, write_weights
from tests.warm import WarmProcess

NUM_COMMITS = 3 * 6 + 1
"""Of samples and two encoders' vectors for each of six shards, and the one block of the join."""

NUM_KILLS = 20

NUM_LAZY_KILLS = 4


def mine(words: list[str]) -> None:
    """One whole command, in a process of its own."""
    import torch

    from tests.mine_small import main

    torch.set_num_threads(1)
    main(words)


def mine_with_all_imported(words: list[str]) -> None:
    """The same, which refuses to import a module of ours, or of what draws and tabulates."""
    before = set(sys.modules)
    try:
        mine(words)
    finally:
        ours = ("miner", "kernels", "export", "pipelines", "matplotlib", "pandas", "torch", "timm")
        late = {name for name in set(sys.modules) - before if name.startswith(ours)}
        assert late == set(), late


def start(words: list[str]) -> BaseProcess:
    process = WarmProcess(target=mine, args=(words,))
    process.start()
    return process


def finish(words: list[str]) -> None:
    process = start(words)
    process.join(120)
    assert process.exitcode == 0


def wait_for_commits(process: BaseProcess, run: Path, number: int) -> None:
    """Wait until a run has so many commits, or is over."""
    while process.is_alive() and len(committed(run)) < number:
        time.sleep(0.002)


def raw_parts(run: Path) -> dict[str, bytes]:
    paths = [*run.glob("pairs/*/raw/*.parquet"), *run.glob("pairs/*/selected.parquet")]
    return {path.relative_to(run).as_posix(): path.read_bytes() for path in paths}


def committed(run: Path) -> dict[str, bytes]:
    """Every commit record by its path."""
    records = sorted((run / "commits").rglob("[!.]*.json")) if run.exists() else []
    return {path.relative_to(run / "commits").as_posix(): path.read_bytes() for path in records}


def work_done(run: Path) -> list[tuple[str, dict[str, int]]]:
    """What was done of every shard; each process has a file, those that were killed the older."""
    files = sorted(run.glob("metrics/embed.*.jsonl"), key=lambda path: path.stat().st_mtime_ns)
    lines = [line for path in files for line in path.read_text().splitlines()]
    return [(line["shard"], line["counts"]) for line in map(json.loads, lines)]


def test_kills_hit_the_work_and_not_imports(tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus", num_shards=1, images=8)
    clip, dino = write_weights(tmp_path / "weights")
    words = [
        *("mine", str(tmp_path / "corpus"), "--max-bad-fraction", "0.5", "--decoders", "thread"),
        *("--clip", "small-clip", "--clip-weights", str(clip), "--clip-above", "0.9"),
        *("--dino", "small-dino", "--dino-weights", str(dino), "--dino-below", "0.8"),
        *("--out", str(tmp_path / "run")),
    ]
    process = WarmProcess(target=mine_with_all_imported, args=(words,))
    process.start()
    process.join(120)
    assert process.exitcode == 0


def test_killed_runs_end_byte_equal_and_redo_no_commit(
    tmp_path: Path,
) -> None:
    write_corpus(tmp_path / "corpus", num_shards=6, images=8)
    clip, dino = write_weights(tmp_path / "weights")
    options = [
        *("mine", str(tmp_path / "corpus"), "--max-bad-fraction", "0.5", "--batch-size", "4"),
        *("--clip", "small-clip", "--clip-weights", str(clip), "--clip-above", "0.9"),
        *("--dino", "small-dino", "--dino-weights", str(dino), "--dino-below", "0.8"),
    ]
    finish([*options, "--out", str(tmp_path / "undisturbed")])
    truth = raw_parts(tmp_path / "undisturbed")
    assert len(truth) == 2

    moments = random.Random(7)
    num_cut_short = 0
    for number in range(NUM_KILLS):
        run = tmp_path / f"killed{number}"
        # Either kind of decoder ends in the same bytes; processes take seconds to load.
        decoders = "process" if number % 5 == 2 else "thread"
        words = [*options, "--decoders", decoders, "--out", str(run)]
        process = start(words)
        # All over the run: from before the first commit to after the last one.
        wait_for_commits(process, run, number * NUM_COMMITS // (NUM_KILLS - 1))
        time.sleep(0.03 * moments.random())
        if process.is_alive():
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
        process.join(30)
        before, num_lines = committed(run), len(work_done(run))
        num_cut_short += 0 < len(before) < NUM_COMMITS
        finish(words)
        after = committed(run)
        assert len(after) == NUM_COMMITS
        assert {name: after[name] for name in before} == before
        for shard_id, counts in work_done(run)[num_lines:]:
            redone = [name for name in before if name.endswith(f"/{shard_id}.json")]
            assert not ("samples" in counts and f"samples/{shard_id}.json" in before)
            for encoder in ("small-clip", "small-dino"):
                assert not (f"encoded {encoder}" in counts and any(encoder in r for r in redone))
        assert raw_parts(run) == truth
        assert verify(Store(run)) == []
        assert Store(run).leftovers() == []
    # Most kills have to hit the middle of the work, or this test shows nothing.
    assert num_cut_short >= NUM_KILLS // 3


def test_three_runs_at_once_share_the_work(tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus", num_shards=6, images=8)
    clip, dino = write_weights(tmp_path / "weights")
    options = [
        *("mine", str(tmp_path / "corpus"), "--max-bad-fraction", "0.5", "--batch-size", "4"),
        *("--clip", "small-clip", "--clip-weights", str(clip), "--clip-above", "0.9"),
        *("--dino", "small-dino", "--dino-weights", str(dino), "--dino-below", "0.8"),
    ]
    finish([*options, "--out", str(tmp_path / "alone")])
    run = tmp_path / "together"
    racers = [start([*options, "--out", str(run)]) for _ in range(3)]
    for racer in racers:
        racer.join(120)
    assert [racer.exitcode for racer in racers] == [0, 0, 0]
    assert raw_parts(run) == raw_parts(tmp_path / "alone")
    assert len(committed(run)) == NUM_COMMITS
    assert verify(Store(run)) == []
    assert Store(run).leftovers() == []
    assert len(list(run.glob("pairs/*/report/index.html"))) == 1


def test_killed_lazy_runs_end_byte_equal(tmp_path: Path) -> None:
    write_near_corpus(tmp_path / "corpus", num_shards=4, images=10)
    clip, dino = write_weights(tmp_path / "weights")
    options = [
        *("mine", str(tmp_path / "corpus"), *THRESHOLDS, "--batch-size", "1"),
        *("--clip", "small-clip", "--clip-weights", str(clip)),
        *("--dino", "small-dino", "--dino-weights", str(dino)),
    ]
    finish([*options, "--out", str(tmp_path / "eager")])
    lazy = [*options, "--dino-mode", "lazy"]
    finish([*lazy, "--out", str(tmp_path / "undisturbed")])
    truth = raw_parts(tmp_path / "eager")
    assert raw_parts(tmp_path / "undisturbed") == truth
    names = committed(tmp_path / "undisturbed").keys()
    # Samples, CLIP and a part of DINO for each shard, a screened and a joined block.
    assert len(names) == 3 * 4 + 2
    moments = random.Random(3)
    num_cut_short = 0
    for number in range(NUM_LAZY_KILLS):
        run = tmp_path / f"killed{number}"
        words = [*lazy, "--out", str(run)]
        process = start(words)
        # Mostly in the second half, when CLIP is done and DINO looks at single images.
        wait_for_commits(process, run, 4 + number * 3)
        time.sleep(0.03 * moments.random())
        if process.is_alive():
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
        process.join(30)
        before = committed(run)
        num_cut_short += 0 < len(before) < len(names)
        finish(words)
        after = committed(run)
        assert after.keys() == names
        assert {name: after[name] for name in before} == before
        assert raw_parts(run) == truth
        assert verify(Store(run)) == []
        assert Store(run).leftovers() == []
    assert num_cut_short >= 1
