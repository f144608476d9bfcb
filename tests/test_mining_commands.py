import json
import re
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from miner.store import Store
from pipelines import show
from tests.commands import Commands
from tests.mined import raw_bytes, selected, work_done
from tests.small import jpeg, write_corpus, write_tar


def test_mine_goes_the_whole_way_and_says_so(commands: Commands, tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus")
    run = tmp_path / "run"
    ran = commands.mine(tmp_path / "corpus", "--out", run)
    assert ran.code == 0, ran.err
    assert "33 embedded" in ran.out
    assert "3 of 36 samples (8.33%, limit 20.00%)" in ran.out
    (selected,) = run.glob("pairs/*/selected.parquet")
    assert str(selected) in ran.out
    assert pq.read_table(selected).num_rows > 0
    assert "embedded 3/3 shards, 33 images" in ran.err
    assert commands("verify", run).out == "all commits, hashes and counts are right\n"


def test_only_new_work_runs(commands: Commands, tmp_path: Path) -> None:
    """Embed once, then three thresholds, then two more shards, then a second DINO record."""
    corpus, run = tmp_path / "corpus", tmp_path / "run"
    write_corpus(corpus, num_shards=2)
    assert commands.mine(corpus, "--out", run).code == 0
    first = work_done(run)
    assert [done["encoded small-clip"] for done in first] == [11, 11]
    assert [done["encoded small-dino"] for done in first] == [11, 11]
    for above in ("0.8", "0.85", "0.95"):
        assert commands("join", run, "--clip-above", above, "--dino-below", "0.8").code == 0
    assert work_done(run) == first
    assert len(list(run.glob("pairs/*/join.json"))) == 4
    write_corpus(corpus, num_shards=2, first_shard=2)
    assert commands.mine(corpus, "--out", run).code == 0
    more = work_done(run)[len(first) :]
    assert [done["samples"] for done in more] == [12, 12]
    other = ("--dino", "small-dino", "--dino-weights", second_dino(tmp_path))
    ran = commands.mine(corpus, "--out", run, *other)
    assert ran.code == 0, ran.err
    again = work_done(run)[len(first) + len(more) :]
    assert again == [{"encoded small-dino": 11}] * 4
    assert commands.mine(corpus, "--out", run, *other).code == 0
    assert len(work_done(run)) == 8


def second_dino(folder: Path) -> Path:
    from tests.towers import write_dino_weights

    return write_dino_weights(folder / "second.safetensors", seed=9)


def test_moved_corpus_changes_no_id_and_no_pair(commands: Commands, tmp_path: Path) -> None:
    corpus, run = tmp_path / "corpus", tmp_path / "run"
    write_corpus(corpus, num_shards=2)
    commands.mine(corpus, "--out", run)
    before = raw_bytes(run)
    corpus.rename(tmp_path / "renamed")
    assert commands.mine(tmp_path / "renamed", "--out", run).code == 0
    assert len(work_done(run)) == 2
    assert raw_bytes(run) == before
    shutil.copytree(tmp_path / "renamed", tmp_path / "copied", copy_function=shutil.copy)
    write_corpus(tmp_path / "copied", num_shards=1, first_shard=2)
    assert commands.mine(tmp_path / "copied", "--out", run).code == 0
    assert len(work_done(run)) == 3
    ids = {row["image_1"].split("/")[0] for row in selected(run)}
    assert ids == {"corpus"}
    fresh = tmp_path / "fresh"
    commands.mine(tmp_path / "renamed", "--out", fresh, "--dataset", "corpus")
    assert raw_bytes(fresh) == before


def test_changed_shard_is_refused(commands: Commands, tmp_path: Path) -> None:
    corpus, run = tmp_path / "corpus", tmp_path / "run"
    write_corpus(corpus, num_shards=2)
    commands.mine(corpus, "--out", run)
    path = corpus / "00001.tar"
    data = bytearray(path.read_bytes())
    data[700] ^= 1
    path.write_bytes(data)
    ran = commands.mine(corpus, "--out", run)
    assert ran.code == 2
    assert "corpus.00001 was committed with" in ran.err
    assert "has other bytes now" in ran.err


def test_damaged_shard_is_partial_and_its_intact_samples_are_kept(
    commands: Commands, tmp_path: Path
) -> None:
    corpus, run = tmp_path / "corpus", tmp_path / "run"
    first, _ = write_corpus(corpus, num_shards=2)
    data = first.read_bytes()
    first.write_bytes(data[: len(data) * 2 // 3])
    ran = commands.mine(corpus, "--out", run)
    assert ran.code == 3
    assert "damaged: corpus.00000; its intact samples were kept" in ran.out
    assert "damaged" in commands("status", run).out
    assert commands("verify", run).code == 0


def test_too_many_refused_images_are_partial(commands: Commands, tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus", num_shards=1)
    run = tmp_path / "run"
    ran = commands.mine(tmp_path / "corpus", "--out", run, "--max-bad-fraction", "0.01")
    assert ran.code == 3
    assert "1 of 12 samples (8.33%, limit 1.00%)" in ran.out


def test_shard_that_cannot_be_read_does_not_stop_the_others(
    commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from miner.errors import ShardError
    from miner.samples import ShardReader

    write_corpus(tmp_path / "corpus", num_shards=3)

    real = ShardReader._items

    def fail_late(reader):  # type: ignore[no-untyped-def]
        for number, item in enumerate(real(reader)):
            if number == 5 and reader._shard.stem == "00001":
                raise ShardError("the disk is on fire; put it out")
            yield item

    monkeypatch.setattr(ShardReader, "_items", fail_late)
    run = tmp_path / "run"
    ran = commands.mine(tmp_path / "corpus", "--out", run)
    assert ran.code == 3
    assert "failed: corpus.00001: the disk is on fire" in ran.out
    told = commands("status", run).out
    assert "corpus.00001  missing" in told
    assert told.count("failed: corpus.00001: the disk is on fire; put it out") == 1
    assert re.search(r"shards\s+2 of 3 done, 0 damaged", told)
    assert re.search(r"running\s+no", told)
    with Store(run).writing():
        assert re.search(r"running\s+yes, a command writes to it", commands("status", run).out)
    monkeypatch.setattr(show, "MOST_LISTED", 1)
    told = commands("status", run).out
    assert "corpus.00001  missing" in told
    assert "corpus.00000" not in told
    monkeypatch.undo()


def test_limit_counts_samples_over_all_shards(commands: Commands, tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus", num_shards=3)
    run = tmp_path / "run"
    assert commands.mine(tmp_path / "corpus", "--out", run, "--limit", "20").code == 0
    assert [done["samples"] for done in work_done(run)] == [12, 8]
    assert commands.mine(tmp_path / "corpus", "--out", run, "--limit", "20").code == 0
    assert len(work_done(run)) == 2
    ran = commands.mine(tmp_path / "corpus", "--out", run)
    assert ran.code == 2
    assert "committed with --limit, after 8 of its samples; now all are asked for" in ran.err


def test_other_reading_settings_are_refused(commands: Commands, tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus", num_shards=1)
    run = tmp_path / "run"
    commands.mine(tmp_path / "corpus", "--out", run)
    ran = commands.mine(tmp_path / "corpus", "--out", run, "--max-pixels", "1000")
    assert ran.code == 2
    assert "max_pixels: 100000000 recorded, 1000 now" in ran.err


def test_select_again_with_another_cap(commands: Commands, tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus")
    run = tmp_path / "run"
    commands.mine(tmp_path / "corpus", "--out", run)
    before = len(selected(run))
    assert commands("select", run, "--max-per-image", "1").code == 0
    assert 0 < len(selected(run)) < before
    ran = commands("select", run, "--name", "nothing")
    assert ran.code == 4
    assert "holds no join nothing; it holds small-clip" in ran.err


def test_join_options_reach_the_join(commands: Commands, tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus", num_shards=1)
    write_corpus(tmp_path / "others", num_shards=1, first_shard=7)
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    assert commands.mine(tmp_path / "corpus", "--out", ours, "--max-partners", 1).code == 0
    assert commands.mine(tmp_path / "others", "--out", theirs).code == 0
    ran = commands("join", ours, "--max-partners", 1, "--dino-below", 1, "--clip-above", 0)
    assert re.search(r"cut\s+\d+ pairs beyond 1 of an image", ran.out)
    ran = commands("join", ours, "--join", "knn", "--dino-below", 1, "--clip-above", 0)
    assert re.search(r"recall\s+1.000 of 55 candidates of 11 sampled images", ran.out)
    ran = commands("join", ours, "--against", theirs)
    assert ran.code == 0, ran.err
    assert re.search(r"pairs compared\s+121 by cpu", ran.out)
    assert commands("report", ours).code == 0
    ran = commands("status", ours)
    assert "missing" not in ran.out
    assert commands("verify", ours).code == 0
    ran = commands("plan", tmp_path / "corpus", "--against", theirs)
    assert (ran.code, "has no effect on a plan" in ran.err) == (2, True)


def test_two_shards_with_one_stem_need_advice(commands: Commands, tmp_path: Path) -> None:
    for part in ("a", "b"):
        write_tar(tmp_path / part / "00000.tar", [("x.jpg", jpeg(ord(part)))])
    run = tmp_path / "run"
    patterns = (tmp_path / "a", tmp_path / "b")
    ran = commands.mine(*patterns, "--out", run, "--dataset", "both")
    assert ran.code == 4
    assert "--stem-depth 2" in ran.err
    ran = commands.mine(*patterns, "--out", run, "--dataset", "both", "--stem-depth", "2")
    assert ran.code == 0, ran.err
    assert sorted(path.name for path in run.glob("commits/samples/*")) == [
        "both.a.00000.json",
        "both.b.00000.json",
    ]


def test_encoders_own_thresholds_are_the_default(
    commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from miner.registry import REGISTRY
    from tests.towers import clip_record

    own = clip_record(clip_above=0.87)
    monkeypatch.setitem(REGISTRY, own.name, own)
    write_corpus(tmp_path / "corpus", num_shards=1)
    run = tmp_path / "run"
    assert commands("mine", tmp_path / "corpus", "--out", run, *commands.encoders).code == 3
    assert commands("join", run).code == 0
    assert commands("join", run, "--clip-above", "0.91").code == 0
    names = sorted(path.name.split("~", 2)[2] for path in run.glob("pairs/*"))
    assert names == ["0.87~0.60", "0.91~0.60"]


def test_one_encoder_cannot_be_both(commands: Commands, tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus", num_shards=1)
    both = ("--dino", "small-clip", "--dino-weights", commands.encoders[3])
    ran = commands.mine(tmp_path / "corpus", "--out", tmp_path / "run", *both)
    assert ran.code == 2
    assert "a blind pair takes two encoders that differ" in ran.err
    assert not (tmp_path / "run").exists()


def test_selected_names_where_a_moved_corpus_lies_now(commands: Commands, tmp_path: Path) -> None:
    corpus, run = tmp_path / "corpus", tmp_path / "run"
    write_corpus(corpus, num_shards=2)
    commands.mine(corpus, "--out", run)
    corpus.rename(tmp_path / "moved")
    commands.mine(tmp_path / "moved", "--out", run)
    commands("join", run, "--clip-above", "0.8", "--dino-below", "0.8")
    (path,) = run.glob("pairs/*0.80~0.80/selected.parquet")
    rows = pq.read_table(path).to_pylist()
    assert rows
    assert all(Path(row["shard_1"]).parent == tmp_path / "moved" for row in rows)


def test_folder_tree_renamed_and_mined_into_itself(commands: Commands, tmp_path: Path) -> None:
    for number in range(8):
        path = tmp_path / "photos" / f"class{number % 2}" / f"im{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(number))
    run = tmp_path / "photos" / "run"
    assert commands.mine(tmp_path / "photos", "--out", run).code == 0
    assert commands.mine(tmp_path / "photos", "--out", run).code == 0
    before = raw_bytes(run)
    (tmp_path / "photos").rename(tmp_path / "pictures")
    run = tmp_path / "pictures" / "run"
    assert commands.mine(tmp_path / "pictures", "--out", run).code == 0
    assert len(work_done(run)) == 1
    assert raw_bytes(run) == before
    assert {row["label_1"] for row in selected(run)} <= {"class0", "class1"}


def test_every_command_on_a_run_is_logged(commands: Commands, tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus", num_shards=1)
    run = tmp_path / "run"
    commands.mine(tmp_path / "corpus", "--out", run)
    commands("join", run, "--clip-above", "0.8")
    commands("select", run)
    log = json.loads((run / "run.json").read_text())["commands"]
    assert [command["command"] for command in log] == ["mine", "join", "select"]


def test_join_before_anything_and_ambiguous_names(commands: Commands, tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus", num_shards=1)
    run = tmp_path / "run"
    commands("embed", tmp_path / "corpus", "--out", run, *commands.encoders)
    assert "holds no join yet" in commands("report", run).err
    other = ("--dino-weights", second_dino(tmp_path))
    commands("embed", tmp_path / "corpus", "--out", run, *commands.encoders, *other)
    ran = commands("join", run, "--dino", "small-dino")
    assert ran.code == 4
    assert "several of them is small-dino; give its encoder_id" in ran.err


def test_a_run_without_candidates_says_what_to_try(commands: Commands, tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus", num_shards=1)
    ran = commands.mine(tmp_path / "corpus", "--out", tmp_path / "run", "--clip-above", "0.9999999")
    assert ran.code == 0, ran.err
    assert re.search(r"^next +No pair has a CLIP cosine > 1; of [\d,]+ random", ran.out, re.M)
