from pathlib import Path
from typing import Literal

import click
import pytest
from click.testing import CliRunner

from miner.config import Settings
from pipelines.options import RUN, settings_from, settings_options


class Knobs(Settings):
    """A model with one field of each kind."""

    width: int = 3
    """How wide."""

    ratio: float | None = None
    """How steep."""

    colour: Literal["red", "blue"] = "red"
    """Which colour."""

    weights: Path | None = None
    """A file."""

    twice: bool = False
    """Whether again."""


@click.command()
@settings_options(Knobs)
def command(config_file: Path | None, **flags: object) -> None:
    click.echo(repr(settings_from(Knobs, flags, config_file)))


def said(*words: str) -> str:
    return CliRunner().invoke(command, words).output


def test_flags_become_settings() -> None:
    assert said() == "Knobs(width=3, ratio=None, colour='red', weights=None, twice=False)\n"
    text = said("--width", "5", "--ratio", "0.5", "--colour", "blue", "--weights", "a/b")
    assert "width=5, ratio=0.5, colour='blue'" in text
    assert "a/b" in text
    assert "twice=True" in said("--twice")


def test_help_is_the_fields_own_sentence() -> None:
    text = said("--help")
    assert "How wide.  [default: 3]" in text
    assert "[red|blue]" in text
    assert "--twice " in text
    assert "Whether again.\n" in text


def test_wrong_values_name_the_flag() -> None:
    assert "Invalid value for '--width'" in said("--width", "x")
    assert "'green' is not one of 'red', 'blue'" in said("--colour", "green")


def test_settings_from_names_the_field() -> None:
    with pytest.raises(click.UsageError, match=r"--width: Input should be a valid integer.*'x'"):
        settings_from(Knobs, {"width": "x"}, None)


def test_empty_config_file_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("")
    assert settings_from(Knobs, {}, path) == Knobs()
    path.write_text("width: 8\n")
    assert settings_from(Knobs, {"ratio": 0.25}, path) == Knobs(width=8, ratio=0.25)


@click.command()
@click.argument("run", type=RUN)
def on_run(run: Path | str) -> None:
    click.echo(repr(run))


def test_a_run_is_a_folder_or_a_url() -> None:
    def said(word: str) -> str:
        return CliRunner().invoke(on_run, [word]).output

    assert said("runs/a") == "PosixPath('runs/a')\n"
    assert said("s3://bucket//a") == "'s3://bucket//a'\n"
    assert said("gs://bucket") == "'gs://bucket'\n"
    assert "a run lies in a folder, or at s3:// or gs://" in said("https://host/a")
