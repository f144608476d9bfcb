import functools
from pathlib import Path

import numpy as np
import pytest
import torch

from miner.commits import Accounts, committed_images
from miner.config import FeedSettings, ImageLimits, ReadSettings
from miner.decode import Order, Outcome, Refused
from miner.embed import embed_shard, reading_fingerprint
from miner.encode import encode_all
from miner.encoders import Encoder, TorchEncoder
from miner.errors import FingerprintError, ShardError
from miner.partial import (
    Late,
    embed_images,
    embed_parts,
    embed_rests,
)
from miner.records import read_json, replace_json
from miner.reread import committed_shards
from miner.ring import Ring
from miner.schema import Reason
from miner.shards import list_shards
from miner.stats import Stats
from miner.store import Store
from miner.vectors import FP32, LAZY, EncoderVectors
from tests.near_corpora import write_near_corpus
from tests.small import small_encoders

SHARD = "corpus.00000"
FEEDING = FeedSettings(batch_size=4, decoders="thread")


def embed_part(
    store: Store, shard_id: str, wanted: list[str], encoder: Encoder, kind: str, late: Late
) -> Stats:
    ((_, stats),) = embed_parts(store, {shard_id: wanted}, encoder, kind, late)
    return stats


def embed_rest(store: Store, shard_id: str, encoder: Encoder, late: Late) -> Stats:
    ((_, stats, error),) = embed_rests(store, [shard_id], encoder, late)
    assert error is None
    return stats


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> list[TorchEncoder]:
    return small_encoders(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def store(tmp_path: Path, encoders: list[TorchEncoder]) -> Store:
    """Two shards seen by CLIP alone."""
    return embedded(tmp_path, encoders[:1])


def embedded(folder: Path, encoders: list[TorchEncoder]) -> Store:
    if not (folder / "corpus").exists():
        write_near_corpus(folder / "corpus", num_shards=2)
    store = Store(folder / f"run{len(encoders)}")
    shards = list_shards([str(folder / "corpus")])
    seen = {shard.shard_id: {"url": shard.url} for shard in shards}
    store.update_run(reading_fingerprint(ReadSettings()), seen, {"command": "test"})
    for shard in shards:
        embed_shard(shard, encoders, store=store, settings=ReadSettings(), batch_size=4)
    return store


def late_of(encoders: list[TorchEncoder]) -> Late:
    by_id = {encoder.encoder_id: encoder for encoder in encoders}
    return Late(load=lambda encoder_id, kind: by_id[encoder_id], feeding=FEEDING)


class Blind:
    """An encoder that gives NaN for the first image of a batch."""

    def __init__(self, encoder: TorchEncoder, **others: object) -> None:
        self.encoder = encoder
        for name in (
            *("record", "encoder_id", "dim", "device", "backend", "precision"),
            "deviation",
        ):
            setattr(self, name, others.get(name, getattr(encoder, name)))

    def __call__(self, pixels_BCHW: torch.Tensor) -> torch.Tensor:
        vectors_BD = self.encoder(pixels_BCHW).clone()
        vectors_BD[0] = torch.nan
        return vectors_BD


class Told(Blind):
    """An encoder that sees everything, and is said to be another."""

    def __call__(self, pixels_BCHW: torch.Tensor) -> torch.Tensor:
        return self.encoder(pixels_BCHW)


def test_a_part_has_the_vectors_of_a_whole_shard(
    store: Store, encoders: list[TorchEncoder], tmp_path: Path
) -> None:
    clip, dino = encoders
    truth = dict(zip(*embedded(tmp_path, encoders).vectors(dino.encoder_id, SHARD), strict=True))
    wanted = sorted(truth)[2:9]
    late = late_of(encoders)
    stats = embed_part(store, SHARD, wanted, dino, LAZY, late)
    assert stats.counts["encoded small-dino"] == 7
    assert {"read", "decode", "small-dino"} <= stats.seconds.keys()
    vectors = EncoderVectors(store, dino.encoder_id)
    ids, found = vectors.read(SHARD)
    assert ids == wanted
    # Other batches: the last bits of float32 may differ, and so one step of float16.
    assert np.allclose(found, [truth[image_id] for image_id in ids], atol=5e-4)
    (record,) = vectors.records(SHARD)
    assert record["encoder_id"] == dino.encoder_id
    assert record["num_quarantined"] == 0
    assert EncoderVectors(store, clip.encoder_id).whole == {SHARD, "corpus.00001"}


def test_only_images_without_a_vector_are_encoded(
    store: Store, encoders: list[TorchEncoder]
) -> None:
    dino = encoders[1]
    ids = store.vector_ids(encoders[0].encoder_id, SHARD)
    late = late_of(encoders)
    seen: list[str] = []
    late.on_shard = lambda _store, shard_id, _stats: seen.append(shard_id)
    for wanted in (ids[:4], ids[2:6], ids[:6]):
        embed_images(store, {SHARD: set(wanted)}, dino.encoder_id, LAZY, late)
    assert seen == [SHARD, SHARD]
    parts = [
        record["files"][0]["rows"]
        for record in EncoderVectors(store, dino.encoder_id).records(SHARD)
    ]
    assert sorted(parts) == [2, 4]
    # Another kind has its own.
    embed_images(store, {SHARD: set(ids[:1])}, dino.encoder_id, FP32, late)
    assert seen == [SHARD, SHARD, SHARD]


def test_images_without_a_finite_vector_are_quarantined_once(
    store: Store, encoders: list[TorchEncoder]
) -> None:
    blind = Blind(encoders[1])
    ids = store.vector_ids(encoders[0].encoder_id, SHARD)[:3]
    calls = []
    late = Late(load=lambda *_: calls.append(1) or blind, feeding=FEEDING)  # type: ignore[func-returns-value]
    for _ in range(2):
        embed_images(store, {SHARD: set(ids)}, blind.encoder.encoder_id, LAZY, late)
    assert len(calls) == 1
    vectors = EncoderVectors(store, blind.encoder.encoder_id)
    assert vectors.refused(SHARD) == {ids[0]}
    assert vectors.ids(SHARD) == ids[1:]
    (record,) = vectors.records(SHARD)
    rows = store.table(record, "quarantine").to_pylist()
    assert [row["reason"] for row in rows] == ["nonfinite"]
    assert "gave NaN or infinity in fp32" in rows[0]["detail"]


def test_the_rest_of_a_shard_makes_it_whole(store: Store, encoders: list[TorchEncoder]) -> None:
    dino = encoders[1]
    blind = Blind(dino)
    ids = store.vector_ids(encoders[0].encoder_id, SHARD)
    embed_part(store, SHARD, ids[4:8], blind, LAZY, late_of(encoders))  # type: ignore[arg-type]
    part = dict(zip(*EncoderVectors(store, dino.encoder_id).read(SHARD), strict=True))
    stats = embed_rest(store, SHARD, dino, late_of(encoders))
    assert stats.counts["encoded small-dino"] == len(ids) - 4
    vectors = EncoderVectors(store, dino.encoder_id)
    assert vectors.names(SHARD) == [SHARD]
    assert vectors.refused(SHARD) == {ids[4]}
    found = dict(zip(*vectors.read(SHARD), strict=True))
    assert list(found) == [image_id for image_id in ids if image_id != ids[4]]
    assert all(np.array_equal(found[image_id], part[image_id]) for image_id in ids[5:8])


@pytest.mark.parametrize(
    "other",
    [{"precision": "bf16"}, {"backend": "onnx"}, {"device": torch.device("cpu:0")}],
    ids=str,
)
def test_parts_that_were_computed_otherwise_are_not_reused(
    store: Store, encoders: list[TorchEncoder], other: dict[str, object]
) -> None:
    dino = encoders[1]
    ids = store.vector_ids(encoders[0].encoder_id, SHARD)
    part = Told(dino, deviation=0.003, **other)
    embed_part(store, SHARD, ids[4:8], part, LAZY, late_of(encoders))  # type: ignore[arg-type]
    stats = embed_rest(store, SHARD, dino, late_of(encoders))
    assert stats.counts["encoded small-dino"] == len(ids)
    vectors = EncoderVectors(store, dino.encoder_id)
    assert vectors.ids(SHARD) == ids
    (record,) = vectors.records(SHARD)
    assert (record["deviation"], record["device"]) == (0, "cpu")


def test_the_whole_shard_deviates_as_its_parts_do(
    store: Store, encoders: list[TorchEncoder]
) -> None:
    dino = encoders[1]
    ids = store.vector_ids(encoders[0].encoder_id, SHARD)
    for place, deviation in ((2, 0.003), (4, 0.001)):
        part = Told(dino, deviation=deviation)
        embed_part(store, SHARD, ids[place : place + 2], part, LAZY, late_of(encoders))  # type: ignore[arg-type]
    embed_rest(store, SHARD, Told(dino, deviation=0.002), late_of(encoders))  # type: ignore[arg-type]
    (record,) = EncoderVectors(store, dino.encoder_id).records(SHARD)
    assert record["deviation"] == 0.003


def test_the_rest_of_a_shard_that_cannot_be_read_stops_no_other(
    store: Store, encoders: list[TorchEncoder]
) -> None:
    dino, shards = encoders[1], [SHARD, "corpus.00001"]
    for shard_id in shards:
        ids = store.vector_ids(encoders[0].encoder_id, shard_id)
        embed_part(store, shard_id, ids[4:8], dino, LAZY, late_of(encoders))
    (store.root.parent / "corpus" / "00000.tar").unlink()
    (_, _, failed), (_, _, none) = embed_rests(store, shards, dino, late_of(encoders))
    assert none is None
    assert "00000.tar: opening failed" in str(failed)
    assert EncoderVectors(store, dino.encoder_id).whole == {"corpus.00001"}


def test_other_bytes_are_refused(store: Store, encoders: list[TorchEncoder]) -> None:
    ids = store.vector_ids(encoders[0].encoder_id, SHARD)
    tar = store.root.parent / "corpus" / "00000.tar"
    data = bytearray(tar.read_bytes())
    row = next(r for r in store.samples(SHARD).to_pylist() if r["image_id"] == ids[2])
    data[row["offset"] + 300] ^= 1
    tar.write_bytes(data)
    late = late_of(encoders)
    with pytest.raises(FingerprintError, match=f"{ids[2]} has other bytes since it was committed"):
        embed_part(store, SHARD, ids[:4], encoders[1], LAZY, late)
    tar.unlink()
    with pytest.raises(ShardError, match="opening failed"):
        embed_part(store, SHARD, ids[:4], encoders[1], LAZY, late)
    assert EncoderVectors(store, encoders[1].encoder_id).names(SHARD) == []


def test_an_image_that_is_no_more_decodable_is_refused(
    store: Store, encoders: list[TorchEncoder]
) -> None:
    run = read_json(store.root / "run.json")
    replace_json(store.root / "run.json", run | {"reading": run["reading"] | {"max_pixels": 9}})
    ids = store.vector_ids(encoders[0].encoder_id, SHARD)
    with pytest.raises(FingerprintError, match=r"was decodable when .*too_many_pixels"):
        embed_part(store, SHARD, ids[:4], encoders[1], LAZY, late_of(encoders))


def test_an_image_that_ends_its_decoder_later_is_named(
    store: Store, encoders: list[TorchEncoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    def crashing(order: Order, ring: Ring, limits: ImageLimits) -> list[Outcome]:
        return [Refused(Reason.CRASHED_DECODER, "9 bytes; ended")] * len(order.jobs)

    monkeypatch.setattr("miner.reread.encode_all", functools.partial(encode_all, decode=crashing))
    clip, dino = encoders
    ids = store.vector_ids(clip.encoder_id, SHARD)
    said = rf"{ids[0]} was decodable when .* now its decoder failed \(9 bytes; ended\); run the"
    with pytest.raises(FingerprintError, match=said):
        embed_part(store, SHARD, ids[:4], dino, LAZY, late_of(encoders))
    # And when a whole shard is read once more.
    shard = next(iter(committed_shards(store)))
    reason = Reason.CRASHED_DECODER.value
    row = {"key": ids[0].rpartition("/")[2], "reason": reason, "detail": "9 bytes; ended"}
    with pytest.raises(FingerprintError, match=said):
        committed_images(shard, Accounts(decodable={}, refused=[row]), store)


def test_a_moved_shard_is_read_where_it_was_seen_last(
    store: Store, encoders: list[TorchEncoder]
) -> None:
    tar = store.root.parent / "corpus" / "00000.tar"
    moved = tar.rename(store.root.parent / "elsewhere.tar")
    run = store.run()
    store.update_run(run["reading"], {SHARD: {"url": str(moved)}}, {"command": "test"})
    ids = store.vector_ids(encoders[0].encoder_id, SHARD)
    embed_part(store, SHARD, ids[:2], encoders[1], LAZY, late_of(encoders))
    assert EncoderVectors(store, encoders[1].encoder_id).ids(SHARD) == ids[:2]
