import hashlib
import io
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from miner import crops, images
from miner.config import FeedSettings, ReadSettings
from miner.embed import ROLES, Done, embed_shard, embed_shards
from miner.encoders import TorchEncoder, load_encoder
from miner.errors import FingerprintError, ShardError
from miner.fetch import read_image_bytes
from miner.shards import list_shards
from miner.stats import STAGES, Stats
from miner.store import Store
from tests.small import jpeg, small_encoders, write_corpus, write_tar
from tests.towers import dino_record, write_dino_weights

READ = ReadSettings()


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> list[TorchEncoder]:
    return small_encoders(tmp_path_factory.mktemp("weights"))


def embed(store: Store, path: Path, encoders: list[TorchEncoder], **changes: object) -> Stats:
    (shard,) = list_shards([str(path)], dataset="set")
    options = {"store": store, "settings": READ, "batch_size": 4, **changes}
    return embed_shard(shard, encoders, **options)  # type: ignore[arg-type]


def test_rows_hold_what_the_shard_said(tmp_path: Path, encoders: list[TorchEncoder]) -> None:
    (path,) = write_corpus(tmp_path / "corpus", num_shards=1)
    store = Store(tmp_path / "run")
    stats = embed(store, path, encoders)
    assert stats.counts["samples"] == 12
    assert stats.counts["decodable"] == 11
    assert stats.counts["encoded small-clip"] == 11
    rows = store.samples("set.00000").to_pylist()
    assert [row["image_id"] for row in rows] == [
        f"set/00000/00000{number:04d}" for number in range(12) if number != 5
    ]
    for row in rows:
        seed = int(row["key"][5:])
        assert row["caption"] == f"n {seed}"
        assert row["url"] == f"https://example.org/{seed}.jpg"
        data = read_image_bytes(row["shard"], row["member"], row["offset"], row["num_bytes"])
        assert data == jpeg(seed)
        assert row["sha256"] == hashlib.sha256(data).hexdigest()
        assert (row["width"], row["height"], row["format"]) == (96, 80, "JPEG")
    (refused,) = store.quarantine("set.00000").to_pylist()
    assert (refused["key"], refused["reason"]) == ("000000005", "format_not_allowed")
    record = store.record("samples", "set.00000")
    assert record["num_samples"] == record["num_decodable"] + record["num_quarantined"] == 12
    assert sum(record["bytes"].values()) == path.stat().st_size
    assert record["shard"]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_vectors_are_the_encoders_of_the_recorded_pixels(
    tmp_path: Path, encoders: list[TorchEncoder]
) -> None:
    (path,) = write_corpus(tmp_path / "corpus", num_shards=1, images=5)
    store = Store(tmp_path / "run")
    embed(store, path, encoders)
    for encoder in encoders:
        image_ids, vectors = store.vectors(encoder.encoder_id, "set.00000")
        assert image_ids == store.samples("set.00000")["image_id"].to_pylist()
        pixels = torch.stack(
            [
                crops.cut(images.decode(jpeg(seed), READ).pixels_HWC, encoder.record.crop)
                for seed in range(5)
            ]
        )
        expected = encoder(pixels).numpy()
        np.testing.assert_allclose(vectors.astype(np.float32), expected, atol=1e-3)
        spread = vectors.astype(np.float64) @ vectors.astype(np.float64).T
        assert spread.max() - spread.min() > 0.01


def test_batch_size_changes_no_vector_by_more_than_rounding(
    tmp_path: Path, encoders: list[TorchEncoder]
) -> None:
    (path,) = write_corpus(tmp_path / "corpus", num_shards=1)
    found = []
    for batch_size in (1, 5, 64):
        store = Store(tmp_path / f"run{batch_size}")
        embed(store, path, encoders, batch_size=batch_size)
        found.append(store.vectors(encoders[0].encoder_id, "set.00000")[1].astype(np.float32))
    np.testing.assert_allclose(found[0], found[1], atol=1e-3)
    np.testing.assert_allclose(found[0], found[2], atol=1e-3)


def test_committed_work_is_not_redone(tmp_path: Path, encoders: list[TorchEncoder]) -> None:
    (path,) = write_corpus(tmp_path / "corpus", num_shards=1)
    store = Store(tmp_path / "run")
    embed(store, path, encoders)
    assert embed(store, path, encoders).counts == {}


