"""`evaluate` and `compare`, from their words to their tables."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import polars
import pytest

from miner.measuring.layouts import LAYOUTS
from miner.measuring.published import PUBLISHED
from miner.review import Decision
from miner.reviewing.kept import keep_decisions
from miner.store import Store
from pipelines import measuring_commands
from pipelines.show_figures import TITLES
from tests.commands import Commands
from tests.labelled_sets import twins, write_jsonl, write_mmvp, write_mmvp_vlm, write_whatsup
from tests.report_runs import Shot, make_run


@pytest.fixture(scope="module")
def hidden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_jsonl(tmp_path_factory.mktemp("hidden"), twins(14, "hidden"))


@pytest.fixture
def run(tmp_path: Path) -> Store:
    """A run of which every pair is blind; two are accepted with statements, one is rejected."""
    pairs = twins(2)
    data = [image for pair in pairs for image in pair.images]
    statement = dict(zip((0, 1, 2, 3), (s for p in pairs for s in p.statements), strict=True))
    store, folder = make_run(tmp_path, [Shot(data=image) for image in data])
    selected = store.read_table(f"pairs/{folder.name}/selected.parquet").to_pylist()
    for row in selected:
        numbers = [int(row[name].rsplit("/")[-1]) for name in ("image_1", "image_2")]
        if sum(numbers) == 3:
            # 0 with 3, 1 with 2: no twins.
            continue
        ids = {n: row[n] for n in ("pair_id", "sha256_1", "sha256_2", "image_1", "image_2")}
        told = sum(numbers) in (1, 5)
        fields = {
            "decision": "accept" if told else "reject",
            "pattern": 6 if told else 1,
            "statement_1": statement[numbers[0]],
            "statement_2": statement[numbers[1]],
        }
        keep_decisions(
            store, [Decision(**ids, **fields, reviewer="a", decided_at=datetime.now(UTC))]
        )
    return store


def test_evaluate_a_file(commands: Commands, hidden: Path, tmp_path: Path) -> None:
    out, pairs = tmp_path / "figures.csv", tmp_path / "pairs.csv"
    ran = commands(
        *("evaluate", hidden, "--layout", "jsonl", "--encoder", "demo-clip", "--device", "cpu"),
        *("--out", out, "--pairs-out", pairs, "--reference", "mmvp"),
    )
    assert ran.code == 0, ran.err
    lines = ran.out.splitlines()
    assert lines[0] == f"demo-clip-8b8084e8 on {hidden}"
    assert lines[1].split()[:3] == ["pairs", "individual", "pair"]
    (of_all,) = [line for line in lines if line.startswith("all")]
    figures = polars.read_csv(out)
    rows = figures.filter((polars.col("subset") == "all") & (polars.col("measure") == "pair"))
    (row,) = rows.to_dicts()
    assert row["num"] == 14
    assert row["value"] <= 0.3
    shown = f"{100 * row['value']:.1f} [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"
    assert shown in of_all
    assert lines[1].index("pair ", 10) == of_all.index(shown)
    (chance,) = [line for line in lines if line.startswith("chance")]
    assert chance.split()[1:] == ["50.0", "25.0", "25.0", "16.7", "50.0"]
    assert f"CLIP ViT-L/14-336  all     pair     14.0   {shown}" in ran.out
    assert "the published figures are of mmvp, ours of another set" in ran.out
    assert len(polars.read_csv(pairs)) == 14


def test_evaluate_a_run(commands: Commands, run: Store) -> None:
    ran = commands("evaluate", run.root, "--encoder", "demo-clip")
    assert ran.code == 0, ran.err
    assert "color and appearance  2      100.0" in ran.out


def test_evaluate_answers(commands: Commands, tmp_path: Path) -> None:
    folder = write_mmvp(tmp_path / "set", twins(2))
    answers = tmp_path / "model.jsonl"
    said = ["(a)", "(b)", "(b)", "no idea"]
    rows = [{"question_id": n, "response": text} for n, text in enumerate(said, start=1)]
    answers.write_text("".join(json.dumps(row) + "\n" for row in rows))
    ran = commands("evaluate", folder, "--layout", "mmvp", "--answers", answers)
    assert ran.code == 0, ran.err
    assert ran.out.splitlines()[0] == f"model on {folder}"
    assert "75.0 [30.1, 95.4]" in ran.out
    assert "50.0 [9.5, 90.5]" in ran.out
    assert (
        "note: 1 of 4 questions have an answer that names no single option, 0 have none" in ran.out
    )


def test_four_statements_and_their_reference(commands: Commands, tmp_path: Path) -> None:
    path = write_whatsup(tmp_path, twins(4))
    ran = commands(
        "evaluate", path, "--layout", "whatsup", "--encoder", "demo-clip", "--reference", "whatsup"
    )
    assert ran.code == 0, ran.err
    assert "pair (4 statements)" in ran.out
    assert "set of 4" in ran.out
    (line,) = [
        line
        for line in ran.out.splitlines()
        if line.startswith("CLIP") and "A left/right" in line and "cosine" in line
    ]
    assert "0.995" in line
    assert "[" in line
    (line,) = [line for line in ran.out.splitlines() if "B left/right" in line and "pair" in line]
    assert line.rstrip().endswith("10.8   -")
    assert "ours of another set" not in ran.out


def test_hostile_names_do_not_reach_the_terminal(commands: Commands, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path, twins(2))
    first, second = [json.loads(line) for line in path.read_text().splitlines()]
    first["pattern"] = "\x1b[2J[bold]evil[/bold]"
    path.write_text(json.dumps(first) + "\n" + json.dumps(second))
    ran = commands("evaluate", path, "--layout", "jsonl", "--encoder", "demo-clip")
    assert ran.code == 0, ran.err
    assert "\x1b[2J" not in ran.out
    assert "\ufffd[2J[bold]evil[/bold]" in ran.out


def test_compare_a_run(commands: Commands, run: Store, tmp_path: Path) -> None:
    out = tmp_path / "compared.csv"
    ran = commands(
        *("compare", run.root, "--encoders", "demo-clip,demo-dino", "--above", "demo-dino=-1"),
        *("--out", out, "--limit", 4),
    )
    assert ran.code == 0, ran.err
    assert "note: 2 pairs that reviewers rejected are left out" in ran.out
    header = next(line for line in ran.out.splitlines() if line.startswith("encoder"))
    assert "color and appearance" in header
    assert "no pattern" in header
    rows = polars.read_csv(out).filter(polars.col("subset") == "all").to_dicts()
    assert [(row["encoder"][:9], row["above"]) for row in rows] == [
        ("demo-clip", 0.95),
        ("demo-dino", -1.0),
    ]
    assert rows[0]["value"] < 0.5
    assert rows[1]["value"] == 1


def test_compare_a_layout(commands: Commands, tmp_path: Path) -> None:
    folder = write_mmvp_vlm(tmp_path / "set", twins(4))
    ran = commands(
        *("compare", folder, "--layout", "mmvp-vlm", "--encoders", "demo-clip"),
        *("--measure", "pair_by_statement", "--prompt", "{}"),
    )
    assert ran.code == 0, ran.err
    lines = ran.out.splitlines()
    assert lines[0] == f"accuracy (pair by statement) in %, of 4 pairs of {folder}"
    assert lines[1].split() == [
        *("encoder", "pixels", "parameters", "Orientation", "Color", "all", "average")
    ]
    assert lines[2].startswith("demo-clip-8b8084e8  64      0.8 M")
    assert lines[2].endswith("100.0")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("evaluate",), "give either --encoder NAME or --answers FILE"),
        (("evaluate", "--encoder", "x", "--lower-is-better"), "--lower-is-better is for --answers"),
        (("evaluate", "--encoder", "x", "--answers", "HERE"), "give either --encoder NAME or"),
        (("evaluate", "--answers", "HERE", "--prompt", "{}"), "--weights and --prompt are for an"),
        (("evaluate", "--encoder", "x", "--correct-labels"), "MMVP, not for reviews"),
        (("evaluate", "--encoder", "no-such", "--layout", "jsonl"), "no encoder is called"),
        (("evaluate", "--encoder", "demo-dino", "--layout", "jsonl"), "has no text tower"),
        (("compare", "--encoders", "a", "--measure", "pair"), "--measure says nothing of a run"),
        (
            ("compare", "--encoders", "a", "--layout", "jsonl", "--limit", "3"),
            "--limit says nothing",
        ),
        (("compare", "--encoders", ","), "give names with commas, each once"),
        (("compare", "--encoders", "a,b,a"), "give names with commas, each once"),
        (("compare", "--encoders", "a", "--above", "b=0.9"), "--above b=0.9: give NAME=VALUE"),
        (("compare", "--encoders", "a", "--weights", "a"), "--weights a: give NAME=VALUE, once"),
    ],
)
def test_wrong_words(commands: Commands, hidden: Path, words: tuple[str, ...], told: str) -> None:
    name, *rest = (str(hidden) if word == "HERE" else word for word in words)
    ran = commands(name, hidden, *rest)
    assert ran.code == 2
    assert told in " ".join(ran.err.split())


def test_a_set_at_a_url(commands: Commands) -> None:
    ran = commands("evaluate", "s3://b/x", "--layout", "jsonl", "--encoder", "demo-clip")
    assert ran.code == 2
    assert "a set of layout jsonl lies in a folder" in " ".join(ran.err.split())


def test_a_threshold_that_is_no_cosine(commands: Commands, run: Store) -> None:
    for text in ("1.5", "x"):
        words = ("compare", run.root, "--encoders", "demo-clip", "--above", f"demo-clip={text}")
        ran = commands(*words)
        assert ran.code == 2
        assert f"demo-clip={text}: give a cosine from -1 to 1" in " ".join(ran.err.split())


def test_a_set_that_is_not_there(commands: Commands, tmp_path: Path) -> None:
    ran = commands("evaluate", tmp_path, "--layout", "mmvp", "--encoder", "demo-clip")
    assert ran.code == 4
    assert "Questions.csv cannot be read" in ran.err


def test_choices_are_those_of_the_library() -> None:
    assert set(measuring_commands.LAYOUTS) == {"review", *LAYOUTS}
    assert set(measuring_commands.BENCHMARKS) == set(PUBLISHED)
    assert set(measuring_commands.MEASURES) < set(TITLES)
