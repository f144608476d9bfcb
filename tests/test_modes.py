import json
from pathlib import Path

import numpy as np
import pytest

from miner.config import EmbedSettings, JoinSettings, ReadSettings
from miner.store import Store
from pipelines import embedding, modes
from pipelines.modes import (
    Choice,
    Sampled,
    choice_made,
    choose,
    costs,
    embedding_of,
    reading_of,
    sample_candidates,
)
from tests.commands import Commands
from tests.lazy_runs import raw_bytes
from tests.near_corpora import THRESHOLDS, write_near_corpus
from tests.runs import CLIP, DINO, make_store


@pytest.mark.parametrize("spread", [0.2, 1.0, 50.0])
def test_share_with_a_candidate_grows_as_in_a_crowd(spread: float) -> None:
    """Images with rates of their own: a share among 2,000 tells that among 20 times as many."""
    generator = np.random.default_rng(3)
    rates = generator.gamma(spread, 0.05 / spread, 400_000)
    sampled = Sampled(num_rows=20_000, degrees=generator.poisson(rates[:20_000]))
    truth = float((generator.poisson(20 * rates) > 0).mean())
    assert sampled.share(20_000) == pytest.approx((sampled.degrees > 0).mean(), abs=0.005)
    assert sampled.share(400_000) == pytest.approx(truth, abs=0.04)
    assert sampled.share(20_000) < sampled.share(400_000) < sampled.share(10**9)


def test_share_at_the_ends() -> None:
    none = Sampled(num_rows=1000, degrees=np.zeros(1000, np.int64))
    assert 0 < none.share(1000) < 0.003
    assert none.share(10**7) > 0.9
    everybody = Sampled(num_rows=1000, degrees=np.full(1000, 2))
    assert everybody.share(1000) == 1.0
    assert Sampled(num_rows=1, degrees=np.zeros(1, np.int64)).share(10) == 1.0


def test_costs_are_counted_operations() -> None:
    found = costs(100.0, 200.0, 10, 3, 0.25)
    assert (found.eager, found.lazy) == (300.0, 100.0 + 50.0 + 30.0)
    assert found.mode == "lazy"
    assert "60% of the eager mode's operations" in found.because
    # It has to save a tenth.
    assert costs(100.0, 200.0, 0, 1, 0.84).mode == "lazy"
    assert costs(100.0, 200.0, 0, 1, 0.86).mode == "eager"
    # A corpus so large that the screening costs more than DINO.
    assert costs(100.0, 200.0, 10, 100, 0.01).mode == "eager"


def test_the_sample_counts_candidates_by_clip_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(tmp_path)
    for shard_id in store.committed(f"vectors/{DINO}"):
        store.withdraw(f"vectors/{DINO}", shard_id)
    clip_ND = np.concatenate([store.vectors(CLIP, s)[1] for s in store.committed("samples")])
    clip_ND = clip_ND.astype(np.float64)
    clip_ND /= np.linalg.norm(clip_ND, axis=1, keepdims=True)
    degrees = (clip_ND @ clip_ND.T > 0.97).sum(axis=1) - 1
    sampled = sample_candidates(store, CLIP, 0.97)
    assert sampled.num_rows == 120
    assert sorted(sampled.degrees) == sorted(degrees)
    assert 0 < (degrees == 0).sum() < 120
    monkeypatch.setattr(modes, "JOIN_SAMPLE", 30)
    assert sample_candidates(store, CLIP, 0.97).num_rows == 30
    how = JoinSettings(clip_above=0.97)
    choice = choose(store, (CLIP, DINO), (1e9, 1e9), 120, how)
    assert "of 30 images have a candidate with CLIP cosine > 0.97" in choice.because


def test_without_a_shard_there_is_nothing_to_learn_from(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert choose(store, (CLIP, DINO), (1.0, 1.0), 5, JoinSettings()) == Choice(
        mode="eager", because="no shard could be read to learn from"
    )


def commands_of(run: Path) -> list[dict[str, object]]:
    return list(json.loads((run / "run.json").read_text())["commands"])


@pytest.mark.parametrize(("above", "mode"), [("0.98", "lazy"), ("0.8", "eager")])
def test_auto_chooses_once_and_says_why(
    commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, above: str, mode: str
) -> None:
    write_near_corpus(tmp_path / "corpus")
    monkeypatch.setattr(embedding, "AUTO_SAMPLES", 20)
    words = (tmp_path / "corpus", *THRESHOLDS, "--clip-above", above, "--batch-size", 1)
    run = tmp_path / "auto"
    ran = commands.mine(*words, "--dino-mode", "auto", "--out", run)
    assert ran.code == 0, ran.err
    # Two shards of three were looked at by CLIP before.
    assert f"--dino-mode auto: {mode}, since" in " ".join(ran.err.split())
    assert "of 25 images have" in " ".join(ran.err.split())
    assert "3, of which 3 had work to do" in ran.out
    first, second = commands_of(run)
    assert first["settings"]["dino_mode"] == "auto"  # type: ignore[index]
    assert second["chosen"]["dino_mode"] == mode  # type: ignore[index]
    store = Store(run)
    clip, dino = second["encoders"]  # type: ignore[misc]
    assert choice_made(store, clip, dino) == Choice(
        mode=mode,  # type: ignore[arg-type]
        because=second["chosen"]["because"],  # type: ignore[index]
    )
    assert any("~" in name for name in store.committed(f"vectors/{dino}")) == (mode == "lazy")
    # The choice stands, whatever it would be now.
    monkeypatch.setattr(embedding, "choose", lambda *_: pytest.fail("chosen twice"))
    before = raw_bytes(store)
    ran = commands.mine(*words, "--dino-mode", "auto", "--out", run)
    assert ran.code == 0, ran.err
    assert "of which 0 had work to do" in ran.out
    ran = commands("join", run, "--clip-above", above, "--dino-below", 0.95)
    assert ran.code == 0, ran.err
    assert raw_bytes(store) == before
    assert commands.mine(*words, "--out", tmp_path / "eager").code == 0
    assert raw_bytes(Store(tmp_path / "eager")) == before


def test_settings_of_the_last_command_that_embedded_for_two_encoders(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.update_run({}, {}, {"command": "select", "encoders": [CLIP, DINO], "settings": {}})
    assert embedding_of(store, CLIP, DINO) is None
    assert reading_of(store, CLIP, DINO) == ReadSettings()
    for limit, encoders in ((3, [CLIP, DINO]), (5, [CLIP, DINO]), (7, [CLIP, CLIP])):
        settings = {"limit": limit, "max_punsafe": 0.5, "batch_size": limit, "labels": "same"}
        store.log_command({"command": "mine", "encoders": encoders, "settings": settings})
    assert embedding_of(store, CLIP, DINO) == (EmbedSettings(batch_size=5), "eager")
    assert reading_of(store, CLIP, DINO) == ReadSettings(limit=5, max_punsafe=0.5)
