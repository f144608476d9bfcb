"""Several commands share the shards of one run, with nobody to tell them which."""

from pathlib import Path

import click
import pytest

from miner.audit import verify
from miner.store import Store
from pipelines.shares import WHOLE, Share, ShareType
from tests.commands import Commands
from tests.small import write_corpus
from tests.test_kills import committed, finish, raw_parts, start, work_done

WORDS = ("--batch-size", 4, "--max-bad-fraction", 0.5, "--decoders", "thread")


def test_three_parts_side_by_side_and_a_join_equal_one_run(
    commands: Commands, tmp_path: Path
) -> None:
    write_corpus(tmp_path / "corpus", num_shards=7, images=8)
    ran = commands.mine(tmp_path / "corpus", *WORDS, "--out", tmp_path / "one")
    assert ran.code == 0, ran.err
    run = tmp_path / "parts"
    words = ["embed", str(tmp_path / "corpus"), *commands.encoders, *map(str, WORDS)]
    parts = [start([*words, "--out", str(run), "--part", f"{number}/3"]) for number in (1, 2, 3)]
    for part in parts:
        part.join(120)
        assert part.exitcode == 0
    done = [shard_id for shard_id, _ in work_done(run)]
    assert sorted(done) == [f"corpus.0000{number}" for number in range(7)]
    finish(["join", str(run), "--clip-above", "0.9", "--dino-below", "0.8"])
    assert raw_parts(run) == raw_parts(tmp_path / "one")
    assert committed(run).keys() == committed(tmp_path / "one").keys()
    assert verify(Store(run)) == []
    assert Store(run).leftovers() == []


def test_a_part_of_mine_embeds_and_says_what_comes_next(commands: Commands, tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus", num_shards=3, images=8)
    run = tmp_path / "run"
    ran = commands.mine(tmp_path / "corpus", *WORDS, "--part", "2/2", "--out", run)
    assert ran.code == 0, ran.err
    assert Store(run).committed("samples") == ["corpus.00001"]
    assert f"blindpairs join {run}   when all 2 parts are embedded" in ran.out
    assert not (run / "pairs").exists()
    assert Store(run).run()["shards"].keys() == {f"corpus.0000{number}" for number in range(3)}
    ran = commands("status", run)
    assert ran.code == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--limit", 9), "--limit counts over all shards in their order, which a --part does not"),
        (("--dino-mode", "auto"), "--dino-mode auto chooses by the first of all shards, which a"),
    ],
)
def test_what_needs_all_shards_is_refused(
    commands: Commands, tmp_path: Path, words: tuple[object, ...], says: str
) -> None:
    ran = commands.mine(tmp_path, *words, "--part", "1/2", "--out", tmp_path / "run")
    assert ran.code == 2
    assert says in ran.err


def test_a_part_is_a_number_of_a_number() -> None:
    assert ShareType().convert("3/12", None, None) == Share(3, 12)
    assert ShareType().convert(WHOLE, None, None) == WHOLE
    assert str(Share(3, 12)) == "3/12"
    for wrong in ("0/3", "4/3", "1", "1/0", "a/b", "1/3/5", "-1/3"):
        with pytest.raises(click.BadParameter, match="is no part; those of n are 1/n to n/n"):
            ShareType().convert(wrong, None, None)
