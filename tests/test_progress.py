import io

import pytest
from rich.console import Console

from pipelines import progress
from pipelines.progress import ShardProgress


def test_without_a_terminal_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    text = io.StringIO()
    with ShardProgress(40, Console(file=text)) as bar:
        for _ in range(40):
            now += 1.0
            bar.advance(10, 1)
    lines = text.getvalue().splitlines()
    assert lines == [
        "embedded 10/40 shards, 100 images, 10.0/s, 10 refused",
        "embedded 20/40 shards, 200 images, 10.0/s, 20 refused",
        "embedded 30/40 shards, 300 images, 10.0/s, 30 refused",
        "embedded 40/40 shards, 400 images, 10.0/s, 40 refused",
        "embedded 40/40 shards, 400 images, 10.0/s, 40 refused",
    ]


def test_on_a_terminal_a_bar() -> None:
    text = io.StringIO()
    with ShardProgress(2, Console(file=text, force_terminal=True, width=100)) as bar:
        bar.advance(5, 0)
        bar.advance(5, 0)
    assert "2/2" in text.getvalue()
    assert "10 images" in text.getvalue()
