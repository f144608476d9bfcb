import io
import time

import pytest
from rich.console import Console

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
    assert "joined 2/6 blocks\n" in file.getvalue()


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
    assert "joined 1/2 blocks, 1 images encoded\n" in console.file.getvalue()
