"""The text of `--about` as a vector that the run's CLIP vectors may be compared with."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from miner.errors import ResourceError, StoreError
from miner.records import Json
from miner.registry import EncoderRecord
from miner.rows import joined_shards
from miner.store import Store


def text_vector(
    store: Store, encoder_id: str, text: str, weights: str | None
) -> npt.NDArray[np.float32]:
    """[D] float32, of unit length: a text as the text tower of an encoder sees it.

    The tower is that of the weights by which the run's vectors were made, and no other.

    Args:
        store: a run with vectors of the encoder.
        encoder_id: the encoder's.
        text: what the pairs are to be about.
        weights: safetensors file or URL; default: bundled, or the hub's.

    Raises:
        StoreError: the vectors do not say by which weights they were made.
        ResourceError: the weights are missing, or others.
        ValueError: the encoder has no text tower.
    """
    from miner.text import load_text_tower

    tower = load_text_tower(_record_of(store, encoder_id), weights=weights)
    if tower.encoder_id != encoder_id:
        raise ResourceError(
            f"--about: the text tower found is that of {tower.encoder_id}, and the vectors are of "
            f"{encoder_id}; give the weights that embedded the run (--clip-weights)"
        )
    vector: npt.NDArray[np.float32] = tower([text])[0].numpy()
    return vector


def _record_of(store: Store, encoder_id: str) -> EncoderRecord:
    """The encoder's record, with the hash of its weights, as a commit of its vectors says."""
    for shard_id in joined_shards(store, encoder_id)[:1]:
        said: Json = store.record(f"vectors/{encoder_id}", shard_id).get("encoder") or {}
        if said.get("weights_sha256"):
            return EncoderRecord(**said)
    raise StoreError(
        f"--about: the vectors of {encoder_id} in {store.root} do not say by which weights they "
        "were made, so that no text can be compared with them; leave --about out"
    )
