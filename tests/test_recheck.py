from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from miner.audit import verify
from miner.config import JoinSettings, SelectSettings
from miner.encoders import TorchEncoder, load_encoder
from miner.engines import PAIR_LIMITS
from miner.errors import ParityError
from miner.join import join
from miner.pairs import join_name
from miner.recheck import STORAGE, grown, near_threshold, widened
from miner.records import Json
from miner.select import select
from miner.store import Store
from miner.vectors import FP32, EncoderVectors
from miner.why import explain
from tests.lazy_runs import Watched, embed
from tests.near_corpora import write_near_corpus
from tests.small import write_weights
from tests.towers import clip_record, dino_record

SETTINGS = JoinSettings(clip_above=0.97, dino_below=0.9)
RECHECK = SETTINGS.model_copy(update={"recheck": True})
NEAR = SelectSettings()


@dataclass(frozen=True, kw_only=True)
class Runs:
    """One corpus seen in float32 and in bfloat16, by both encoders."""

    truths: list[TorchEncoder]
    fast: list[TorchEncoder]
    fp32: Store
    bf16: Store
    folder: Path

    @property
    def ids(self) -> tuple[str, str]:
        clip, dino = self.truths
        return clip.encoder_id, dino.encoder_id


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("recheck")
    files = write_weights(folder / "weights")
    truths, fast = (
        [
            load_encoder(record, weights=weights, dtype=dtype)
            for record, weights in zip((clip_record(), dino_record()), files, strict=True)
        ]
        for dtype in ("fp32", "bf16")
    )
    write_near_corpus(folder / "corpus", num_shards=3, images=30)
    return Runs(
        truths=truths,
        fast=fast,
        fp32=embed(folder / "corpus", folder / "fp32", truths),
        bf16=embed(folder / "corpus", folder / "bf16", fast),
        folder=folder,
    )


def pairs_of(store: Store, settings: JoinSettings, ids: tuple[str, str]) -> dict[str, Json]:
    parts = (store.root / "pairs" / join_name(*ids, settings) / "raw").glob("*.parquet")
    return {row["pair_id"]: row for part in parts for row in pq.read_table(part).to_pylist()}


def mined(
    runs: Runs,
    store: Store,
    settings: JoinSettings,
    encoders: Sequence[TorchEncoder] = (),
    *,
    lazy: bool = False,
) -> tuple[dict[str, Json], Json, Watched]:
    watched = Watched(encoders=encoders, truths=runs.truths)
    record = join(store, *runs.ids, settings, NEAR, lazy=lazy, late=watched.late)
    return pairs_of(store, settings, runs.ids), record, watched


@pytest.mark.parametrize(
    "changes", [{}, {"keep_clip": 0.96, "keep_dino": 0.93}, {"max_partners": 5}], ids=str
)
def test_rechecked_pairs_are_those_of_float32(runs: Runs, changes: dict[str, float]) -> None:
    plain, asked = (s.model_copy(update=changes) for s in (SETTINGS, RECHECK))
    truth, _, _ = mined(runs, runs.fp32, plain)
    fast, _, _ = mined(runs, runs.bf16, plain)
    assert truth.keys() - fast.keys(), "bfloat16 misses no pair here, so nothing is shown"
    assert fast.keys() - truth.keys(), "bfloat16 invents no pair here, so nothing is shown"
    found, record, _ = mined(runs, runs.bf16, asked)
    assert found.keys() == truth.keys()
    assert all(found[p].get("blind") == truth[p].get("blind") for p in truth)
    said = record["rechecked"]
    assert said["became_blind"] > 0
    assert said["ceased_to_be_blind"] > 0
    assert said["pairs"] < record["counts"]["pairs"]
    assert record["borderline_clip"] == 1e-3
    assert record["name"].endswith("~recheck")
    assert verify(runs.bf16) == []


def test_rechecked_cosines_are_those_of_float32(runs: Runs) -> None:
    truth, _, _ = mined(runs, runs.fp32, SETTINGS)
    found, record, _ = mined(runs, runs.bf16, RECHECK)
    band = record["rechecked"]["clip_band"]
    near = [p for p in found if abs(truth[p]["clip_cos"] - 0.97) < band / 2]
    assert len(near) > 3
    # To one step of float16 in a few values, since batches differ.
    for pair in near:
        assert found[pair]["clip_cos"] == pytest.approx(truth[pair]["clip_cos"], abs=2e-5)
        assert found[pair]["borderline"] == truth[pair]["borderline"]


