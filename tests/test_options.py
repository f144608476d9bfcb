import json
from pathlib import Path
from typing import Literal

import click
import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from miner.config import MineSettings, Settings
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


def test_a_ray_job_keeps_no_run_in_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command()
    @click.option("--out", type=RUN)
    def keeping(out: object) -> None:
        click.echo(out)

    job = {"runtime_env": {"working_dir": "gcs://_ray_pkg_0.zip"}, "metadata": {}}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(job))
    run = CliRunner().invoke
    text = run(keeping, ["--out", "runs/a"]).output
    assert "a Ray job stands in a copy of its --working-dir, which Ray deletes" in text
    for kept in ("/data/runs/a", "s3://bucket/a"):
        assert run(keeping, ["--out", kept]).output == f"{kept}\n"
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps({"runtime_env": {}}))
    assert run(keeping, ["--out", "runs/a"]).output == "runs/a\n"


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


LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join(['*' + before] * 9)}]\n"
    for before, name in zip("abcdefghijkl", "bcdefghijklm", strict=True)
)
"""Aliases of aliases: 9 ** 13 values, if they were written out."""


@pytest.mark.parametrize(
    "text",
    [
        *("- a", "clip: [", "\0", "colour: !!python/object/apply:os.system [id]", "<<: 3"),
        *("width: 2001-99-99", "width: 0x_", "width: " + "9" * 5000, "width: !!int ''"),
        *("twice: !!bool x", "ratio: !!float x", "width: !!timestamp x", "weights: !!binary ?"),
        *("width: " + "[" * 1000 + "]" * 1000, "? [a, {b: c}]\n: d", "colour: !!omap 3"),
        LAUGHS + "colour: *m",
        "colour: &a [*a]",
        "width: 3.5",
        "width: &a {b: *a}",
        "width: -0x" + "f" * 5000 + "\nratio: [0x" + "f" * 5000 + "]",
        *("0x" + "f" * 5000 + ": 1", "ratio: .nan", "ratio: -.inf", "colour: purple"),
    ],
)
def test_hostile_config_files_are_usage_errors(tmp_path: Path, text: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(click.UsageError, match=r"c\.yaml (is no|has to)|--[a-z0-9]") as caught:
        settings_from(Knobs, {}, path)
    assert len(str(caught.value)) < 20_000


yaml_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(st.sampled_from(sorted(MineSettings.model_fields)) | st.text(), yaml_values)
    | st.text()
    | st.binary()
)
def test_any_config_file_gives_settings_or_a_usage_error(
    tmp_path_factory: pytest.TempPathFactory, content: object
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.yaml"
    if isinstance(content, dict):
        content = yaml.safe_dump(content)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    try:
        found = settings_from(MineSettings, {}, path)
    except click.UsageError:
        return
    assert isinstance(found, MineSettings)
