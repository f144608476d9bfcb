"""Batches through encoders: on a GPU the same vectors as on the CPU, lost rows mended there too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from miner.batches import Vectors, nonfinite
from miner.config import FeedSettings, ReadSettings
from miner.embed import embed_shards, reading_fingerprint
from miner.encoders import Encoder, TorchEncoder, load_encoder
from miner.guarded import Guarded
from miner.shards import list_shards
from miner.store import Store
from tests.small import small_encoders, write_corpus, write_weights
from tests.towers import clip_record, dino_record


class Losing:
    """An encoder that gives NaN for the first image of every batch."""

    def __init__(self, real: TorchEncoder) -> None:
        self.record, self.encoder_id, self.dim = real.record, real.encoder_id, real.dim
        self.device, self.backend, self.precision = real.device, real.backend, real.precision
        self.deviation = 0.0
        self._real = real

    def __call__(self, pixels_BCHW: torch.Tensor) -> torch.Tensor:
        vectors_BD = self._real(pixels_BCHW).clone()
        vectors_BD[0] = torch.nan
        return vectors_BD


def embedded(folder: Path, encoders: list[Encoder], corpus: Path) -> dict[str, np.ndarray]:
    """The first encoder's vectors by image_id."""
    store = Store(folder)
    store.update_run(reading_fingerprint(ReadSettings()), {}, {"command": "test"})
    done = embed_shards(
        [(shard, None) for shard in list_shards([str(corpus)])],
        dict(zip(("clip", "dino"), encoders, strict=True)),
        store=store,
        settings=ReadSettings(),
        feeding=FeedSettings(batch_size=4, decoders="thread"),
    )
    assert [each.error for each in done] == [None] * 3
    found: dict[str, np.ndarray] = {}
    for shard_id in store.committed("samples"):
        ids, vectors_ND = store.vectors(encoders[0].encoder_id, shard_id)
        found |= dict(zip(ids, vectors_ND.astype(np.float32), strict=True))
    return found


def on(device: str, folder: Path) -> list[TorchEncoder]:
    clip, dino = write_weights(folder)
    return [
        load_encoder(clip_record(), device=device, weights=clip),
        load_encoder(dino_record(), device=device, weights=dino),
    ]


@pytest.mark.parametrize(
    "device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu, id="on a GPU")]
)
def test_lost_rows_are_mended_on_their_way(device: str, tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus")
    truth = embedded(tmp_path / "truth", list(small_encoders(tmp_path / "w")), tmp_path / "corpus")
    clip, dino = on(device, tmp_path / "w")
    guarded = Guarded(Losing(clip), load_truth=lambda: clip)
    found = embedded(tmp_path / device, [guarded, dino], tmp_path / "corpus")
    assert found.keys() == truth.keys()
    assert len(truth) == 33
    for image_id, vector_D in truth.items():
        assert float(vector_D @ found[image_id]) > 0.9995
    # Without the guard these rows are quarantined.
    bare = embedded(tmp_path / f"bare {device}", [Losing(clip), dino], tmp_path / "corpus")
    assert len(bare) == 33 - 3 * 3


def test_rows_without_a_number_or_a_direction_are_found(tmp_path: Path) -> None:
    (clip, _) = small_encoders(tmp_path)
    vectors = Vectors(encoder=clip, image_ids=["a", "b", "c", "d"])
    rows_ND = np.eye(4, 48, dtype=np.float32)
    rows_ND[1, 7] = np.nan
    vectors.add(rows_ND[:3])
    vectors.add(np.zeros((1, 48), np.float32))
    assert nonfinite(vectors.vectors_ND).tolist() == [1, 3]