def test_only_images_of_borderline_pairs_are_encoded_and_once(runs: Runs, tmp_path: Path) -> None:
    store = embed(runs.folder / "corpus", tmp_path / "run", runs.fast)
    few = RECHECK.model_copy(update={"clip_above": 0.985})
    _, record, watched = mined(runs, store, few)
    said = record["rechecked"]
    num_images = said["clip_images"] + said["dino_images"]
    assert sum(number for _, number in watched.seen) == num_images < 60
    kinds = [EncoderVectors(store, encoder_id) for encoder_id in runs.ids]
    shards = store.committed("samples")
    assert sum(len(each.ids(s, FP32)) for each in kinds for s in shards) == num_images
    _, again, watched = mined(runs, store, few)
    assert again == record
    assert watched.seen == []
    # Other thresholds need other images, and what was encoded is not encoded again.
    _, record, watched = mined(runs, store, RECHECK)
    said = record["rechecked"]
    assert 0 < sum(n for _, n in watched.seen) < said["clip_images"] + said["dino_images"]
    # A part that was read and is gone is made again.
    stage = f"vectors/{runs.ids[0]}"
    part = next(name for name in store.committed(stage) if "~fp32-" in name)
    store.withdraw(stage, part)
    _, anew, watched = mined(runs, store, RECHECK)
    assert (len(watched.seen), anew["rechecked"]) == (1, record["rechecked"])


def test_lazy_and_rechecked(runs: Runs, tmp_path: Path) -> None:
    truth, _, _ = mined(runs, runs.fp32, SETTINGS)
    store = embed(runs.folder / "corpus", tmp_path / "run", runs.fast[:1])
    found, record, watched = mined(runs, store, RECHECK, runs.fast, lazy=True)
    assert found.keys() == truth.keys()
    # Images of pairs that only float32 finds are covered, too.
    assert record["lazy"]["screened_above"] == pytest.approx(0.97 - 5e-3 - STORAGE)
    assert watched.seen != []
    assert verify(store) == []
    assert mined(runs, store, RECHECK, lazy=True)[1] == record


def test_across_two_runs(runs: Runs, tmp_path: Path) -> None:
    stores = {
        name: [
            embed(runs.folder / "corpus", tmp_path / f"{name}{number}", encoders, tar)
            for number, tar in enumerate(("00000.tar", "00001.tar"))
        ]
        for name, encoders in (("fp32", runs.truths), ("bf16", runs.fast))
    }
    asked = SETTINGS.model_copy(update={"against": stores["fp32"][1].root})
    truth, _, _ = mined(runs, stores["fp32"][0], asked)
    asked = RECHECK.model_copy(update={"against": stores["bf16"][1].root})
    found, record, _ = mined(runs, stores["bf16"][0], asked)
    assert found.keys() == truth.keys() != set()
    assert record["rechecked"]["pairs"] > 0
    assert all(
        any("~fp32-" in n for n in s.committed(f"vectors/{runs.ids[0]}")) for s in stores["bf16"]
    )


def test_shards_in_float32_are_the_truth_already(runs: Runs, tmp_path: Path) -> None:
    store = embed(runs.folder / "corpus", tmp_path / "run", runs.fast, "00000.tar")
    embed(runs.folder / "corpus", store.root, runs.truths, "00001.tar", "00002.tar")
    truth, _, _ = mined(runs, runs.fp32, SETTINGS)
    found, _, watched = mined(runs, store, RECHECK)
    assert found.keys() == truth.keys()
    assert {shard_id for shard_id, _ in watched.seen} == {"corpus.00000"}


def test_why_tells_the_cosine_that_decided(runs: Runs) -> None:
    truth, _, _ = mined(runs, runs.fp32, SETTINGS)
    fast, _, _ = mined(runs, runs.bf16, SETTINGS)
    found, _, _ = mined(runs, runs.bf16, RECHECK)
    flipped = sorted(truth.keys() - fast.keys())[0]
    folder = runs.bf16.root / "pairs" / join_name(*runs.ids, RECHECK)
    select(runs.bf16, folder.name, NEAR)
    row = found[flipped]
    said = explain(runs.bf16, folder.name, row["image_1"], row["image_2"])
    assert said.clip_cos == pytest.approx(row["clip_cos"], abs=1e-6)
    assert said.dino_cos == pytest.approx(row["dino_cos"], abs=1e-6)
    assert said.verdict.startswith(f"in raw as {flipped}")


