import json
import re
from pathlib import Path

import pytest

from pipelines.cli import SHORT_HELP_CHARS, cli
from tests.commands import Commands
from tests.small import jpeg, write_corpus


def test_yaml_holds_the_same_fields_and_flags_win(commands: Commands, tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus", num_shards=1)
    run, config = tmp_path / "run", tmp_path / "run.yaml"
    config.write_text("clip_above: 0.7\nmax-per-image: 1\n")
    ran = commands.mine(tmp_path / "corpus", "--out", run, "--config", config)
    assert ran.code == 0, ran.err
    (join,) = run.glob("pairs/*/join.json")
    record = json.loads(join.read_text())
    assert record["clip_above"] == 0.9
    assert record["selection"]["settings"]["max_per_image"] == 1


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["mine", "nowhere.tar", "--out", "run"], 4, "nowhere.tar"),
        (["mine", "--out", "run"], 2, "Missing argument 'SHARD...'"),
        (["mine", "x.tar"], 2, "Missing option '--out'"),
        (["mine", "x.tar", "--out", "r", "--clip-above", "2"], 2, "--clip-above: Input should be"),
        (["mine", "x.tar", "--out", "r", "--keep-clip", "0.99"], 2, "keep_clip is 0.99, above"),
        (["mine", "x.tar", "--out", "r", "--dataset", "a/b"], 2, "--dataset: String should match"),
        (["mine", "pipe:cat x.tar", "--out", "r"], 2, "pipe:"),
        (["status", "nowhere"], 4, "nowhere holds no run"),
        (["verify", "nowhere"], 4, "nowhere holds no run"),
        (["join", "nowhere"], 4, "nowhere holds no run"),
        (["nonsense"], 2, "No such command 'nonsense'"),
    ],
)
def test_errors_say_what_is_wrong(
    commands: Commands, words: list[str], code: int, message: str
) -> None:
    ran = commands(*words)
    assert ran.code == code, ran.err
    assert message in ran.err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("clip_abve: 0.9\n", "--clip-abve: Extra inputs are not permitted"),
        ("- a list\n", "has to hold `name: value` lines"),
        ("a: [1\n", "is no readable YAML"),
    ],
)
def test_config_file_that_is_wrong(
    commands: Commands, tmp_path: Path, text: str, message: str
) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(text)
    ran = commands("mine", "x.tar", "--out", tmp_path / "run", "--config", config)
    assert ran.code == 2
    assert message in ran.err


def test_missing_weights_and_devices_are_resources(commands: Commands, tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus", num_shards=1)
    run = tmp_path / "run"
    ran = commands.mine(tmp_path / "corpus", "--out", run, "--clip-weights", tmp_path / "no.file")
    assert ran.code == 4
    assert "no.file" in ran.err
    ran = commands.mine(tmp_path / "corpus", "--out", run, "--device", "cuda:7")
    assert ran.code == 4
    assert "--device cuda:7" in ran.err


def test_interrupt_is_130_and_says_that_work_goes_on(
    commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines import embed_work

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    write_corpus(tmp_path / "corpus", num_shards=1)
    monkeypatch.setattr(embed_work, "embed_shards", interrupt)
    ran = commands.mine(tmp_path / "corpus", "--out", tmp_path / "run")
    assert ran.code == 130
    assert "the same command goes on from here" in ran.err


def test_out_that_is_a_file(commands: Commands, tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus", num_shards=1)
    (tmp_path / "file").write_text("")
    ran = commands.mine(tmp_path / "corpus", "--out", tmp_path / "file")
    assert ran.code == 4
    assert "see to it and run again" in ran.err


def test_out_that_is_the_folder_of_the_images(commands: Commands, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(jpeg(1))
    ran = commands.mine(tmp_path / "photos", "--out", tmp_path / "photos")
    assert ran.code == 2
    assert "is the folder of the images; give another one" in ran.err


def test_brackets_in_a_path_are_no_markup(commands: Commands, tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus", num_shards=1)
    run = tmp_path / "run[" / "x][red]"
    ran = commands.mine(tmp_path / "corpus", "--out", run)
    assert ran.code == 0, ran.err
    (page,) = (run / "pairs").glob("*/report/index.html")
    assert str(page) in ran.out


def test_help_lists_every_command_by_stage_in_a_whole_line(commands: Commands) -> None:
    ran = commands("--help")
    assert re.search(r"^Mine:$.*^Choose:$.*^Hand off:$.*^Measure:$", ran.out, re.M | re.S)
    for name, command in cli.commands.items():
        said = command.get_short_help_str(SHORT_HELP_CHARS)
        assert not said.endswith("..."), name
        assert re.search(rf"^  {name} +{re.escape(said)}$", ran.out, re.M), name
