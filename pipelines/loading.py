"""The two encoders of a run: known at once, loaded when first needed."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime

import torch

from miner.config import EmbedSettings
from miner.encoders import Encoder, TorchEncoder, find_record, load_encoder
from miner.errors import ResourceError
from miner.partial import Late
from miner.registry import EncoderRecord
from miner.stats import Stats
from miner.store import Store
from miner.vectors import FP32
from miner.weights import locate

log = logging.getLogger(__name__)


def device_of(name: str) -> str:
    """The device that a setting stands for.

    Raises:
        ResourceError: a GPU is asked for and there is none.
    """
    has_gpu = torch.cuda.is_available()
    if name == "auto":
        return "cuda" if has_gpu else "cpu"
    if name.startswith("cuda") and not has_gpu:
        raise ResourceError(
            f"--device {name}: torch {torch.__version__} sees no GPU; give --device cpu, or see "
            "`blindpairs doctor`"
        )
    return name


class Encoders:
    """The two encoders of a run: known at once, loaded when first needed."""

    def __init__(self, settings: EmbedSettings) -> None:
        self._settings = settings
        self._device = device_of(settings.device)
        self._located = [
            locate(find_record(settings.clip), settings.clip_weights),
            locate(find_record(settings.dino), settings.dino_weights),
        ]
        self._loaded: dict[tuple[str, str], TorchEncoder] = {}
        clip, dino = (record.encoder_id for record in self.records)
        if clip == dino:
            raise ValueError(
                f"--clip and --dino are both {clip}; a blind pair takes two encoders that differ"
            )

    @property
    def records(self) -> list[EncoderRecord]:
        """CLIP's record and DINO's."""
        return [record for record, _ in self._located]

    def load(self, encoder_id: str) -> Encoder:
        """An encoder on its device, as the settings want it computed."""
        return self._load(encoder_id, self._settings.precision)

    def load_truth(self, encoder_id: str) -> Encoder:
        """An encoder on its device, in float32 by torch."""
        return self._load(encoder_id, "fp32")

    def late(self, store: Store) -> Late:
        """Both, for a join that finds out which images they have to see."""
        return Late(
            load=lambda encoder_id, kind: (
                self.load_truth(encoder_id) if kind == FP32 else self.load(encoder_id)
            ),
            batch_size=self._settings.batch_size,
            on_shard=lambda shard_id, stats: append_metrics(store, shard_id, stats),
        )

    def _load(self, encoder_id: str, precision: str) -> TorchEncoder:
        key = (encoder_id, precision)
        if key not in self._loaded:
            found = {record.encoder_id: (record, path) for record, path in self._located}
            record, path = found[encoder_id]
            log.info("loading %s on %s from %s", encoder_id, self._device, path)
            self._loaded[key] = load_encoder(
                record, device=self._device, dtype=precision, weights=path
            )
        return self._loaded[key]


def append_metrics(store: Store, shard_id: str, stats: Stats) -> None:
    """Add a line on what was done of a shard to the run's metrics."""
    path = store.root / "metrics" / "embed.jsonl"
    path.parent.mkdir(exist_ok=True)
    line = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "shard": shard_id,
        "counts": dict(stats.counts),
        "seconds": {stage: round(elapsed_s, 4) for stage, elapsed_s in stats.seconds.items()},
    }
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
