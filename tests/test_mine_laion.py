from __future__ import annotations

import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pipelines.mine_laion
from miner.audit import verify
from miner.store import Store
from pipelines.mine_laion import mine_laion
from tests.commands import Commands
from tests.laion import Fields, write_laion
from tests.small import jpeg

HTML = b"<html>no image, and never looked at</html>"

RATINGS: list[Fields] = [
    *({"punsafe": 0.9, "NSFW": "UNLIKELY"} for _ in range(2)),
    *({"PUNSAFE": 0.2, "NSFW": "NSFW"} for _ in range(3)),
    *({"punsafe": 0.2, "NSFW": "UNLIKELY", "similarity": 0.31} for _ in range(7)),
    {},
]


def test_what_laion_rates_unsafe_is_never_decoded(commands: Commands, tmp_path: Path) -> None:
    images = [HTML if number < 2 else jpeg(number) for number in range(len(RATINGS))]
    write_laion(tmp_path / "shards", RATINGS, images=images)
    run = tmp_path / "run"
    words = (*commands.encoders, "--decoders", "thread", "--out", run)
    ran = commands.run(mine_laion, tmp_path / "shards", *words)
    # Two undecodable images would be more than one per cent.
    assert ran.code == 0, ran.err
    assert "11 embedded" in ran.out
    assert "quarantined  0 of 11 samples" in ran.out
    assert "excluded     2 of 13 samples: 2 punsafe" in ran.out
    assert "unrated      kept, although 1 have no punsafe" in ran.out
    store = Store(run)
    assert verify(store) == []
    rows = store.quarantine("laion.00000").to_pylist()
    assert [(row["reason"], row["detail"]) for row in rows] == [
        ("excluded", "punsafe: 0.9, limit 0.5")
    ] * 2
    samples = store.samples("laion.00000").to_pylist()
    assert sum('"NSFW": "UNLIKELY"' in row["meta"] for row in samples) == 7
    assert sum('"similarity": 0.31' in row["meta"] for row in samples) == 7
    record = store.record("samples", "laion.00000")
    assert (record["excluded"], record["unrated"]) == ({"punsafe": 2}, {"punsafe": 1})
    assert "  excluded" in commands("status", run).out
    other = commands.run(mine_laion, tmp_path / "shards", *words, "--nsfw", "UNLIKELY")
    assert other.code == 2
    assert "nsfw: None recorded, 'UNLIKELY' now" in other.err
    again = commands.run(mine_laion, tmp_path / "shards", *words)
    assert "1, of which 0 had work to do" in again.out
    assert "excluded     2 of 13 samples: 2 punsafe" in again.out


def test_filters_add_up(commands: Commands, tmp_path: Path) -> None:
    write_laion(tmp_path / "shards", RATINGS)
    (tmp_path / "ids.txt").write_text("https://example.org/000000005.jpg\n000000006\n")
    words = ("--unrated", "exclude", "--nsfw", "unlikely", "--exclude-ids", tmp_path / "ids.txt")
    words += (*commands.encoders, "--decoders", "thread", "--out", tmp_path / "run")
    ran = commands.run(mine_laion, tmp_path / "shards", *words)
    assert ran.code == 0, ran.err
    assert "excluded     8 of 13 samples: 3 nsfw, 2 listed, 2 punsafe, 1 unrated" in ran.out
    details = Store(tmp_path / "run").quarantine("laion.00000")["detail"].to_pylist()
    assert Counter(detail.partition(":")[0] for detail in details) == {
        **{"nsfw": 3, "punsafe": 2, "listed": 2, "unrated": 1}
    }


def test_filters_that_leave_nothing_say_so(commands: Commands, tmp_path: Path) -> None:
    write_laion(tmp_path / "shards", [{}, {}])
    words = (*commands.encoders, "--decoders", "thread", "--out", tmp_path / "run")
    ran = commands.run(mine_laion, tmp_path / "shards", "--unrated", "exclude", *words)
    assert "excluded     2 of 2 samples: 2 unrated" in ran.out
    assert "nothing is left: the filters exclude every sample" in ran.out


def test_the_script_runs_where_only_it_was_copied(tmp_path: Path) -> None:
    script = shutil.copy(pipelines.mine_laion.__file__, tmp_path)
    write_laion(tmp_path / "shards", [*({"punsafe": 0.1} for _ in range(6)), {"punsafe": 0.9}])
    words = [sys.executable, script, "shards", "--out", "run", "--clip", "demo-clip"]
    words += ["--dino", "demo-dino", "--device", "cpu", "--num-decoders", "1"]
    ran = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    assert "excluded     1 of 7 samples: 1 punsafe" in ran.stdout
    assert Store(tmp_path / "run").committed("samples") == ["laion.00000"]
    assert list((tmp_path / "run").glob("pairs/*/report/index.html")) != []
    assert {path.name for path in tmp_path.iterdir()} == {"mine_laion.py", "shards", "run"}
