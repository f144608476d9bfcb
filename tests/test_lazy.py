import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from filelock import Timeout

from miner import blocks, packs
from miner.audit import collect_garbage, verify
from miner.config import JoinSettings, SelectSettings
from miner.encoders import TorchEncoder
from miner.errors import FingerprintError
from miner.join import join
from miner.lazy import NO_RANDOM, screen, screening_name
from miner.partial import embed_rests
from miner.records import Json
from miner.reporting.steps import image_steps
from miner.select import select
from miner.store import Store
from miner.vectors import EncoderVectors
from miner.why import explain
from tests.lazy_runs import Watched, embed, raw_bytes
from tests.near_corpora import write_near_corpus
from tests.small import small_encoders

SETTINGS = JoinSettings(clip_above=0.98, dino_below=0.95)
NEAR = SelectSettings()


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """A corpus, its two encoders, and runs that are copied before they are joined."""

    folder: Path
    encoders: list[TorchEncoder]

    @property
    def ids(self) -> tuple[str, str]:
        clip, dino = self.encoders
        return clip.encoder_id, dino.encoder_id

    def run(self, name: str, target: Path) -> Store:
        shutil.copytree(self.folder / name, target)
        return Store(target)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("lazy")
    encoders = small_encoders(folder / "weights")
    write_near_corpus(folder / "corpus", num_shards=4)
    tars = ("00000.tar", "00001.tar", "00002.tar")
    embed(folder / "corpus", folder / "both", encoders, *tars)
    embed(folder / "corpus", folder / "clip", encoders[:1], *tars)
    return Corpus(folder=folder, encoders=encoders)


def lazy_join(
    store: Store, corpus: Corpus, settings: JoinSettings = SETTINGS, watched: Watched | None = None
) -> Json:
    watched = watched or Watched(encoders=corpus.encoders)
    return join(store, *corpus.ids, settings, NEAR, lazy=True, late=watched.late)


def histogram(store: Store, source: str) -> list[tuple[int, int, int]]:
    (path,) = store.root.glob("pairs/*/histogram.parquet")
    rows = pq.read_table(path).to_pylist()
    return [(r["clip_bin"], r["dino_bin"], r["count"]) for r in rows if r["source"] == source]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"collapse": "none"},
        {"collapse": "near"},
        {"keep_clip": 0.97, "keep_dino": 0.97},
        {"clip_above": 0.985, "collapse": "near", "keep_dino": 1.0},
        {"clip_above": 0.97, "dino_below": 1.0, "max_partners": 2},
        {"join": "reference"},
    ],
    ids=str,
)
@pytest.mark.parametrize("num_segments", [1, 3])
def test_lazy_finds_what_eager_finds(
    corpus: Corpus,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    num_segments: int,
) -> None:
    if num_segments > 1:
        monkeypatch.setattr(packs, "SEGMENT_ROWS", 8)
    settings = SETTINGS.model_copy(update=changes)
    eager = corpus.run("both", tmp_path / "eager")
    truth = join(eager, *corpus.ids, settings, NEAR)
    lazy = corpus.run("clip", tmp_path / "lazy")
    record = lazy_join(lazy, corpus, settings)
    assert truth["counts"]["candidates"] > 0
    assert record["counts"] == truth["counts"]
    assert raw_bytes(lazy) == raw_bytes(eager)
    assert histogram(lazy, "candidates") == histogram(eager, "candidates")
    # DINO saw fewer images than there are, so no random pairs can be had.
    assert 0 < record["lazy"]["covered"] < truth["counts"]["distinct"]
    assert record["lazy"]["random_pairs"] == NO_RANDOM
    assert histogram(lazy, "random") == []
    assert histogram(eager, "random") != []
    assert truth["lazy"] is None
    assert verify(lazy) == []
    collect_garbage(lazy)
    assert lazy.leftovers() == []


def test_batches_of_other_images_change_no_pair(corpus: Corpus, tmp_path: Path) -> None:
    eager, lazy = (corpus.run(name, tmp_path / name) for name in ("both", "clip"))
    join(eager, *corpus.ids, SETTINGS, NEAR)
    lazy_join(lazy, corpus, watched=Watched(encoders=corpus.encoders, batch_size=4))
    both = [pq.read_table(next(s.root.glob("pairs/*/raw/*"))).to_pylist() for s in (eager, lazy)]
    assert [row["pair_id"] for row in both[0]] == [row["pair_id"] for row in both[1]] != []
    # A step of float16 in a value or two.
    for ours, theirs in zip(*both, strict=True):
        assert ours["clip_cos"] == theirs["clip_cos"]
        assert ours["dino_cos"] == pytest.approx(theirs["dino_cos"], abs=1e-4)


