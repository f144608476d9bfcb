"""Runs whose encoders look at images when the join asks for them."""

import json
import re
import tarfile
from pathlib import Path
from typing import Any

import pytest

import export.cache
from miner.config import EmbedSettings
from miner.encoders import Encoder
from miner.engines import PAIR_LIMITS, PairLimits
from miner.errors import ShardError
from miner.fetch import ImageFetcher
from miner.registry import EncoderRecord
from miner.samples import ShardReader
from miner.store import Store
from miner.vectors import EncoderVectors
from pipelines.engines import open_encoder
from tests.commands import Commands
from tests.lazy_runs import raw_bytes
from tests.near_corpora import THRESHOLDS, write_near_corpus

SEEK = THRESHOLDS[:4]
"""The thresholds alone, as `join` takes them."""


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    write_near_corpus(tmp_path / "corpus")
    return tmp_path / "corpus"


def metrics(run: Path) -> list[str]:
    """Lines on what this process embedded."""
    (path,) = run.glob("metrics/embed.*.jsonl")
    return path.read_text().splitlines()


def dino_of(store: Store) -> str:
    return next(i for i in store.encoder_ids() if i.startswith("small-dino"))


def selected(run: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in run.glob("pairs/*/selected.parquet")}


def test_mine_lazily_and_again(commands: Commands, corpus: Path, tmp_path: Path) -> None:
    words = (corpus, *THRESHOLDS, "--batch-size", 1)
    assert commands.mine(*words, "--out", tmp_path / "eager").code == 0
    lazy = (*words, "--dino-mode", "lazy", "--out", tmp_path / "lazy")
    ran = commands.mine(*lazy)
    assert ran.code == 0, ran.err
    assert "39 embedded by CLIP; DINO waits for the candidates" in ran.out
    assert re.search(r"seen by DINO\s+18 distinct images", ran.out)
    stores = [Store(tmp_path / name) for name in ("eager", "lazy")]
    assert raw_bytes(stores[0]) == raw_bytes(stores[1])
    assert selected(tmp_path / "eager") == selected(tmp_path / "lazy")
    page = (next((tmp_path / "lazy").glob("pairs/*/report/index.html"))).read_text()
    assert "had a CLIP candidate, so DINO looked at them; no random pairs" in page
    lines = metrics(tmp_path / "lazy")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "lazy").rglob("*.parquet")}
    ran = commands.mine(*lazy)
    assert (ran.code, "of which 0 had work to do" in ran.out) == (0, True)
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "lazy").rglob("*.parquet")}
    assert after == before
    assert metrics(tmp_path / "lazy") == lines
    ran = commands("status", tmp_path / "lazy")
    assert len(re.findall(r" done +\d+ in part ", ran.out)) == 3
    assert commands("verify", tmp_path / "lazy").code == 0
    # An eager run afterwards sees what is missing, and no image twice.
    ran = commands.mine(*words, "--out", tmp_path / "lazy")
    assert ran.code == 0, ran.err
    new = metrics(tmp_path / "lazy")[len(lines) :]
    assert sum(json.loads(line)["counts"]["encoded small-dino"] for line in new) == 39 - 18
    assert "in part" not in commands("status", tmp_path / "lazy").out
    assert raw_bytes(stores[0]) == raw_bytes(stores[1])
    assert commands("verify", tmp_path / "lazy").out.startswith("all commits, hashes and counts")