def test_second_encoder_equals_the_first_pass(tmp_path: Path, encoders: list[TorchEncoder]) -> None:
    (path,) = write_corpus(tmp_path / "corpus", num_shards=1)
    at_once, one_by_one = Store(tmp_path / "a"), Store(tmp_path / "b")
    embed(at_once, path, encoders)
    embed(one_by_one, path, encoders[:1])
    stats = embed(one_by_one, path, encoders)
    assert stats.counts == {"encoded small-dino": 11}
    for encoder in encoders:
        ids, vectors = at_once.vectors(encoder.encoder_id, "set.00000")
        ids_again, vectors_again = one_by_one.vectors(encoder.encoder_id, "set.00000")
        assert ids == ids_again
        np.testing.assert_array_equal(vectors, vectors_again)


def test_shard_that_changed_is_refused_by_a_second_encoder(
    tmp_path: Path, encoders: list[TorchEncoder]
) -> None:
    (path,) = write_corpus(tmp_path / "corpus", num_shards=1)
    store = Store(tmp_path / "run")
    embed(store, path, encoders[:1])
    data = bytearray(path.read_bytes())
    data[600] ^= 1
    path.write_bytes(data)
    with pytest.raises(FingerprintError, match=r"000000000 has other bytes .* restore"):
        embed(store, path, encoders)


