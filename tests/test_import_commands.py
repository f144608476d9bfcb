"""`blindpairs import`, and every command that reads what it made."""

import json
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from miner.config import JoinSettings, SelectSettings
from miner.join import join
from miner.records import read_record
from miner.registry import REGISTRY
from miner.store import Store
from tests.commands import Commands
from tests.foreign import clip_retrieval_of, some_vectors, write_clip_retrieval
from tests.runs import CLIP, DINO, make_store

CLIP_OPTIONS = ("--encoder", "clip-x", "--dim", 32)
DINO_OPTIONS = ("--encoder", "dino-x", "--dim", 24)
JOIN = ("--clip", "clip-x", "--dino", "dino-x", "--clip-above", "0.9", "--dino-below", "0.5")
DEMO_DIMS = (REGISTRY["demo-clip"].dim, REGISTRY["demo-dino"].dim)
HOW = JoinSettings(clip_above=0.9, dino_below=0.5)


def raw_of(store: Store) -> pd.DataFrame:
    (name,) = store.joins()
    table = store.raw(name).to_pandas()
    for column in ("image_1", "image_2"):
        table[column] = table[column].str.rpartition("/")[2]
    return table.assign(shard=store.raw(name)["image_1"].to_pandas().str.split("/").str[1])


def imported(commands: Commands, folder: Path, *, digits: int = 1) -> tuple[Store, Store]:
    """A run, and a second one made of its vectors as clip-retrieval would write them."""
    first = make_store(folder / "first")
    clip = clip_retrieval_of(first, CLIP, folder / "clip", digits=digits)
    dino = clip_retrieval_of(first, DINO, folder / "dino", digits=digits)
    for source, options in ((clip, CLIP_OPTIONS), (dino, DINO_OPTIONS)):
        done = commands(
            *("import", "clip-retrieval", source, "--out", folder / "run"),
            *(*options, "--dataset", "set"),
        )
        assert done.code == 0, done.err + done.out
    return first, Store(folder / "run")


@pytest.mark.parametrize("digits", [1, 4])
def test_own_vectors_come_back_bit_by_bit(commands: Commands, tmp_path: Path, digits: int) -> None:
    first, second = imported(commands, tmp_path, digits=digits)
    join(first, CLIP, DINO, HOW, SelectSettings())
    assert commands("join", second.root, *JOIN).code == 0
    before, after = raw_of(first), raw_of(second)
    assert len(before) > 100
    pd.testing.assert_frame_equal(before, after)


def test_every_command_takes_an_imported_run(commands: Commands, tmp_path: Path) -> None:
    _, store = imported(commands, tmp_path)
    assert commands("join", store.root, *JOIN).code == 0
    said = commands("verify", store.root)
    assert (said.code, said.out) == (0, "all commits, hashes and counts are right\n")
    assert "2 of 2 done, 0 damaged" in commands("status", store.root).out
    assert commands("select", store.root, "--max-per-image", "1").code == 0
    (path,) = store.root.glob("pairs/*/selected.parquet")
    best = pq.read_table(path).to_pylist()[0]
    why = commands("why", store.root, best["image_1"], best["image_2"])
    assert "selected" in why.out
    assert best["width_1"] == 640
    assert commands("report", store.root).code == 0
    (page,) = store.root.glob("pairs/*/report/index.html")
    assert "only embeddings of this image were imported" in page.read_text()
    refused = commands("join", store.root, *JOIN, "--recheck")
    assert refused.code == 4
    assert "no command embedded" in refused.err


def test_hand_offs_of_an_imported_run(commands: Commands, tmp_path: Path) -> None:
    """Those that hold no images go on; of the others it is said that bytes are unknown."""
    _, store = imported(commands, tmp_path)
    assert commands("join", store.root, *JOIN).code == 0
    done = commands("handoff", "csv", store.root, "--out", tmp_path / "csv")
    assert done.code == 0, done.err
    for name in ("hf", "webdataset"):
        refused = commands("handoff", name, store.root, "--out", tmp_path / name)
        assert refused.code == 4
        assert "only its embeddings were imported" in refused.err
        assert not (tmp_path / name).exists()


