from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

import pipelines
from miner.config import MineSettings
from miner.store import Store
from pipelines import corpora
from pipelines.cli import cli
from pipelines.corpora import Corpus, corpus_command, executor_default
from pipelines.shares import Share
from tests.commands import Commands
from tests.small import write_corpus

Asked = list[tuple[Sequence[str], Path | str, Share | None, MineSettings]]

TOY = Corpus(name="toy.py", about="Mine toys.", defaults={"dataset": "toys", "max_per_image": 7})


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """What a command would have mined."""
    calls: Asked = []

    def mine_all(*words: Any) -> int:
        calls.append(words)
        return 0

    monkeypatch.setattr(corpora, "mine_all", mine_all)
    return calls


def test_defaults_count_where_nothing_else_is_said(asked: Asked, tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("max_per_image: 5\nlimit: 3\n")
    command = corpus_command(TOY)
    for words in ((), ("--config", str(config)), ("--config", str(config), "--max-per-image", "1")):
        words = ("a.tar", "b.tar", "--out", "run", *words)
        assert CliRunner().invoke(command, words).exit_code == 0
        assert asked[-1][:3] == (("a.tar", "b.tar"), Path("run"), None)
    given = {"dataset": "toys", **executor_default()}
    assert [settings for *_, settings in asked] == [
        MineSettings(**given, max_per_image=7),  # type: ignore[arg-type]
        MineSettings(**given, max_per_image=5, limit=3),  # type: ignore[arg-type]
        MineSettings(**given, max_per_image=1, limit=3),  # type: ignore[arg-type]
    ]


def test_help_names_the_corpus_own_defaults() -> None:
    text = CliRunner().invoke(corpus_command(TOY), ["--help"]).output
    assert "Mine toys." in text
    assert "[default: toys]" in text
    assert "[default: 7]" in text
    assert "[default: 64]" in text


def test_every_option_of_mine_is_there() -> None:
    named = {parameter.name for parameter in corpus_command(TOY).params}
    assert named == {"verbose", *(parameter.name for parameter in cli.commands["mine"].params)}


def test_shards_are_wanted_unless_the_corpus_has_a_home(
    asked: Asked,
) -> None:
    ran = CliRunner().invoke(corpus_command(TOY), ["--out", "run"])
    assert "Missing argument 'SHARD...'" in ran.output
    home = Corpus(name="home.py", about="", shards=("s3://bucket/{0..3}.tar",))
    assert CliRunner().invoke(corpus_command(home), ["--out", "run"]).exit_code == 0
    assert asked[0][0] == ("s3://bucket/{0..3}.tar",)


def test_ray_is_the_default_on_a_ray_cluster(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("a.tar", "--out", "run", "--part", "2/3")
    for address, executor in (("", "inline"), ("auto", "ray")):
        monkeypatch.setenv("RAY_ADDRESS", address)
        command = corpus_command(TOY)
        assert CliRunner().invoke(command, words).exit_code == 0
        assert asked[-1][2:] == (Share(2, 3), MineSettings(**TOY.defaults, executor=executor))
        assert CliRunner().invoke(command, (*words, "--executor", "inline")).exit_code == 0
        assert asked[-1][-1].executor == "inline"
    assert "[default: ray]" in CliRunner().invoke(command, ["--help"]).output


def test_errors_carry_the_scripts_name_and_code(commands: Commands, tmp_path: Path) -> None:
    toy = corpus_command(TOY)
    ran = commands.run(toy, tmp_path / "none.tar", "--out", tmp_path / "run", *commands.encoders)
    assert ran.code == 4
    assert ran.err.startswith("toy.py: ")
    assert commands.run(toy, "--out", tmp_path).code == 2


def test_the_run_is_that_of_mine(commands: Commands, tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus", num_shards=1)
    words = (*commands.encoders, "--clip-above", "0.9", "--dino-below", "0.8")
    words += ("--decoders", "thread", "--max-bad-fraction", "0.1", "--out", tmp_path / "run")
    assert commands.run(corpus_command(TOY), tmp_path / "corpus", *words).code == 0
    store = Store(tmp_path / "run")
    assert store.committed("samples") == ["toys.00000"]
    assert store.run()["commands"][0]["settings"]["max_per_image"] == 7
    # The same run by the general command: there is nothing to do.
    again = commands("mine", tmp_path / "corpus", "--dataset", "toys", *words)
    assert "1, of which 0 had work to do" in again.out


def test_no_file_beside_the_scripts_hides_a_module_of_that_name() -> None:
    """Run as a file, a script has its own folder first on the path."""
    folder = Path(pipelines.__file__ or "").parent
    ours = {path.stem for path in folder.glob("*.py")} | {
        path.name for path in folder.iterdir() if path.is_dir()
    }
    others = sys.stdlib_module_names | packages_distributions().keys()
    assert ours & others <= {"__pycache__"}
    assert isinstance(corpus_command(TOY), click.Command)
