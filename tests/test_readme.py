"""The README says what is there: the tree, the commands, the queries."""

import re
from pathlib import Path

import click
import duckdb
import pytest

from pipelines.cli import cli
from tests.commands import Commands
from tests.small import PHOTOGRAPHS, write_corpus

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def tree() -> set[str]:
    """Files that the picture of the house names."""
    (picture,) = re.findall(r"## The house.*?```\n(.*?)```", README, re.DOTALL)
    named, folder = set(), ""
    for line in picture.splitlines():
        name = line.split()[0]
        if not line.startswith(" "):
            folder = name
        elif name.endswith(".py"):
            named.add(folder + name)
    return named


def test_tree_names_every_file_and_no_other() -> None:
    there = {
        path.relative_to(ROOT).as_posix()
        for folder in ("pipelines", "export", "miner", "kernels")
        for path in (ROOT / folder).rglob("*.py")
        if path.name != "__init__.py"
    }
    assert tree() == there


def test_every_command_is_listed_and_no_other() -> None:
    listed = set(re.findall(r"^\| `blindpairs ([a-z-]+)", README, re.MULTILINE))
    assert listed == set(cli.commands)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_of_the_examples_exist(page: Path) -> None:
    for line in re.findall(r"^blindpairs .*$", page.read_text("utf-8"), re.MULTILINE):
        words = line.split()
        options = {
            name
            for parameter in cli.commands[words[1]].params
            for name in parameter.opts
            if isinstance(parameter, click.Option)
        }
        assert {word for word in words if word.startswith("--")} <= options, line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text("utf-8")):
        assert "://" in link or (page.parent / link).exists(), link


def test_queries_run(commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    queries = re.findall(r"```sql\n(.*?)```", README, re.DOTALL)
    assert len(queries) == 3
    write_corpus(tmp_path / "corpus")
    assert commands.mine(tmp_path / "corpus", "--out", tmp_path / "run").code == 0
    monkeypatch.chdir(tmp_path / "run")
    best, confused, refused = (duckdb.sql(query).fetchall() for query in queries)
    assert [row[0] for row in best] == list(range(1, len(best) + 1))
    assert best[0][3].startswith("n ")
    assert sum(row[1] for row in confused) > 0
    assert refused == [("format_not_allowed", 3, str(tmp_path / "corpus" / "00000.tar"))]


def test_pair_id_can_be_recomputed_in_sql(
    commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_corpus(tmp_path / "corpus")
    commands.mine(tmp_path / "corpus", "--out", tmp_path / "run")
    monkeypatch.chdir(tmp_path / "run")
    both = "least(sha256_1, sha256_2) || greatest(sha256_1, sha256_2)"
    rows = duckdb.sql(
        f"SELECT pair_id, left(sha256({both}), 16) FROM 'pairs/*/selected.parquet'"
    ).fetchall()
    assert len(rows) > 0
    assert all(recorded == computed for recorded, computed in rows)


def test_packages_are_ours() -> None:
    import kernels
    import miner

    assert Path(kernels.__file__ or "").parent == ROOT / "kernels"
    assert Path(miner.__file__ or "").parent == ROOT / "miner"


def test_project_names_no_index_and_no_photograph() -> None:
    for name in ("pyproject.toml", "Makefile", ".ci/run", ".pre-commit-config.yaml"):
        text = (ROOT / name).read_text("utf-8")
        assert "://" not in text, name
        assert "index-url" not in text, name
    assert PHOTOGRAPHS.resolve().is_relative_to(ROOT) is False
