import json
import re
from pathlib import Path

from pipelines.fleet import Corpus
from pipelines.plan import on_gpus
from tests.commands import Commands
from tests.mined import selected
from tests.small import write_corpus


def test_why_follows_a_pair(commands: Commands, tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus")
    run = tmp_path / "run"
    commands.mine(tmp_path / "corpus", "--out", run)
    row = selected(run)[0]
    ran = commands("why", run, row["image_1"], row["image_2"])
    assert ran.code == 0
    assert f"in raw as {row['pair_id']}; selected" in ran.out
    assert "wanted > 0.9" in ran.out
    assert commands("why", run, row["pair_id"]).out == ran.out
    ran = commands("why", run, "0" * 16)
    assert ran.code == 4
    assert f"{'0' * 16} is no pair_id in raw of " in ran.err
    assert f"a pair_id is, for one, {row['pair_id']}" in ran.err
    ran = commands("why", run, row["image_1"], "nobody")
    assert ran.code == 4
    assert re.search(r"nobody is no sample of .*; an image_id is, for one, corpus/0", ran.err)
    ran = commands("why", run, row["image_1"], "corpus/00000/000000005")
    assert ran.code == 4
    assert "it was refused: format_not_allowed" in ran.err


def test_verbose_before_a_command_or_after_it(commands: Commands, tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus", num_shards=1)
    for number, words in enumerate((("mine",), ("-v", "mine"), ("mine", "-v"))):
        rest = ("--max-bad-fraction", "0.2", "--out", tmp_path / f"run{number}")
        ran = commands(*words, tmp_path / "corpus", *commands.encoders, *rest)
        assert ran.code == 0, ran.err
        assert ("loading small-clip" in ran.err) == (number > 0), ran.err


def test_plan_counts_and_learns_from_a_run(commands: Commands, tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus")
    run = tmp_path / "run"
    small = ("--clip", "small-clip", "--dino", "small-dino")
    ran = commands("plan", tmp_path / "corpus", *small)
    assert ran.code == 0, ran.err
    assert "36 (counted)" in ran.out
    assert "unknown; embed a few shards" in ran.out
    assert re.search(r"on 8 GPUs +less than a minute, where reading and decoding keep up", ran.out)
    assert "images/s" not in ran.out
    config = tmp_path / "mine.yaml"
    config.write_text("executor: ray\nnum_workers: 2\nmax_per_image: 1\n")
    assert commands("plan", tmp_path / "corpus", *small, "--config", config).code == 0
    commands.mine(tmp_path / "corpus", "--out", run)
    record = json.loads(next(run.glob("pairs/*/join.json")).read_text())
    same = ("--clip-above", record["clip_above"], "--dino-below", record["dino_below"])
    ran = commands("plan", tmp_path / "corpus", *small, *same, "--out", run)
    assert "among 33 distinct images" in ran.out
    # 33 of 36 samples are decodable, and distinct; all 36 may be in a plan.
    scale = 36 * 35 / (33 * 32)
    counts = {name: round(record["counts"][name] * scale) for name in ("candidates", "blind")}
    assert re.search(rf"candidates\s+about {counts['candidates']:,} ", ran.out)
    assert re.search(rf"blind pairs\s+about {counts['blind']:,} ", ran.out)


def test_plan_of_a_large_corpus_names_rates_on_gpus() -> None:
    corpus = Corpus(
        num_images=10**9, num_bytes=10**14, flops=2 * 10**11, clip_width=768, dino_width=1024
    )
    lines = dict(on_gpus(corpus, None))
    assert re.match(
        r"encoders at least .* h, .*images/s.*reading and decoding are not counted",
        lines["on 8 GPUs"],
    )


def test_doctor_and_encoders_print_what_is_there(commands: Commands) -> None:
    ran = commands("doctor")
    assert ran.code == 0
    for word in ("torch", "onnxruntime", "--device auto", "--join auto"):
        assert word in ran.out
    ran = commands("encoders")
    assert "clip-vit-l-14 " in ran.out
    assert "small-dino" in ran.out


def test_verify_removes_what_no_commit_names(commands: Commands, tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus", num_shards=1)
    run = tmp_path / "run"
    commands.mine(tmp_path / "corpus", "--out", run)
    stray = run / "samples" / "corpus.00000.dead.parquet"
    stray.write_bytes(b"half")
    assert "no commit names it; --gc removes it" in commands("verify", run).out
    assert "removed samples/corpus.00000.dead.parquet" in commands("verify", run, "--gc").out
    assert not stray.exists()
    next(run.glob("samples/*.parquet")).write_bytes(b"")
    assert commands("verify", run).code == 3
