import hashlib
import itertools
import json
import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from miner import blocks, packs, schema
from miner.audit import collect_garbage, verify
from miner.config import JoinSettings, SelectSettings
from miner.errors import ResourceError, StoreError
from miner.join import blind_pairs, join
from miner.pairs import Histogram, join_name, pair_id, random_pairs
from miner.records import Json, replace_record
from miner.select import select
from miner.store import Store
from miner.tables import vector_table
from miner.why import explain
from tests.runs import CLIP, DINO, commit_shard, make_store, unit

EXACT = ["cpu", "reference"]


def brute_force(
    clip_ND: np.ndarray, dino_NE: np.ndarray, clip_above: float, dino_below: float
) -> set[tuple[int, int]]:
    """Blind pairs by numpy alone."""
    clip, dino = clip_ND.astype(np.float64), dino_NE.astype(np.float64)
    clip /= np.sqrt((clip**2).sum(axis=1))[:, None]
    dino /= np.sqrt((dino**2).sum(axis=1))[:, None]
    hits = np.triu((clip @ clip.T > clip_above) & (dino @ dino.T < dino_below), k=1)
    return set(zip(*(axis.tolist() for axis in np.nonzero(hits)), strict=True))


def grouped(rows: int = 400, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    groups = torch.randint(0, 20, (rows,), generator=generator)
    centres = torch.randn(20, 64, generator=generator)
    clip = centres[groups] + 0.2 * torch.randn(rows, 64, generator=generator)
    return clip, torch.randn(rows, 48, generator=generator) + 0.8


@pytest.mark.parametrize("impl", EXACT)
def test_blind_pairs_equal_brute_force(impl: str) -> None:
    clip, dino = grouped()
    pairs = blind_pairs(clip, dino, impl=impl)
    truth = brute_force(clip.numpy(), dino.numpy(), 0.95, 0.6)
    assert set(zip(pairs.i.tolist(), pairs.j.tolist(), strict=True)) == truth
    assert len(truth) > 500
    assert pairs.impl == impl
    assert (pairs.i < pairs.j).all()
    assert (pairs.clip_cos.diff() <= 0).all()
    assert (pairs.i.dtype, pairs.clip_cos.dtype) == (torch.int64, torch.float32)


def test_blind_pairs_across_two_sets() -> None:
    clip, dino = grouped()
    within = blind_pairs(clip, dino)
    across = blind_pairs((clip[:150], clip[150:]), (dino[:150], dino[150:]))
    expected = {
        (i, j - 150)
        for i, j in zip(within.i.tolist(), within.j.tolist(), strict=True)
        if i < 150 <= j
    }
    assert set(zip(across.i.tolist(), across.j.tolist(), strict=True)) == expected
    assert expected


def test_numpy_arrays_are_taken() -> None:
    clip, dino = grouped(50)
    assert blind_pairs(clip.numpy(), dino.numpy()).i.tolist() == blind_pairs(clip, dino).i.tolist()  # type: ignore[arg-type]


def test_auto_says_what_it_chose() -> None:
    clip, dino = grouped(20)
    assert blind_pairs(clip, dino).impl in EXACT


def test_equal_cosines_are_ordered_by_index() -> None:
    clip, dino = torch.ones(4, 3), torch.eye(4)
    pairs = blind_pairs(clip, dino)
    assert list(zip(pairs.i.tolist(), pairs.j.tolist(), strict=True)) == list(
        itertools.combinations(range(4), 2)
    )


@pytest.mark.parametrize(
    ("clip", "dino", "options", "message"),
    [
        (torch.ones(3, 2), torch.ones(4, 2), {}, r"clip has \[3\] rows and dino \[4\]"),
        (torch.ones(3), torch.ones(3, 2), {}, r"clip is torch.float32 of shape \(3,\)"),
        (torch.ones(3, 2).long(), torch.ones(3, 2), {}, "clip is torch.int64"),
        ((torch.ones(3, 2), torch.ones(3, 5)), (torch.ones(3, 2),) * 2, {}, "2 and 5 wide"),
        (torch.ones(3, 2), (torch.ones(3, 2),) * 2, {}, "row k of both has to be the same image"),
        (torch.ones(3, 2), torch.ones(3, 2), {"impl": "magic"}, "impl is 'magic'; there are auto"),
        (torch.ones(3, 2), torch.ones(3, 2), {"clip_above": 1.5}, "clip_above is 1.5"),
        (torch.ones(3, 2), torch.ones(3, 2), {"threads": 0}, "threads is 0 for impl 'cpu'"),
        (torch.ones(3, 2), torch.ones(3, 2), {"impl": "knn", "threads": 1}, "and for cpu alone"),
        (torch.ones(3, 2), torch.ones(3, 2), {"dino_below": float("nan")}, "dino_below is nan"),
    ],
)
def test_arguments_that_do_not_fit(
    clip: torch.Tensor, dino: torch.Tensor, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        blind_pairs(clip, dino, **options)  # type: ignore[arg-type]


# -- over a run directory ------------------------------------------------------------------------

SETTINGS = JoinSettings(clip_above=0.9, dino_below=0.3)
SELECTION = SelectSettings()


def raw(store: Store, settings: JoinSettings = SETTINGS) -> list[Json]:
    folder = store.root / "pairs" / join_name(CLIP, DINO, settings) / "raw"
    return [
        row for part in sorted(folder.glob("*.parquet")) for row in pq.read_table(part).to_pylist()
    ]


def test_raw_is_the_truth_over_the_stored_vectors(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    record = join(store, CLIP, DINO, SETTINGS, SELECTION)
    rows = [store.vectors(CLIP, s) for s in store.committed("samples")]
    image_ids = [image_id for ids, _ in rows for image_id in ids]
    clip = np.concatenate([vectors for _, vectors in rows])
    dino = np.concatenate([store.vectors(DINO, s)[1] for s in store.committed("samples")])
    truth = brute_force(clip, dino, 0.9, 0.3)
    found = raw(store)
    assert {(row["image_1"], row["image_2"]) for row in found} == {
        (image_ids[i], image_ids[j]) for i, j in truth
    }
    assert record["counts"]["blind"] == len(truth) > 100
    assert all(row["image_1"] < row["image_2"] for row in found)
    keys = [(-row["clip_cos"], row["pair_id"]) for row in found]
    assert keys == sorted(keys)
    for row in found:
        assert row["gap"] == pytest.approx(row["clip_cos"] - row["dino_cos"], abs=1e-6)


def test_raw_is_equal_bytes_when_made_again(tmp_path: Path) -> None:
    hashes = []
    for name in ("a", "b"):
        store = make_store(tmp_path / name)
        join(store, CLIP, DINO, SETTINGS, SELECTION)
        part = next(store.root.glob("pairs/*/raw/part-00000.parquet"))
        hashes.append(hashlib.sha256(part.read_bytes()).hexdigest())
    assert hashes[0] == hashes[1]


def test_join_is_not_done_twice_but_again_after_damage(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    join(store, CLIP, DINO, SETTINGS, SELECTION)
    part = next(store.root.glob("pairs/*/raw/part-00000.parquet"))
    before = part.stat().st_mtime_ns
    join(store, CLIP, DINO, SETTINGS, SELECTION)
    assert part.stat().st_mtime_ns == before
    good = part.read_bytes()
    part.write_bytes(good[:-1])
    join(store, CLIP, DINO, SETTINGS, SELECTION)
    assert part.read_bytes() == good


def test_more_shards_make_the_join_anew(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    before = join(store, CLIP, DINO, SETTINGS, SELECTION)
    clip, dino = (store.vectors(encoder, "set.00000")[1][:5] for encoder in (CLIP, DINO))
    commit_shard(store, "00009", clip, dino)
    after = join(store, CLIP, DINO, SETTINGS, SELECTION)
    assert after["counts"]["images"] == before["counts"]["images"] + 5
    assert after["fingerprint"] != before["fingerprint"]


def test_equal_bytes_are_collapsed_onto_the_smallest_id(tmp_path: Path) -> None:
    store = Store(tmp_path)
    rows = torch.tensor([[1.0, 0.0], [1.0, 0.05], [1.0, 0.0], [1.0, 0.0]])
    dino = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0]])
    contents = [b"same", b"other", b"same", b"same"]
    commit_shard(store, "00000", unit(rows), unit(dino), contents=contents)
    store.update_run({}, {}, {})
    record = join(store, CLIP, DINO, SETTINGS, SELECTION)
    (row,) = raw(store)
    assert (row["image_1"], row["image_2"]) == ("set/00000/000000", "set/00000/000001")
    assert (row["duplicates_1"], row["duplicates_2"]) == (2, 0)
    assert (record["counts"]["images"], record["counts"]["distinct"]) == (4, 2)
    hex_1, hex_2 = sorted(hashlib.sha256(content).hexdigest() for content in (b"same", b"other"))
    assert row["pair_id"] == hashlib.sha256((hex_1 + hex_2).encode()).hexdigest()[:16]
    everything = SETTINGS.model_copy(update={"collapse": "none"})
    join(store, CLIP, DINO, everything, SELECTION)
    assert len(raw(store, everything)) == 3


def test_near_copies_are_collapsed_before_the_join_on_request(tmp_path: Path) -> None:
    store = Store(tmp_path)
    clip = torch.tensor([[1.0, 0.0], [1.0, 0.01], [1.0, 0.3]])
    dino = torch.tensor([[1.0, 0.0], [1.0, 0.02], [0.0, 1.0]])
    commit_shard(store, "00000", unit(clip), unit(dino))
    join(store, CLIP, DINO, SETTINGS, SELECTION)
    assert len(raw(store)) == 2
    near = SETTINGS.model_copy(update={"collapse": "near"})
    join(store, CLIP, DINO, near, SELECTION)
    (row,) = raw(store, near)
    assert (row["image_1"], row["duplicates_1"]) == ("set/00000/000000", 1)


def test_keep_reaches_beyond_the_thresholds_and_says_which_are_blind(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    join(store, CLIP, DINO, SETTINGS, SELECTION)
    narrow = {row["pair_id"] for row in raw(store)}
    wide = JoinSettings(clip_above=0.9, dino_below=0.3, keep_clip=0.85, keep_dino=0.5)
    join(store, CLIP, DINO, wide, SELECTION)
    rows = raw(store, wide)
    assert {row["pair_id"] for row in rows if row["blind"]} == narrow
    assert len(rows) > len(narrow)
    assert all(row["clip_cos"] > 0.85 and row["dino_cos"] < 0.5 for row in rows)


def test_borderline_widens_with_the_engines_deviation(tmp_path: Path) -> None:
    clip = torch.tensor([[1.0, 0.0], [0.9015, (1 - 0.9015**2) ** 0.5]])
    for deviation, expected in ((0.0, False), (0.01, True)):
        store = Store(tmp_path / str(deviation))
        commit_shard(store, "00000", unit(clip), unit(torch.eye(2)), deviation=deviation)
        join(store, CLIP, DINO, SETTINGS, SELECTION)
        (row,) = raw(store)
        assert row["borderline"] is expected


def test_borderline_looks_at_both_thresholds_with_their_own_bands(tmp_path: Path) -> None:
    clip = torch.tensor([[1.0, 0.0], [0.95, (1 - 0.95**2) ** 0.5]])
    for cosine, deviation, expected in (
        (0.2995, 0.0, True),
        (0.29, 0.0, False),
        (0.29, 0.02, True),
    ):
        dino = torch.tensor([[1.0, 0.0], [cosine, (1 - cosine**2) ** 0.5]])
        store = Store(tmp_path / f"{cosine}{deviation}")
        store.update_run({}, {}, {})
        commit_shard(store, "00000", unit(clip), unit(dino), deviation=deviation)
        join(store, CLIP, DINO, SETTINGS, SELECTION)
        (row,) = raw(store)
        assert row["borderline"] is expected


def test_other_vectors_of_the_same_shards_make_the_join_anew(tmp_path: Path) -> None:
    records = []
    for seed in (0, 1):
        store = make_store(tmp_path / str(seed), seed=seed)
        records.append(join(store, CLIP, DINO, SETTINGS, SELECTION))
    assert records[0]["fingerprint"] != records[1]["fingerprint"]


def test_random_pairs_are_counted_over_both_cosines(tmp_path: Path) -> None:
    store = make_store(tmp_path, num_shards=1, rows=8)
    join(store, CLIP, DINO, SETTINGS, SELECTION)
    clip, dino = (store.vectors(e, "set.00000")[1].astype(np.float64) for e in (CLIP, DINO))
    expected: Counter[tuple[int, int]] = Counter()
    for i, j in itertools.combinations(range(8), 2):
        cosine = [v[i] @ v[j] / np.sqrt((v[i] @ v[i]) * (v[j] @ v[j])) for v in (clip, dino)]
        expected[int(np.floor(cosine[0] / 0.01)), int(np.floor(cosine[1] / 0.01))] += 1
    rows = pq.read_table(next(store.root.glob("pairs/*/histogram.parquet"))).to_pylist()
    found = {(r["clip_bin"], r["dino_bin"]): r["count"] for r in rows if r["source"] == "random"}
    assert found == dict(expected)


def test_histogram_counts_every_candidate_and_random_pair(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    record = join(store, CLIP, DINO, SETTINGS, SELECTION)
    rows = pq.read_table(next(store.root.glob("pairs/*/histogram.parquet"))).to_pylist()
    counts: Counter[str] = Counter()
    for row in rows:
        counts[row["source"]] += row["count"]
    assert counts["candidates"] == record["counts"]["candidates"]
    assert counts["random"] == 120 * 119 // 2
    assert all(r["clip_bin"] >= 90 for r in rows if r["source"] == "candidates")


def test_no_pairs_still_leave_one_readable_part(tmp_path: Path) -> None:
    store = Store(tmp_path)
    commit_shard(store, "00000", unit(torch.eye(3)), unit(torch.eye(3)))
    record = join(store, CLIP, DINO, SETTINGS, SELECTION)
    assert raw(store) == []
    assert record["counts"]["blind"] == 0
    part = next(store.root.glob("pairs/*/raw/*.parquet"))
    assert pq.read_schema(part).equals(schema.RAW)


def test_join_leaves_nothing_but_what_it_names(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    record = join(store, CLIP, DINO, SETTINGS, SELECTION)
    folder = store.root / "pairs" / store.joins()[0]
    (folder / "raw.deadbeef").mkdir()
    (folder / "raw.deadbeef" / "part-00000.parquet").write_bytes(b"half")
    (folder / "join.json").unlink()
    assert join(store, CLIP, DINO, SETTINGS, SELECTION) == record
    collect_garbage(store)
    left = {p.relative_to(store.root).as_posix() for p in folder.rglob("*") if p.is_file()}
    named = {file["path"] for file in record["files"]}
    assert left == named | {(folder / "join.json").relative_to(store.root).as_posix()}
    assert not (folder / "raw.deadbeef").exists()
    text = json.dumps(record)
    assert str(store.root) not in text
    assert os.sep + "corpus" not in text


def test_store_without_vectors_says_what_to_do(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    with pytest.raises(StoreError, match=r"no shard with vectors .* run `blindpairs embed`"):
        join(store, CLIP, "dino-other-00000000", SETTINGS, SELECTION)


def test_join_names_are_readable_and_tell_settings_apart() -> None:
    assert join_name("c", "d", JoinSettings()) == "c~d~0.95~0.60"
    assert join_name("c", "d", JoinSettings(clip_above=0.975)) == "c~d~0.975~0.60"
    assert join_name("c", "d", JoinSettings(collapse="near")) == "c~d~0.95~0.60~collapse-near"
    assert join_name("c", "d", JoinSettings(keep_clip=0.9)) == "c~d~0.95~0.60~keep-clip-0.90"
    assert join_name("c", "d", JoinSettings(clip_above=0.9501)) == "c~d~0.9501~0.60"
    assert join_name("c", "d", JoinSettings(clip_above=0.9000001)) == "c~d~0.9000001~0.60"


def test_pair_id_does_not_depend_on_the_order() -> None:
    assert pair_id("a" * 64, "b" * 64) == pair_id("b" * 64, "a" * 64)
    assert pair_id("a" * 64, "b" * 64) != pair_id("a" * 64, "c" * 64)


def test_random_pairs_never_pair_an_image_with_itself() -> None:
    i, j = random_pairs(3000)
    assert len(i) == 1_000_000
    assert (i != j).all()
    assert int(torch.maximum(i, j).max()) == 2999
    few_i, few_j = random_pairs(5)
    assert len(few_i) == 10
    assert (few_i < few_j).all()


def test_histogram_bins_are_floors() -> None:
    histogram = Histogram()
    histogram.add(
        "random", torch.tensor([0.999, -0.001]).double(), torch.tensor([0.605, 0.0]).double()
    )
    rows = {(r["clip_bin"], r["dino_bin"]) for r in histogram.table().to_pylist()}
    assert rows == {(99, 60), (-1, 0)}


# -- blocks, segments and other runs --------------------------------------------------------------


def raw_bytes(store: Store, settings: JoinSettings = SETTINGS) -> list[bytes]:
    folder = store.root / "pairs" / join_name(CLIP, DINO, settings) / "raw"
    return [part.read_bytes() for part in sorted(folder.glob("*.parquet"))]


def copy_shards(source: Store, target: Path, shards: list[str]) -> Store:
    store = Store(target)
    store.update_run({"stem_depth": 1}, {}, {"command": "test", "encoders": [CLIP, DINO]})
    for shard in shards:
        vectors = [source.vectors(encoder, f"set.{shard}")[1] for encoder in (CLIP, DINO)]
        commit_shard(store, shard, *vectors)
    return store


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packs, "SEGMENT_ROWS", 100)
    monkeypatch.setattr(packs, "MOST_SEGMENTS", 1000)


@pytest.mark.usefixtures("small_segments")
def test_segments_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_store(tmp_path / "many", num_shards=7)
    record = join(store, CLIP, DINO, SETTINGS, SELECTION)
    # 60 rows a shard: two shards to a segment, the last one alone.
    assert record["search"]["num_blocks"] == 4 * 5 // 2
    monkeypatch.setattr(packs, "SEGMENT_ROWS", 10_000)
    other = make_store(tmp_path / "one", num_shards=7)
    whole = join(other, CLIP, DINO, SETTINGS, SELECTION)
    assert whole["search"]["num_blocks"] == 1
    assert raw_bytes(store) == raw_bytes(other)
    assert record["counts"] == whole["counts"]
    tables = [pq.read_table(next(s.root.glob("pairs/*/histogram.parquet"))) for s in (store, other)]
    assert tables[0].equals(tables[1])


@pytest.mark.usefixtures("small_segments")
def test_new_shards_are_joined_with_old_and_new_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = make_store(tmp_path / "all", num_shards=7)
    # The new shards sort before, between and after the old ones.
    old, new = ["00001", "00002", "00004", "00005"], ["00000", "00003", "00006"]
    store = copy_shards(everything, tmp_path / "grown", old)
    join(store, CLIP, DINO, SETTINGS, SELECTION)
    stage = f"blocks/{join_name(CLIP, DINO, SETTINGS)}"
    before = set(store.committed(stage))
    for shard in new:
        vectors = [everything.vectors(encoder, f"set.{shard}")[1] for encoder in (CLIP, DINO)]
        commit_shard(store, shard, *vectors)
    sought = []
    searched = blocks.BlockSearch.candidates
    monkeypatch.setattr(
        blocks.BlockSearch,
        "candidates",
        lambda self, block, statistics: (
            sought.append(block) or searched(self, block, statistics)  # type: ignore[func-returns-value]
        ),
    )
    join(store, CLIP, DINO, SETTINGS, SELECTION)
    join(everything, CLIP, DINO, SETTINGS, SELECTION)
    assert before <= set(store.committed(stage))
    ours = sought[: len(set(store.committed(stage)) - before)]
    fresh = {f"set.{shard}" for shard in new}
    assert len(ours) == 2 + 2 * 2 + 1
    assert all(fresh & {*block.first.shards, *block.second.shards} for block in ours)
    assert raw_bytes(store) == raw_bytes(everything)


@pytest.mark.usefixtures("small_segments")
def test_join_that_was_killed_goes_on_with_the_next_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, whole = (
        make_store(tmp_path / "a", num_shards=5),
        make_store(tmp_path / "b", num_shards=5),
    )
    join(whole, CLIP, DINO, SETTINGS, SELECTION)

    def stop_after_two(done: int, number: int) -> None:
        assert number == 6
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        join(store, CLIP, DINO, SETTINGS, SELECTION, stop_after_two)
    stage = f"blocks/{join_name(CLIP, DINO, SETTINGS)}"
    assert len(store.committed(stage)) == 2
    packed = next(store.root.glob("packed/*/0/rows/clip.npy"))
    written = packed.stat().st_mtime_ns
    seen = []

    def look(done: int, number: int) -> None:
        seen.append(packed.stat().st_mtime_ns)

    join(store, CLIP, DINO, SETTINGS, SELECTION, look)
    assert set(seen) == {written}
    assert raw_bytes(store) == raw_bytes(whole)
    assert not (store.root / "packed").exists() or not any((store.root / "packed").iterdir())
    assert collect_garbage(store) == []
    assert verify(store) == []


def test_blocks_of_shards_that_are_gone_are_taken_back(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    join(store, CLIP, DINO, SETTINGS, SELECTION)
    stage = f"blocks/{join_name(CLIP, DINO, SETTINGS)}"
    (before,) = store.committed(stage)
    record = store.record(stage, before)
    for name in ("samples", f"vectors/{CLIP}", f"vectors/{DINO}"):
        store.withdraw(name, "set.00001")
    join(store, CLIP, DINO, SETTINGS, SELECTION)
    (after,) = store.committed(stage)
    assert after != before
    assert not (store.root / record["files"][0]["path"]).exists()


@pytest.mark.usefixtures("small_segments")
@pytest.mark.parametrize("most", [1, 3, 20])
def test_images_with_many_partners_keep_the_first(tmp_path: Path, most: int) -> None:
    store = make_store(tmp_path, num_shards=4)
    join(store, CLIP, DINO, SETTINGS, SELECTION)
    everything = raw(store)
    settings = SETTINGS.model_copy(update={"max_partners": most})
    record = join(store, CLIP, DINO, settings, SELECTION)
    ranked: dict[str, list[str]] = {}
    for row in sorted(everything, key=lambda row: -row["clip_cos"]):
        for image in (row["image_1"], row["image_2"]):
            ranked.setdefault(image, []).append(row["pair_id"])
    kept = [
        row
        for row in everything
        if all(row["pair_id"] in ranked[row[name]][:most] for name in ("image_1", "image_2"))
    ]
    assert raw(store) == kept
    assert record["counts"]["blind"] == len(kept) < len(everything)
    assert record["counts"]["cut_pairs"] == len(everything) - len(kept)
    assert record["counts"]["cut_images"] == sum(len(ids) > most for ids in ranked.values())


@pytest.mark.usefixtures("small_segments")
def test_against_another_run(tmp_path: Path) -> None:
    everything = make_store(tmp_path / "all", num_shards=5)
    store = copy_shards(everything, tmp_path / "ours", ["00000", "00002"])
    other = copy_shards(everything, tmp_path / "theirs", ["00001", "00003", "00004"])
    join(everything, CLIP, DINO, SETTINGS, SELECTION)
    against = SETTINGS.model_copy(update={"against": other.root})
    record = join(store, CLIP, DINO, against, SELECTION)
    assert record["counts"]["pairs"] == 120 * 180
    assert "~against-theirs-" in record["name"]
    ours = {"00000", "00002"}

    def across(row: Json) -> bool:
        stems = [row[name].split("/")[1] for name in ("image_1", "image_2")]
        return (stems[0] in ours) != (stems[1] in ours)

    truth = {frozenset((r["image_1"], r["image_2"])) for r in raw(everything) if across(r)}
    found = raw(store, against)
    assert {frozenset((row["image_1"], row["image_2"])) for row in found} == truth
    assert len(found) == len(truth) > 100
    # The first image is the run's own.
    assert {row["image_1"].split("/")[1] for row in found} <= ours
    folder = store.root / "pairs" / record["name"]
    chosen = select(store, folder.name, SELECTION)
    table = pq.read_table(store.root / chosen["selection"]["file"]["path"])
    assert table.num_rows > 0
    assert all(name is not None for name in table["shard_2"].to_pylist())
    pair = table.to_pylist()[0]
    said = explain(store, folder.name, pair["image_1"], pair["image_2"])
    assert said.verdict.endswith("selected")
    assert said.clip_cos == pytest.approx(pair["clip_cos"])
    ours_only = explain(store, folder.name, "set/00000/000000", "set/00002/000000")
    assert ours_only.verdict.startswith("not compared")
    # The other run may move: its join is found again, and knows the new place.
    moved = other.root.with_name("moved") / "theirs"
    moved.parent.mkdir()
    other.root.rename(moved)
    with pytest.raises(StoreError, match="give its new place"):
        explain(store, folder.name, pair["image_1"], pair["image_2"])
    again = join(store, CLIP, DINO, SETTINGS.model_copy(update={"against": moved}), SELECTION)
    assert again["name"] == record["name"]
    assert explain(store, folder.name, pair["image_1"], pair["image_2"]) == said


def test_images_of_both_runs_are_sought_once(tmp_path: Path) -> None:
    everything = make_store(tmp_path / "all", num_shards=3)
    store = copy_shards(everything, tmp_path / "ours", ["00000", "00001"])
    other = copy_shards(everything, tmp_path / "theirs", ["00001", "00002"])
    against = SETTINGS.model_copy(update={"against": other.root})
    record = join(store, CLIP, DINO, against, SELECTION)
    assert record["counts"]["pairs"] == 120 * 60
    assert {row["image_2"].split("/")[1] for row in raw(store, against)} == {"00002"}


@pytest.mark.parametrize("impl", ["cpu", "reference", "knn"])
def test_a_vector_without_direction_is_named(tmp_path: Path, impl: str) -> None:
    store = make_store(tmp_path, num_shards=1)
    for encoder, bad in ((CLIP, 0.0), (DINO, float("nan"))):
        ids, vectors = store.vectors(encoder, "set.00000")
        store.withdraw(f"vectors/{encoder}", "set.00000")
        vectors = vectors.copy()
        vectors[7] = bad
        entry = store.write_table(vector_table(ids, vectors), f"vectors/{encoder}", "x.parquet")
        record = {"encoder_id": encoder, "deviation": 0.0, "samples_sha256": "", "encoder": {}}
        store.commit(f"vectors/{encoder}", "set.00000", [entry], record)
        settings = SETTINGS.model_copy(update={"join": impl})
        with pytest.raises(StoreError, match="vector of set/00000/000007 is zero or not finite"):
            join(store, CLIP, DINO, settings, SELECTION)


def test_against_needs_another_run_without_namesakes(tmp_path: Path) -> None:
    store = make_store(tmp_path / "a")
    with pytest.raises(StoreError, match="is the run itself"):
        join(store, CLIP, DINO, SETTINGS.model_copy(update={"against": store.root}), SELECTION)
    missing = SETTINGS.model_copy(update={"against": tmp_path / "nowhere"})
    with pytest.raises(StoreError, match="holds no run"):
        join(store, CLIP, DINO, missing, SELECTION)
    other = Store(tmp_path / "b")
    other.update_run({}, {}, {"command": "test"})
    vectors = [store.vectors(encoder, "set.00000")[1] for encoder in (CLIP, DINO)]
    commit_shard(other, "00000", *vectors, contents=[b"%d" % row for row in range(60)])
    with pytest.raises(StoreError, match="60 image_ids stand for other images"):
        join(store, CLIP, DINO, SETTINGS.model_copy(update={"against": other.root}), SELECTION)


@pytest.mark.usefixtures("small_segments")
def test_knn_reports_its_recall_and_stands_for_no_exact_join(tmp_path: Path) -> None:
    store = make_store(tmp_path, num_shards=4)
    exact = join(store, CLIP, DINO, SETTINGS, SELECTION)
    knn = SETTINGS.model_copy(update={"join": "knn"})
    record = join(store, CLIP, DINO, knn, SELECTION)
    report = record["search"]["knn"]
    assert record["name"] == exact["name"] + "~knn"
    assert (record["impl"], record["impl_because"]) == ("knn", "asked for")
    assert record["search"]["num_blocks"] == 1
    assert report["recall_sample_rows"] == 240
    assert report["recall"] == pytest.approx(
        record["counts"]["candidates"] / exact["counts"]["candidates"]
    )
    assert {row["pair_id"] for row in raw(store, knn)} <= {row["pair_id"] for row in raw(store)}


def test_without_a_gpu_triton_says_so(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    store = make_store(tmp_path)
    with pytest.raises(ResourceError, match="join triton: "):
        join(store, CLIP, DINO, SETTINGS.model_copy(update={"join": "triton"}), SELECTION)
    clip, dino = grouped(20)
    with pytest.raises(ResourceError, match="join triton: "):
        blind_pairs(clip, dino, impl="triton")


@pytest.mark.gpu
def test_triton_finds_what_the_cpu_finds(tmp_path: Path) -> None:
    store = make_store(tmp_path, num_shards=5)
    join(store, CLIP, DINO, SETTINGS.model_copy(update={"join": "cpu"}), SELECTION)
    before = raw(store)
    for path in (store.root / "pairs", store.root / "commits" / "blocks"):
        shutil.rmtree(path)
    join(store, CLIP, DINO, SETTINGS.model_copy(update={"join": "triton"}), SELECTION)
    assert raw(store) == before


def test_a_damaged_block_is_sought_again(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    join(store, CLIP, DINO, SETTINGS, SELECTION)
    before = raw_bytes(store)
    block = next(store.root.glob("blocks/*/*.parquet"))
    block.write_bytes(block.read_bytes()[:-1] + b"x")
    next(store.root.glob("pairs/*/join.json")).unlink()
    join(store, CLIP, DINO, SETTINGS, SELECTION)
    assert raw_bytes(store) == before
    assert verify(store) == []


def test_vectors_of_shards_that_are_not_joined_change_no_band(tmp_path: Path) -> None:
    store = make_store(tmp_path, num_shards=2)
    store.withdraw(f"vectors/{DINO}", "set.00001")
    before = join(store, CLIP, DINO, SETTINGS, SELECTION)
    record = store.record(f"vectors/{CLIP}", "set.00001")
    path = store.root / store.commit_path(f"vectors/{CLIP}", "set.00001")
    replace_record(path, record | {"deviation": 0.02})
    after = join(store, CLIP, DINO, SETTINGS, SELECTION)
    assert (after["fingerprint"], after["borderline_clip"]) == (before["fingerprint"], 1e-3)


@pytest.mark.parametrize("impl", ["cpu", "knn"])
def test_an_empty_run_joins_to_nothing(tmp_path: Path, impl: str) -> None:
    store = Store(tmp_path)
    store.update_run({}, {}, {})
    commit_shard(store, "00000", torch.empty(0, 8), torch.empty(0, 6), refused=2)
    settings = SETTINGS.model_copy(update={"join": impl})
    record = join(store, CLIP, DINO, settings, SELECTION)
    assert record["counts"]["distinct"] == record["counts"]["blind"] == 0
    assert raw(store, settings) == []
    if impl == "knn":
        assert record["search"]["knn"] is None