def test_embed_lazily_and_let_join_do_the_rest(
    commands: Commands, corpus: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    words = (*commands.encoders, "--max-bad-fraction", 0.2, "--batch-size", 1)
    ran = commands("embed", corpus, *words, "--dino-mode", "lazy", "--out", run)
    assert ran.code == 0, ran.err
    assert f"blindpairs join {run}   to let DINO see the images with a candidate" in ran.out
    assert [i.rpartition("-")[0] for i in Store(run).encoder_ids()] == ["small-clip"]
    ran = commands("join", run, *SEEK)
    assert ran.code == 0, ran.err
    assert "18 distinct images, those with a candidate" in ran.out
    assert (
        commands.mine(corpus, *THRESHOLDS, "--batch-size", 1, "--out", tmp_path / "eager").code == 0
    )
    assert raw_bytes(Store(run)) == raw_bytes(Store(tmp_path / "eager"))
    # A lower threshold needs more of DINO, and says nothing more to be given.
    ran = commands("join", run, "--clip-above", 0.97, "--dino-below", 0.95)
    assert ran.code == 0, ran.err
    # A shard that is gone is named, and the join goes on when it is back.
    tar = corpus / "00001.tar"
    away = tar.rename(tmp_path / "away.tar")
    ran = commands("join", run, "--clip-above", 0.95, "--dino-below", 0.95)
    assert (ran.code, "00001.tar: opening failed" in ran.err) == (4, True)
    away.rename(tar)
    assert commands("join", run, "--clip-above", 0.95, "--dino-below", 0.95).code == 0


class Burning(ImageFetcher):
    """Reads images, but none of one shard."""

    def read(self, url: str, member: str, offset: int, num_bytes: int) -> bytes:
        if url.endswith("00001.tar"):
            raise ShardError(f"{url}: the disk is on fire")
        return super().read(url, member, offset, num_bytes)


@pytest.mark.parametrize("mode", ["eager", "auto"])
def test_a_shard_whose_rest_cannot_be_read_is_reported(
    commands: Commands, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    run = tmp_path / "run"
    words = (corpus, *THRESHOLDS, "--batch-size", 1, "--out", run)
    assert commands.mine(*words, "--dino-mode", "lazy").code == 0
    # At the threshold 0.8 nearly every image has a candidate, so that DINO is to see all.
    monkeypatch.setattr("miner.reread.ImageFetcher", Burning)
    ran = commands.mine(*words, "--clip-above", 0.8, "--dino-mode", mode)
    assert ran.code == 3, ran.err
    assert ran.out.count("failed: corpus.00001: ") == 1
    assert "the disk is on fire" in ran.out
    store = Store(run)
    whole = EncoderVectors(store, dino_of(store)).whole
    assert whole == {"corpus.00000", "corpus.00002"}


def test_a_shard_that_auto_could_not_read_is_read_once(
    commands: Commands, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []

    real = ShardReader._items

    def items(reader: Any) -> Any:
        read.append(reader._shard.stem)
        if reader._shard.stem == "00000":
            raise ShardError(f"{reader._shard.url}: the disk is on fire")
        return real(reader)

    monkeypatch.setattr(ShardReader, "_items", items)
    words = (corpus, *THRESHOLDS, "--dino-mode", "auto", "--clip-above", 0.98)
    ran = commands.mine(*words, "--decoders", "thread", "--out", tmp_path / "run")
    assert ran.code == 3, ran.err
    assert "failed: corpus.00000: " in ran.out
    assert sorted(read) == ["00000", "00001", "00002"]


def test_other_weights_do_not_go_on_with_a_lazy_run(
    commands: Commands, corpus: Path, tmp_path: Path
) -> None:
    from tests.towers import write_dino_weights

    run = tmp_path / "run"
    words = (*commands.encoders, "--max-bad-fraction", 0.2, "--dino-mode", "lazy", "--out", run)
    assert commands("embed", corpus, *words).code == 0
    write_dino_weights(Path(commands.encoders[-1]), seed=5)
    ran = commands("join", run, *SEEK)
    assert ran.code == 2
    assert "their weights files are those of small-clip-" in ran.err


@pytest.mark.parametrize("late", [("--dino-mode", "lazy"), ("--dino-mode", "auto"), ("--recheck",)])
def test_no_driver_without_a_gpu_encodes_for_workers_that_may_have_some(
    commands: Commands,
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    late: tuple[str, ...],
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    run = tmp_path / "run"
    words = (corpus, *THRESHOLDS, "--precision", "bf16", "--executor", "ray", *late, "--out", run)
    ran = commands.mine(*words)
    assert ran.code == 4
    assert f"{' '.join(late)} has images encoded by this machine" in ran.err
    assert not run.exists()


def test_several_workers_are_not_profiled(commands: Commands, corpus: Path, tmp_path: Path) -> None:
    words = (corpus, *THRESHOLDS, "--executor", "ray", "--profile", tmp_path / "trace.json")
    ran = commands.mine(*words, "--out", tmp_path / "run")
    assert (ran.code, "--profile traces one process" in ran.err) == (2, True)
    assert not (tmp_path / "run").exists()


def test_a_driver_without_a_gpu_does_not_choose_the_join_of_workers_with_some(
    commands: Commands,
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("miner.implementations.gpu.available", lambda: "there is no GPU")
    words = (corpus, *THRESHOLDS, "--executor", "ray", "--out", tmp_path / "run")
    ran = commands.mine(*words, "--device", "cuda")
    assert (ran.code, "give --join triton, or --join cpu" in ran.err) == (2, True)
    assert not (tmp_path / "run").exists()
    # With other devices it is said; the wrong shard ends the command before a cluster is sought.
    ran = commands.mine(tmp_path / "none.tar", *words[1:], "--device", "cpu")
    assert "none.tar" in ran.err
    said = " ".join(ran.err.split())
    assert "--join auto: cpu for all workers, exact; there is no GPU" in said


@pytest.mark.parametrize("is_tree", [False, True])
def test_a_join_proves_engines_on_the_images_of_the_run(
    commands: Commands,
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    is_tree: bool,
) -> None:
    """And finds weights that were named from another folder."""
    if is_tree:
        for tar in sorted(corpus.iterdir()):
            with tarfile.open(tar) as file:
                file.extractall(tmp_path / "tree" / tar.stem, filter="data")
        corpus = tmp_path / "tree"
    proven = []

    def watched(
        record: EncoderRecord, weights: Path, settings: EmbedSettings, *args: Any, **kwargs: Any
    ) -> Encoder:
        proven.append(kwargs["own"]())
        # In half precision encoders with random weights are not equal to themselves.
        settings = settings.model_copy(update={"precision": "fp32"})
        return open_encoder(record, weights, settings, *args, **kwargs)

    monkeypatch.setattr("pipelines.loading.open_encoder", watched)
    clip, dino = (Path(commands.encoders[place]) for place in (3, 7))
    monkeypatch.chdir(clip.parent)
    words = ("--clip", "small-clip", "--clip-weights", clip.name, "--dino", "small-dino")
    words = (*words, "--dino-weights", dino.name, "--max-bad-fraction", "0.2")
    run, how = tmp_path / "run", ("--precision", "fp16", "--dino-mode", "lazy")
    trace = tmp_path / "trace.json"
    ran = commands("embed", corpus, *words, *how, "--profile", trace, "--out", run)
    assert ran.code == 0, ran.err
    trace.unlink()
    monkeypatch.chdir(tmp_path)
    ran = commands("join", run, *SEEK)
    assert ran.code == 0, ran.err
    by_clip, by_dino = proven
    assert len(by_clip) == len(by_dino) == 32
    assert len(by_dino.pixels_NCHW.unique(dim=0)) >= 20
    assert not trace.exists()


@pytest.fixture
def wide_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets towers pass in bfloat16 that are too small for it; keeps their proofs here."""
    monkeypatch.setitem(PAIR_LIMITS, "bf16", PairLimits(max=2e-2, p99=1e-2))
    monkeypatch.setattr(export.cache, "DEFAULT_ROOT", tmp_path / "cache")


@pytest.mark.usefixtures("wide_limits")
def test_recheck_takes_the_encoders_of_the_run(
    commands: Commands, corpus: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    words = (corpus, *THRESHOLDS, "--batch-size", 1, "--recheck")
    ran = commands.mine(*words, "--out", run)
    assert ran.code == 2
    assert "--recheck has no effect on vectors that torch computes in fp32" in ran.err
    assert not run.exists()
    ran = commands.mine(*words, "--precision", "bf16", "--out", run)
    assert ran.code == 0, ran.err
    assert re.search(r"re-checked\s+\d+ borderline pairs in float32: \d+ became blind", ran.out)
    ran = commands("join", run, "--clip-above", 0.97, "--dino-below", 0.95, "--recheck")
    assert ran.code == 0, ran.err
    assert re.search(r"re-checked\s+[1-9]\d* borderline pairs", ran.out)
    assert any("~fp32-" in name for name in Store(run).committed(f"vectors/{dino_of(Store(run))}"))
    assert commands("verify", run).code == 0


@pytest.mark.usefixtures("wide_limits")
def test_recheck_needs_to_know_the_weights(
    commands: Commands, corpus: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    words = (corpus, *THRESHOLDS, "--precision", "bf16", "--out", run)
    assert commands.mine(*words).code == 0
    store = Store(run)
    text = json.loads((store.root / "run.json").read_text())
    text["commands"] = [{"command": "import", "encoders": text["commands"][0]["encoders"]}]
    (store.root / "run.json").write_text(json.dumps(text))
    assert commands("join", run, *SEEK).code == 0
    ran = commands("join", run, *SEEK, "--recheck")
    assert (ran.code, "does not know their weights" in ran.err) == (4, True)


def test_plan_estimates_both_modes(commands: Commands, corpus: Path, tmp_path: Path) -> None:
    small = ("--clip", "small-clip", "--dino", "small-dino", *SEEK)
    ran = commands("plan", corpus, *small)
    assert re.search(r"encoding, eager\s+less than a minute at that rate", ran.out)
    assert re.search(r"encoding, lazy\s+unknown; embed a few shards with CLIP", ran.out)
    assert re.search(r"--dino-mode\s+eager, asked for", ran.out)
    run = tmp_path / "run"
    words = (*commands.encoders, "--max-bad-fraction", 0.2, "--dino-mode", "lazy", "--out", run)
    assert commands("embed", corpus, *words).code == 0
    ran = commands("plan", corpus, *small, "--dino-mode", "auto", "--out", run)
    assert ran.code == 0, ran.err
    # 18 of 36 distinct images have a candidate; the plan is for 42 samples.
    assert "50.0% of 36 images of that run have a candidate" in ran.out
    assert re.search(r"--dino-mode\s+lazy, since lazy mode takes \d\d% of", ran.out)