def test_near_copies_are_covered_too(corpus: Corpus, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"collapse": "near", "dino_below": 0.99})
    near = SelectSettings(near_clip=0.97, near_dino=0.97)
    eager, lazy = (corpus.run(name, tmp_path / name) for name in ("both", "clip"))
    truth = join(eager, *corpus.ids, settings, near)
    late = Watched(encoders=corpus.encoders).late
    record = join(lazy, *corpus.ids, settings, near, lazy=True, late=late)
    assert record["lazy"]["screened_above"] == 0.97
    assert truth["counts"]["distinct"] < 36
    assert record["counts"] == truth["counts"]
    assert raw_bytes(lazy) == raw_bytes(eager)


def test_dino_sees_images_with_a_candidate_and_no_others(corpus: Corpus, tmp_path: Path) -> None:
    store = corpus.run("clip", tmp_path / "run")
    watched = Watched(encoders=corpus.encoders)
    record = lazy_join(store, corpus, watched=watched)
    dino = EncoderVectors(store, corpus.ids[1])
    seen = {image_id for shard in range(3) for image_id in dino.ids(f"corpus.{shard:05d}")}
    clip = EncoderVectors(store, corpus.ids[0])
    found = [clip.read(shard_id) for shard_id in sorted(clip.whole)]
    names = np.array([name for ids, _ in found for name in ids])
    vectors_ND = np.concatenate([rows for _, rows in found]).astype(np.float64)
    vectors_ND /= np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    near_NN = vectors_ND @ vectors_ND.T > 0.98
    np.fill_diagonal(near_NN, False)
    wanted = set(names[near_NN.any(axis=1)])
    # Of copies with equal bytes the smallest image_id stands for the others.
    sha256 = {
        row["image_id"]: row["sha256"]
        for shard_id in store.committed("samples")
        for row in store.samples(shard_id).to_pylist()
    }
    first = {sha256[name]: name for name in sorted(sha256, reverse=True)}
    assert seen <= {first[sha256[name]] for name in wanted}
    assert record["lazy"]["covered"] == len(seen) == sum(number for _, number in watched.seen)
    # A second look at nothing.
    assert lazy_join(store, corpus, watched=Watched(encoders=[])) == record


def test_where_everything_is_covered_random_pairs_are_drawn(corpus: Corpus, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"clip_above": 0.8})
    eager, lazy = (corpus.run(name, tmp_path / name) for name in ("both", "clip"))
    join(eager, *corpus.ids, settings, NEAR)
    record = lazy_join(lazy, corpus, settings)
    assert record["lazy"]["covered"] == record["counts"]["distinct"]
    assert record["lazy"]["random_pairs"] is None
    assert histogram(lazy, "random") == histogram(eager, "random") != []


def test_another_threshold_asks_only_for_more(corpus: Corpus, tmp_path: Path) -> None:
    store = corpus.run("clip", tmp_path / "run")
    first, second = Watched(encoders=corpus.encoders), Watched(encoders=corpus.encoders)
    few = lazy_join(store, corpus, SETTINGS, first)
    lower = SETTINGS.model_copy(update={"clip_above": 0.97})
    many = lazy_join(store, corpus, lower, second)
    num_seen = sum(number for _, number in first.seen + second.seen)
    assert num_seen == many["lazy"]["covered"] > few["lazy"]["covered"]
    # The first join still stands, though there are more parts now.
    assert lazy_join(store, corpus, SETTINGS, Watched(encoders=[])) == few
    eager = corpus.run("both", tmp_path / "eager")
    join(eager, *corpus.ids, SETTINGS, NEAR)
    join(eager, *corpus.ids, lower, NEAR)
    assert raw_bytes(store) == raw_bytes(eager)
    # Another --dino-below needs no new screening.
    other = SETTINGS.model_copy(update={"dino_below": 0.9})
    before = set(store.committed(f"blocks/{corpus.ids[0]}~0.98~candidates"))
    lazy_join(store, corpus, other, Watched(encoders=[]))
    assert set(store.committed(f"blocks/{corpus.ids[0]}~0.98~candidates")) == before


