import io
import re
import time

import pytest
from rich.console import Console

from miner.stats import Stats
from pipelines import progress
from pipelines.progress import ShardProgress


def test_without_a_terminal_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.05)
    text = io.StringIO()
    with ShardProgress(2, Console(file=text)) as bar:
        bar.images(1)
        # Nothing is reported meanwhile, as during a long batch.
        time.sleep(0.4)
        bar.images(1)
        bar.advance()
    lines = text.getvalue().splitlines()
    assert len(lines) >= 3
    assert lines[0].startswith("embedded 0/2 shards, 1 images, ")
    assert lines[-1].startswith("embedded 1/2 shards, 2 images, ")


def test_nothing_to_do_prints_nothing() -> None:
    text = io.StringIO()
    with ShardProgress(1, Console(file=text)) as bar:
        bar.advance()
    assert text.getvalue() == ""


def test_on_a_terminal_a_bar() -> None:
    text = io.StringIO()
    with ShardProgress(2, Console(file=text, force_terminal=True, width=100)) as bar:
        for _ in range(2):
            bar.images(1)
            bar.advance()
    assert "2/2" in text.getvalue()
    assert "2 images" in text.getvalue()


def test_a_join_says_how_many_blocks_it_has_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.02)
    console = Console(file=io.StringIO(), width=100)
    with progress.PartProgress(1, console) as blocks:
        blocks.advance(of=6)
        blocks.advance(of=6)
        time.sleep(0.2)
    file = console.file
    assert isinstance(file, io.StringIO)
    assert re.search(r"^joined 2/6 blocks, about \S+ left$", file.getvalue(), re.MULTILINE)


def test_a_short_join_says_nothing() -> None:
    console = Console(file=io.StringIO(), width=100)
    with progress.PartProgress(1, console) as blocks:
        blocks.advance(of=1)
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue() == ""


def test_a_join_that_encodes_says_how_many_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.02)
    console = Console(file=io.StringIO(), width=100)
    with progress.JoinProgress(console) as blocks:
        blocks.at(3, 3)
        blocks.image()
        # The join after the screening counts anew.
        blocks.at(1, 2)
        time.sleep(0.2)
    assert isinstance(console.file, io.StringIO)
    assert "joined 1/2 blocks, 1 images encoded, about " in console.file.getvalue()


def last_line(bar: ShardProgress, console: Console) -> str:
    bar.__exit__(None, None, None)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()[-1]


def test_a_line_says_where_the_time_goes_and_what_was_refused() -> None:
    console = Console(file=io.StringIO(), width=100)
    bar = ShardProgress(4, console).__enter__()
    bar.images(10)
    bar.shard("known", Stats(), num_quarantined=1)
    bar.shard("embedded", Stats(seconds={"decode": 3.0, "clip": 1.0}), num_quarantined=2)
    # The first was there before, so that one shard took all the time.
    bar._start_s -= 30
    line = last_line(bar, console)
    assert line.startswith("embedded 2/4 shards, 10 images, ")
    assert ", 3 quarantined, decode 75% clip 25%, about 0:01:00 left" in line


def test_of_several_workers_the_slowest_is_named() -> None:
    console = Console(file=io.StringIO(), width=100)
    bar = ShardProgress(3, console).__enter__()
    bar.images(1)
    for worker, elapsed_s in (("a", 2.0), ("b", 8.0), ("a", 2.0)):
        done = Stats(seconds={"clip": elapsed_s})
        done.count("decodable", 40)
        bar.shard("embedded", done, worker=worker)
    assert last_line(bar, console).endswith("slowest b 5.0/s of 20.0")


def test_one_worker_is_not_the_slowest() -> None:
    console = Console(file=io.StringIO(), width=100)
    bar = ShardProgress(1, console).__enter__()
    bar.images(1)
    bar.shard("embedded", Stats(seconds={"clip": 1.0}), worker="a")
    assert "slowest" not in last_line(bar, console)
