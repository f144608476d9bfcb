"""The benchmark of scaling out, without Ray: runs are checked, and rows are judged."""

import os
import shutil
from pathlib import Path

import click
import pytest

from bench.scale import Timed, check, embed, rows_of
from miner.config import ReadSettings
from pipelines.embed_work import EmbedShards
from pipelines.scene_shards import write_shards


def test_runs_are_timed_and_held_against_each_other(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    write_shards(corpus, num_scenes=12, seed=0, shard_size=6)
    cores = os.sched_getaffinity(0)
    for name in ("a", "b"):
        assert 0 < embed(corpus, tmp_path / name, None) < 60
    assert os.sched_getaffinity(0) == cores
    check(tmp_path / "a" / "run", tmp_path / "b" / "run")
    shutil.rmtree(corpus)
    write_shards(corpus, num_scenes=12, seed=1, shard_size=6)
    embed(corpus, tmp_path / "other", None)
    with pytest.raises(click.ClickException, match=r"vectors of demo-clip-\w+ differ"):
        check(tmp_path / "a" / "run", tmp_path / "other" / "run")
    (tmp_path / "c" / "commits").mkdir(parents=True)
    with pytest.raises(click.ClickException, match="lacks shards"):
        check(tmp_path / "a" / "run", tmp_path / "c")


def test_more_workers_than_cores_are_refused(tmp_path: Path) -> None:
    for core in os.sched_getaffinity(0):
        (tmp_path / str(core)).touch()
    work = EmbedShards(
        root=tmp_path,
        read=ReadSettings(),
        encode=None,
        how=None,
        records=(),  # type: ignore[arg-type]
        wanted=(),
        first_shards=(),
    )
    with pytest.raises(click.ClickException, match="fewer cores than workers"):
        Timed(work=work, folder=tmp_path).open(1)


def test_rows_are_judged_by_the_ratios() -> None:
    times = {"inline": [100.0, 100.0], "ray, 1 worker": [104.0, 102.0]}
    rows = rows_of({**times, "ray, 2 workers": [52.0, 51.0]}, "2x6")
    overhead, speed = (row for row in rows if row.unit == "ratio")
    assert overhead.median == pytest.approx(1.03)
    assert overhead.note == "target <= 1.05: met"
    assert speed.median == pytest.approx(0.5)
    assert speed.note == "target <= 1/1.8: met"
