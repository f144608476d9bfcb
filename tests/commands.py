"""Runs `blindpairs` in this process with two small seeded encoders in its registry."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click
import pytest

from miner.registry import REGISTRY
from pipelines.cli import cli, run
from tests.small import write_weights
from tests.towers import clip_record, dino_record


@dataclass(frozen=True, kw_only=True)
class Ran:
    """A command's exit code and what it printed."""

    code: int
    out: str
    err: str


class Commands:
    """`commands("mine", ...)` runs a command; `encoders` are the options for small ones."""

    def __init__(self, folder: Path, capture: pytest.CaptureFixture[str]) -> None:
        clip, dino = write_weights(folder)
        self._capture = capture
        self.encoders = (
            *("--clip", "small-clip", "--clip-weights", str(clip)),
            *("--dino", "small-dino", "--dino-weights", str(dino)),
        )

    def __call__(self, *words: object) -> Ran:
        return self.run(cli, *words)

    def run(self, command: click.Command, *words: object) -> Ran:
        """Run another command than `blindpairs`."""
        self._capture.readouterr()
        code = run([str(word) for word in words], command, str(command.name))
        captured = self._capture.readouterr()
        return Ran(code=code, out=captured.out, err=captured.err)

    def mine(self, *words: object) -> Ran:
        """Mine with the small encoders and thresholds that give pairs."""
        settings = ("--clip-above", "0.9", "--dino-below", "0.8", "--max-bad-fraction", "0.2")
        # Last, so that a test's own words win.
        return self("mine", *self.encoders, *settings, *words)


@pytest.fixture
def commands(
    tmp_path_factory: pytest.TempPathFactory,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Commands:
    """The command, with small encoders."""
    for record in (clip_record(), dino_record()):
        monkeypatch.setitem(REGISTRY, record.name, record)
    return Commands(tmp_path_factory.mktemp("weights"), capsys)