def test_own_hand_off_comes_back(commands: Commands, tmp_path: Path) -> None:
    """`handoff clip-retrieval` names images by image_id, since keys repeat across shards."""
    first, store = imported(commands, tmp_path)
    assert commands("join", store.root, *JOIN).code == 0
    out = tmp_path / "out"
    words = ("handoff", "clip-retrieval", store.root, "--all-images", "--out", out)
    assert commands(*words).code == 0
    again = tmp_path / "again"
    words = ("import", "clip-retrieval", out, "--out", again, "--dataset", "new", *CLIP_OPTIONS)
    assert commands(*words).code == 0
    (encoder_id,) = Store(again).encoder_ids()
    ids, vectors_ND = Store(again).vectors(encoder_id, "new.00000")
    found = [first.vectors(CLIP, shard_id) for shard_id in first.committed("samples")]
    assert [name.partition("/00000/")[2] for name in ids] == [i for each in found for i in each[0]]
    np.testing.assert_array_equal(vectors_ND, np.concatenate([each[1] for each in found]))


def test_same_command_again_does_nothing(commands: Commands, tmp_path: Path) -> None:
    _, store = imported(commands, tmp_path)

    def files() -> dict[str, int]:
        return {
            str(path): path.stat().st_mtime_ns
            for path in store.root.rglob("*.*")
            if path.name != "run.json" and path.is_file() and "metrics" not in str(path)
        }

    before = files()
    words = ("import", "clip-retrieval", tmp_path / "clip", "--out", store.root, *CLIP_OPTIONS)
    again = commands(*words)
    assert again.code == 0
    assert "0 new, in 0 shards; 2 shards had theirs" in again.out
    assert files() == before


def test_vectors_of_one_file_meet_images_of_several_parts(
    commands: Commands, tmp_path: Path
) -> None:
    """Ids decide, in whatever order and file."""
    clip = [
        (some_vectors(5, seed=part), {"key": [f"{part}-{row}" for row in range(5)]})
        for part in range(3)
    ]
    source = write_clip_retrieval(tmp_path / "clip", clip)
    run = tmp_path / "run"
    clip_words = ("--encoder", "c", "--dim", 8, "--dataset", "set")
    assert commands("import", "clip-retrieval", source, "--out", run, *clip_words).code == 0
    ids = [f"{part}-{row}" for part in range(3) for row in range(5)]
    order = np.random.default_rng(1).permutation(15)
    dino = some_vectors(15, 6, seed=9)
    np.save(tmp_path / "dino.npy", dino[order])
    (tmp_path / "ids.txt").write_text("".join(f"{ids[row]}\n" for row in order))
    words = ("import", "npy", tmp_path / "dino.npy", "--ids", tmp_path / "ids.txt", "--out", run)
    done = commands(*words, "--encoder", "d", "--dim", 6)
    assert done.code == 0, done.err
    store = Store(run)
    (dino_id,) = (name for name in store.encoder_ids() if name.startswith("d-"))
    unit = dino / np.linalg.norm(dino, axis=1, keepdims=True)
    for part in range(3):
        found, vectors_ND = store.vectors(dino_id, f"set.{part:05d}")
        assert found == [f"set/{part:05d}/{part}-{row}" for row in range(5)]
        wanted = unit[5 * part : 5 * part + 5]
        np.testing.assert_allclose(vectors_ND.astype(np.float32), wanted, atol=1e-3)


def test_ids_without_a_counterpart_are_counted(commands: Commands, tmp_path: Path) -> None:
    keys = [f"k{row}" for row in range(6)]
    source = write_clip_retrieval(tmp_path / "clip", [(some_vectors(6), {"key": keys})])
    run = tmp_path / "run"
    words = ("--out", run, "--encoder", "c", "--dim", 8, "--dataset", "set")
    assert commands("import", "clip-retrieval", source, *words).code == 0
    np.save(tmp_path / "dino.npy", some_vectors(6))
    (tmp_path / "ids.csv").write_text("id\nk0\nk1\nk2\nk3\nother\nk1\n")
    words = ("import", "npy", tmp_path / "dino.npy", "--out", run, "--encoder", "d", "--dim", 8)
    done = commands(*words, "--ids", tmp_path / "ids.csv")
    assert done.code == 3
    assert "2 images of the run are not in the source" in done.out
    assert "1 ids of the source are not in the run" in done.out
    assert "1 rows repeat an id" in done.out
    joined = commands("join", run, "--clip", "c", "--dino", "d", "--clip-above", "-1")
    assert "4 of 4" in joined.out
    assert commands("verify", run).code == 0
    assert "no_vector" in commands("status", run).out