def test_new_shards_are_screened_with_old_and_new_only(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packs, "SEGMENT_ROWS", 8)
    store = corpus.run("clip", tmp_path / "run")
    lazy_join(store, corpus)
    stage = f"blocks/{corpus.ids[0]}~0.98~candidates"
    before = set(store.committed(stage))
    assert len(before) == 6
    embed(corpus.folder / "corpus", store.root, corpus.encoders[:1], "00003.tar")
    sought = []
    searched = blocks.BlockSearch.candidates

    def seek(self: Any, block: Any, statistics: Any) -> Any:
        # Only the screening has a DINO of width 1.
        if self.first[1].shape[1] == 1:
            sought.append(block)
        return searched(self, block, statistics)

    monkeypatch.setattr(blocks.BlockSearch, "candidates", seek)
    lazy_join(store, corpus)
    assert before < set(store.committed(stage))
    assert len(sought) == 4
    assert all("corpus.00003" in {*b.first.shards, *b.second.shards} for b in sought)
    everything = embed(corpus.folder / "corpus", tmp_path / "all", corpus.encoders)
    join(everything, *corpus.ids, SETTINGS, NEAR)
    assert raw_bytes(store) == raw_bytes(everything)
    assert verify(store) == []


def test_one_join_at_a_time_screens(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Joins that differ in DINO's threshold have names of their own, and share the screening."""
    store = corpus.run("clip", tmp_path / "run")
    held = []

    def screened(task: Any, sides: Any, above: float) -> Any:
        with pytest.raises(Timeout), store.lock(screening_name(task, above)).acquire(timeout=0):
            pass
        held.append(above)
        return screen(task, sides, above)

    monkeypatch.setattr("miner.lazy.screen", screened)
    lazy_join(store, corpus)
    assert len(held) == 1


def test_a_join_that_was_cut_short_goes_on(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = corpus.run("clip", tmp_path / "run")
    watched = Watched(encoders=corpus.encoders)
    late = watched.late

    def stop(store: Store, shard_id: str, stats: Any) -> None:
        watched.seen.append((shard_id, 0))
        if len(watched.seen) == 2:
            raise KeyboardInterrupt

    both = replace(late, on_shard=stop)
    with pytest.raises(KeyboardInterrupt):
        join(store, *corpus.ids, SETTINGS, NEAR, lazy=True, late=both)
    searched = []
    monkeypatch.setattr(
        "miner.lazy._commit",
        lambda *_: searched.append(1),  # a screened block is not sought again
    )
    again = Watched(encoders=corpus.encoders)
    lazy_join(store, corpus, watched=again)
    assert searched == []
    assert [shard_id for shard_id, _ in again.seen] == ["corpus.00002"]
    eager = corpus.run("both", tmp_path / "eager")
    join(eager, *corpus.ids, SETTINGS, NEAR)
    assert raw_bytes(store) == raw_bytes(eager)


def test_across_two_runs_each_gets_the_vectors_of_its_images(
    corpus: Corpus, tmp_path: Path
) -> None:
    tars = ("00000.tar", "00001.tar"), ("00002.tar", "00003.tar")
    stores: dict[str, list[Store]] = {}
    for name, encoders in (("eager", corpus.encoders), ("lazy", corpus.encoders[:1])):
        stores[name] = [
            embed(corpus.folder / "corpus", tmp_path / name / f"run{n}", encoders, *tars[n])
            for n in range(2)
        ]
    watched = Watched(encoders=corpus.encoders)
    truth, record = (
        join(
            stores[name][0],
            *corpus.ids,
            SETTINGS.model_copy(update={"against": stores[name][1].root, "dino_below": 1.0}),
            NEAR,
            lazy=name == "lazy",
            late=watched.late,
        )
        for name in ("eager", "lazy")
    )
    assert truth["counts"]["kept"] > 0
    assert record["counts"] == truth["counts"]
    both = [list(raw_bytes(stores[name][0]).values()) for name in ("eager", "lazy")]
    assert both[0] == both[1]
    # What was done is told of the run that has the shard.
    for shard_id, root in watched.runs.items():
        assert Store(root).committed("samples").count(shard_id) == 1
    assert set(watched.runs.values()) == {store.root for store in stores["lazy"]}
    for store in stores["lazy"]:
        assert EncoderVectors(store, corpus.ids[1]).whole == set()
        assert len(store.committed(f"vectors/{corpus.ids[1]}")) > 0
        assert verify(store) == []


def test_images_without_a_dino_vector_are_left_out_of_both(corpus: Corpus, tmp_path: Path) -> None:
    clip, dino = corpus.encoders

    class Dark:
        """DINO, but NaN for images whose first pixel is dark."""

        def __getattr__(self, name: str) -> Any:
            return getattr(dino, name)

        def __call__(self, pixels_BCHW: torch.Tensor) -> torch.Tensor:
            vectors_BD = dino(pixels_BCHW).clone()
            vectors_BD[pixels_BCHW[:, 0, 0, 0] < 100] = torch.nan
            return vectors_BD

    tars = ("00000.tar", "00001.tar", "00002.tar")
    eager = embed(corpus.folder / "corpus", tmp_path / "eager", [clip, Dark()], *tars)
    settings = SETTINGS.model_copy(update={"clip_above": 0.9})
    truth = join(eager, *corpus.ids, settings, NEAR)
    lazy = corpus.run("clip", tmp_path / "lazy")
    record = lazy_join(lazy, corpus, settings, Watched(encoders=[clip, Dark()]))
    assert truth["counts"]["images"] < 39
    assert record["counts"] == truth["counts"]
    assert raw_bytes(lazy) == raw_bytes(eager)
    assert verify(lazy) == []
    (name,) = lazy.joins()
    select(lazy, name, NEAR)
    steps = {step.name: step for step in image_steps(lazy, record)}
    refused = dict(steps["images"].dropped)["nonfinite"]
    # A copy with equal bytes was not looked at, and is left out all the same.
    assert 0 < refused <= 39 - record["counts"]["images"]
    assert steps["seen by DINO"].count == record["lazy"]["covered"]


def test_an_eager_run_makes_it_whole_and_parts_go(corpus: Corpus, tmp_path: Path) -> None:
    store = corpus.run("clip", tmp_path / "run")
    lazy_join(store, corpus)
    before = raw_bytes(store)
    dino = corpus.encoders[1]
    list(embed_rests(store, store.committed("samples"), dino, Watched(encoders=[]).late))
    record = join(store, *corpus.ids, SETTINGS, NEAR)
    assert record["lazy"] is None
    assert raw_bytes(store) == before
    assert histogram(store, "random") != []
    # Lazy changes nothing where DINO has seen everything.
    late = Watched(encoders=[]).late
    assert join(store, *corpus.ids, SETTINGS, NEAR, lazy=True, late=late) == record
    assert any("~lazy-" in path for path in collect_garbage(store))
    assert all("~" not in name for name in store.committed(f"vectors/{dino.encoder_id}"))
    assert join(store, *corpus.ids, SETTINGS, NEAR) == record
    assert verify(store) == []


def test_a_part_that_went_is_made_again(corpus: Corpus, tmp_path: Path) -> None:
    store = corpus.run("clip", tmp_path / "run")
    record = lazy_join(store, corpus)
    stage = f"vectors/{corpus.ids[1]}"
    store.withdraw(stage, store.committed(stage)[0])
    watched = Watched(encoders=corpus.encoders)
    assert lazy_join(store, corpus, watched=watched)["counts"] == record["counts"]
    assert len(watched.seen) == 1


def test_a_changed_shard_stops_the_join(corpus: Corpus, tmp_path: Path) -> None:
    shutil.copytree(corpus.folder / "corpus", tmp_path / "corpus")
    store = embed(tmp_path / "corpus", tmp_path / "run", corpus.encoders[:1])
    rows = store.samples("corpus.00001").to_pylist()
    tar = tmp_path / "corpus" / "00001.tar"
    data = bytearray(tar.read_bytes())
    for row in rows:
        data[row["offset"] + row["num_bytes"] - 20] ^= 1
    tar.write_bytes(data)
    with pytest.raises(FingerprintError, match=r"00001.tar: .* has other bytes"):
        lazy_join(store, corpus)
    assert store.joins() == []


def test_knn_and_lazy_do_not_go_together(corpus: Corpus, tmp_path: Path) -> None:
    store = corpus.run("clip", tmp_path / "run")
    with pytest.raises(ValueError, match="--join knn may miss candidates"):
        lazy_join(store, corpus, SETTINGS.model_copy(update={"join": "knn"}))
    with pytest.raises(ValueError, match="a lazy join and a re-check encode images"):
        join(store, *corpus.ids, SETTINGS, NEAR, lazy=True)


def test_why_says_that_dino_did_not_look(corpus: Corpus, tmp_path: Path) -> None:
    store = corpus.run("clip", tmp_path / "run")
    lazy_join(store, corpus)
    (name,) = store.joins()
    dino = EncoderVectors(store, corpus.ids[1])
    seen = set(dino.ids("corpus.00000"))
    names = store.vector_ids(corpus.ids[0], "corpus.00000")
    unseen = [name for name in names if name not in seen]
    said = explain(store, name, unseen[0], unseen[1])
    assert said.dino_cos is None
    assert "DINO looked only at images with a candidate" in said.verdict