def test_a_recheck_of_the_truth_is_refused(runs: Runs) -> None:
    with pytest.raises(ValueError, match=r"--recheck has no effect: all vectors .* torch in fp32"):
        mined(runs, runs.fp32, RECHECK)


class Liar:
    """CLIP, a little off, which says that it deviates by next to nothing."""

    deviation = 1e-6

    def __init__(self, truth: TorchEncoder, noise: float) -> None:
        self._truth, self._noise = truth, noise

    def __getattr__(self, name: str) -> object:
        return getattr(self._truth, name)

    def __call__(self, pixels_BCHW: torch.Tensor) -> torch.Tensor:
        vectors_BD = self._truth(pixels_BCHW)
        seed = int(pixels_BCHW.long().sum())
        noise = torch.randn(vectors_BD.shape, generator=torch.Generator().manual_seed(seed))
        return torch.nn.functional.normalize(vectors_BD + self._noise * noise, dim=1)


@pytest.mark.parametrize("lazy", [False, True])
def test_bands_grow_where_a_cosine_strays(
    runs: Runs, tmp_path: Path, lazy: bool, caplog: pytest.LogCaptureFixture
) -> None:
    encoders = [Liar(runs.truths[0], 0.006), runs.truths[1]]
    seen = encoders[:1] if lazy else encoders
    store = embed(runs.folder / "corpus", tmp_path / "run", seen)  # type: ignore[arg-type]
    truth, _, _ = mined(runs, runs.fp32, SETTINGS)
    found, record, _ = mined(runs, store, RECHECK, encoders, lazy=lazy)  # type: ignore[arg-type]
    assert found.keys() == truth.keys()
    # Torch in fp32 promises 2e-3, and CLIP is off by more.
    assert record["rechecked"]["clip_band"] > 2 * 2e-3
    assert "seeking again with bands" in caplog.text
    if lazy:
        band = record["rechecked"]["clip_band"]
        assert record["lazy"]["screened_above"] == pytest.approx(0.97 - band - STORAGE)
    assert verify(store) == []


def test_an_engine_that_is_broken_is_refused() -> None:
    assert grown("clip", 0.002 + STORAGE / 2, 0.002, 0.002) == 0.002
    assert grown("clip", 0.004, 0.002, 0.002) == 0.008
    with pytest.raises(ParityError, match=r"cosine by 0\.02100, more than 10 times the 0\.00200"):
        grown("clip", 0.021, 0.002, 0.002)


def test_bands_are_never_below_what_the_precision_promises(runs: Runs, tmp_path: Path) -> None:
    class Confident:
        """CLIP in bfloat16, of which the gate saw no pair move by much."""

        deviation = 1.2e-3

        def __getattr__(self, name: str) -> object:
            return getattr(runs.fast[0], name)

        def __call__(self, pixels_BCHW: torch.Tensor) -> torch.Tensor:
            return runs.fast[0](pixels_BCHW)

    encoders = [Confident(), runs.truths[1]]
    store = embed(runs.folder / "corpus", tmp_path / "run", encoders)  # type: ignore[arg-type]
    _, record, _ = mined(runs, store, RECHECK)
    assert record["rechecked"]["clip_band"] == PAIR_LIMITS["bf16"].max
    assert record["rechecked"]["dino_band"] == 1e-3


def test_sought_wider_by_the_bands_and_within_cosines() -> None:
    wide = widened(RECHECK, (0.005, 0.02))
    assert wide.keep_clip_above == pytest.approx(0.97 - 0.005 - STORAGE)
    assert wide.keep_dino_below == pytest.approx(0.9 + 0.02 + STORAGE)
    assert (wide.clip_above, wide.dino_below, wide.max_partners) == (0.97, 0.9, 2000)
    edge = widened(JoinSettings(clip_above=-1, dino_below=1), (0.005, 0.005))
    assert (edge.keep_clip_above, edge.keep_dino_below) == (-1, 1)


def test_near_any_of_the_thresholds() -> None:
    cos = torch.tensor([0.9, 0.951, 0.96, 0.99], dtype=torch.float64)
    assert near_threshold(cos, (0.95, 0.992), 0.002).tolist() == [False, True, False, True]