class _NotFinite(torch.nn.Module):
    """An encoder's module that gives NaN for dark pictures."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, pixels_BCHW: torch.Tensor) -> torch.Tensor:
        vectors_BD: torch.Tensor = self.module(pixels_BCHW)
        dark = pixels_BCHW.float().mean(dim=(1, 2, 3)) < 20
        vectors_BD[dark] = float("nan")
        return vectors_BD


def test_nonfinite_vectors_are_quarantined_in_either_pass(
    tmp_path: Path, encoders: list[TorchEncoder]
) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (70, 70), (5, 5, 5)).save(buffer, "PNG")
    path = write_tar(tmp_path / "00000.tar", [("a.jpg", jpeg(1)), ("b.png", buffer.getvalue())])
    weights = write_dino_weights(tmp_path / "dino.safetensors")
    broken = load_encoder(dino_record(), weights=weights)
    broken.module = _NotFinite(broken.module)  # type: ignore[assignment]
    first, second = Store(tmp_path / "first"), Store(tmp_path / "second")
    assert embed(first, path, [encoders[0], broken]).counts["encoded small-dino"] == 1
    embed(second, path, encoders[:1])
    embed(second, path, [broken])
    for store in (first, second):
        assert store.samples("set.00000")["key"].to_pylist() == ["a", "b"]
        assert store.vectors(encoders[0].encoder_id, "set.00000")[1].shape == (2, 48)
        assert store.vectors(broken.encoder_id, "set.00000")[0] == ["set/00000/a"]
        record = store.record(f"vectors/{broken.encoder_id}", "set.00000")
        assert record["num_quarantined"] == 1
        (row,) = store.table(record, "quarantine").to_pylist()
        assert (row["key"], row["reason"]) == ("b", "nonfinite")


def test_quota_of_a_whole_shard_is_no_cut(tmp_path: Path, encoders: list[TorchEncoder]) -> None:
    (path,) = write_corpus(tmp_path / "corpus", num_shards=1)
    store = Store(tmp_path / "run")
    embed(store, path, encoders, quota=12)
    assert store.record("samples", "set.00000")["cut_after"] is None


def test_quota_ends_a_shard_early_and_says_so(tmp_path: Path, encoders: list[TorchEncoder]) -> None:
    (path,) = write_corpus(tmp_path / "corpus", num_shards=1)
    store = Store(tmp_path / "run")
    embed(store, path, encoders, quota=7)
    record = store.record("samples", "set.00000")
    assert (record["num_samples"], record["num_decodable"], record["cut_after"]) == (7, 6, 7)
    assert record["shard"]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_shard_without_a_good_image(tmp_path: Path, encoders: list[TorchEncoder]) -> None:
    path = write_tar(tmp_path / "00000.tar", [("a.jpg", b""), ("b.txt", b"words")])
    store = Store(tmp_path / "run")
    embed(store, path, encoders)
    assert store.samples("set.00000").num_rows == 0
    assert store.vectors(encoders[0].encoder_id, "set.00000")[1].shape == (0, 48)
    reasons = store.quarantine("set.00000")["reason"].to_pylist()
    assert sorted(reasons) == ["empty", "no_image"]


@pytest.mark.parametrize("image", [jpeg(1), b"no image at all"])
def test_sample_that_is_taken_back_has_one_outcome(
    tmp_path: Path, encoders: list[TorchEncoder], image: bytes
) -> None:
    again = [("a.jpg", jpeg(3)), ("c.jpg", jpeg(4)), ("a.txt", b"far from its image")]
    path = write_tar(tmp_path / "00000.tar", [("a.jpg", image), ("b.jpg", jpeg(2)), *again])
    store = Store(tmp_path / "run")
    embed(store, path, encoders)
    assert store.samples("set.00000")["key"].to_pylist() == ["b", "c"]
    refused = [(row["key"], row["reason"]) for row in store.quarantine("set.00000").to_pylist()]
    assert refused == [("a", "duplicate_key"), ("a", "scattered_key")]
    assert store.record("samples", "set.00000")["num_samples"] == 4
    assert store.vectors(encoders[0].encoder_id, "set.00000")[0] == ["set/00000/b", "set/00000/c"]


def embed_all(
    store: Store,
    paths: list[Path],
    encoders: list[TorchEncoder],
    feeding: FeedSettings,
) -> list[Done]:
    shards = list_shards([str(path) for path in paths], dataset="set")
    return list(
        embed_shards(
            [(shard, None) for shard in shards],
            dict(zip(ROLES, encoders, strict=True)),
            store=store,
            settings=READ,
            feeding=feeding,
        )
    )


def test_stages_add_up_to_the_wall_time(tmp_path: Path, encoders: list[TorchEncoder]) -> None:
    paths = write_corpus(tmp_path / "corpus", num_shards=3, images=40)
    feeding = FeedSettings(batch_size=4, decoders="thread")
    start_s = time.perf_counter()
    done = embed_all(Store(tmp_path / "run"), paths, encoders, feeding)
    elapsed_s = time.perf_counter() - start_s
    total = sum((each.stats for each in done), Stats())
    assert set(total.seconds) <= set(STAGES)
    assert {"read", "decode", "clip", "dino", "write"} <= set(total.seconds)
    assert sum(total.seconds.values()) <= elapsed_s
    # What is left is the start and the end of threads.
    assert sum(total.seconds.values()) >= 0.9 * elapsed_s - 0.1
    assert {"read", "decode", "write"} == set(total.core_seconds)
    assert all(core_s > 0 for core_s in total.core_seconds.values())


def test_shards_at_once_equal_shards_alone(tmp_path: Path, encoders: list[TorchEncoder]) -> None:
    paths = write_corpus(tmp_path / "corpus", num_shards=3)
    together, alone = Store(tmp_path / "together"), Store(tmp_path / "alone")
    done = embed_all(together, paths, encoders, FeedSettings(batch_size=4, num_decoders=2))
    assert [each.shard.shard_id for each in done] == ["set.00000", "set.00001", "set.00002"]
    for path in paths:
        embed(alone, path, encoders)
    for shard_id in together.committed("samples"):
        assert together.samples(shard_id) == alone.samples(shard_id)
        assert together.quarantine(shard_id) == alone.quarantine(shard_id)
        for encoder in encoders:
            stage = f"vectors/{encoder.encoder_id}"
            hashes = [s.record(stage, shard_id)["files"][0]["sha256"] for s in (together, alone)]
            assert hashes[0] == hashes[1]


def test_shard_that_breaks_is_told_and_the_next_goes_on(
    tmp_path: Path, encoders: list[TorchEncoder]
) -> None:
    paths = write_corpus(tmp_path / "corpus", num_shards=3)
    shards = list_shards([str(path) for path in paths], dataset="set")
    paths[1].write_bytes(paths[1].read_bytes() + bytes(512))
    store = Store(tmp_path / "run")
    first, broken, last = embed_shards(
        [(shard, None) for shard in shards],
        dict(zip(ROLES, encoders, strict=True)),
        store=store,
        settings=READ,
        feeding=FeedSettings(batch_size=4),
    )
    assert first.error is None
    assert last.error is None
    assert "it is being written" in str(broken.error)
    assert store.committed("samples") == ["set.00000", "set.00002"]
    with pytest.raises(ShardError, match="it is being written"):
        embed_shard(shards[1], encoders, store=store, settings=READ, batch_size=4)