def test_duckdb_and_pandas_parquet(commands: Commands, tmp_path: Path) -> None:
    """Lists as DuckDB (FLOAT[], FLOAT[8]) and pandas (doubles) write them are one matrix."""
    rows = some_vectors(40)
    frame = pd.DataFrame({"id": np.arange(40), "embedding": [*rows.astype(np.float64)]})
    frame.to_parquet(tmp_path / "pandas.parquet")
    for kind in ("FLOAT[]", "FLOAT[8]"):
        name = tmp_path / f"{kind[:-1].replace('[', '')}.parquet"
        duckdb.sql(
            f"COPY (SELECT id::VARCHAR AS id, embedding::{kind} AS embedding FROM frame) "
            f"TO '{name}' (ROW_GROUP_SIZE 2048)"
        )
    found = []
    for number, path in enumerate(sorted(tmp_path.glob("*.parquet"))):
        run = tmp_path / f"run{number}"
        words = ("--out", run, "--encoder", "c", "--dim", 8, "--dataset", "set")
        assert commands("import", "parquet", path, *words).code == 0
        store = Store(run)
        found.append(store.vectors(store.encoder_ids()[0], "set.00000"))
    assert len(found) == 3
    assert found[0][0][:2] == ["set/00000/0", "set/00000/1"]
    for ids, vectors_ND in found[1:]:
        assert ids == found[0][0]
        np.testing.assert_array_equal(vectors_ND, found[0][1])


def test_declared_weights_give_the_id_of_our_own_encoding(
    commands: Commands, tmp_path: Path
) -> None:
    from miner.registry import REGISTRY

    record = REGISTRY["demo-clip"]
    rows = some_vectors(4, record.dim)
    source = write_clip_retrieval(tmp_path / "c", [(rows, {"key": list("abcd")})])
    words = ("import", "clip-retrieval", source, "--encoder", "demo-clip")
    assert commands(*words, "--out", tmp_path / "unknown").code == 0
    sha256 = ("--weights-sha256", record.weights_sha256)
    assert commands(*words, "--out", tmp_path / "known", *sha256).code == 0
    (unknown,), (known,) = (Store(tmp_path / n).encoder_ids() for n in ("unknown", "known"))
    assert known == record.encoder_id
    assert unknown != known
    path = tmp_path / "unknown" / "commits" / "vectors" / unknown / "c.00000.json"
    said = read_record(path)
    assert said["imported"]["weights"] == "unknown"
    assert said["encoder"]["weights_sha256"] is None
    run = json.loads((tmp_path / "unknown" / "run.json").read_text())
    assert run["commands"][0]["command"] == "import"


def test_the_join_after_two_imports(commands: Commands, tmp_path: Path) -> None:
    """What is CLIP and what DINO is known of encoders of the registry alone."""
    keys = {"key": [f"{row}" for row in range(4)]}
    out = tmp_path / "run"
    said = []
    for name, dim in (("demo-clip", DEMO_DIMS[0]), ("demo-dino", DEMO_DIMS[1])):
        source = write_clip_retrieval(tmp_path / name, [(some_vectors(4, dim), keys)])
        words = ("import", "clip-retrieval", source, "--out", out, "--encoder", name)
        done = commands(*words, "--dataset", "set")
        assert done.code == 0, done.err
        said.append(" ".join(done.out.split()))
    clip, dino = (next(i for i in Store(out).encoder_ids() if n in i) for n in ("clip", "dino"))
    assert "--clip NAME --dino NAME" in said[0]
    assert f"--clip {clip} --dino {dino}" in said[1]
    done = commands("join", out)
    assert done.code == 0, done.err
    source = write_clip_retrieval(tmp_path / "x", [(some_vectors(4, 5), keys)])
    words = ("import", "clip-retrieval", source, "--out", tmp_path / "other", "--encoder", "x")
    assert commands(*words, "--dim", 5).code == 0
    refused = commands("join", tmp_path / "other")
    assert refused.code == 4
    assert "is not said; give --clip NAME and --dino NAME" in refused.err
