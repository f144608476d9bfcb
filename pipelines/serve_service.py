"""The service behind the routes: encoders, batcher, index, and what state they are in."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from miner.encoders import Encoder
from miner.records import Json
from pipelines.batcher import Batcher
from pipelines.loading import Encoders
from pipelines.serve_errors import ServiceError
from pipelines.serve_metrics import ServeMetrics
from pipelines.serve_settings import ServeSettings

log = logging.getLogger(__name__)

DEFAULTS = {"clip": "clip-vit-l-14", "dino": "dinov2-vit-l-14"}

ROLES = ("clip", "dino")


class Service:
    """What one process serves.

    Attributes:
        settings: as given.
        metrics: what it counts.
        encoders: by role; empty until loaded.
        num_in_flight: requests that are being answered.
        is_draining: whether it was told to stop.
    """

    def __init__(self, settings: ServeSettings) -> None:
        self.settings = settings
        self.metrics = ServeMetrics()
        self.encoders: dict[str, Encoder] = {}
        self.num_in_flight = 0
        self.is_draining = False
        self._batcher: Batcher | None = None

    def load(self) -> None:
        """Load both encoders; takes a while, on any thread."""
        clip = self.settings.clip or DEFAULTS["clip"]
        dino = self.settings.dino or DEFAULTS["dino"]
        loading = Encoders(self.settings.embedding(clip, dino))
        for role, record in zip(ROLES, loading.records, strict=True):
            self.encoders[role] = loading.load(record.encoder_id)

    def start(self) -> None:
        """Take images from now on; called on the event loop."""
        self._batcher = Batcher(self.encoders, self.settings, self.metrics)

    def close(self) -> None:
        """Stop all threads and processes."""
        if self._batcher is not None:
            self._batcher.close()
            self._batcher = None

    @property
    def batcher(self) -> Batcher:
        """What embeds.

        Raises:
            ServiceError: nothing is loaded yet.
        """
        if self._batcher is None:
            raise ServiceError(503, "starting", "the encoders are loading; come again soon")
        return self._batcher

    @property
    def status(self) -> str:
        """`ok`, `starting`, `draining` or `broken`."""
        if self._batcher is None:
            return "starting"
        if self._batcher.error is not None:
            return "broken"
        return "draining" if self.is_draining else "ok"

    def roles_of(self, names: Sequence[str] | None, param: str) -> list[str]:
        """The roles that names stand for; None stands for both.

        Raises:
            ServiceError: no encoder goes by a name (422).
        """
        if names is None:
            return list(self.encoders)
        roles = []
        for name in names:
            matching = [
                role
                for role, encoder in self.encoders.items()
                if name in (role, encoder.encoder_id, encoder.record.name)
            ]
            if not matching:
                known = [
                    f"{role} ({encoder.encoder_id})" for role, encoder in self.encoders.items()
                ]
                raise ServiceError(
                    422,
                    "unknown_encoder",
                    f"no encoder here goes by that name; there are {' and '.join(known)}",
                    param=param,
                )
            roles += matching
        return list(dict.fromkeys(roles))

    def encoder_records(self, roles: Sequence[str]) -> Json:
        """By encoder_id, what decides an encoder's vectors, and what computes them here."""
        return {
            encoder.encoder_id: {
                **encoder.record.model_dump(mode="json"),
                "role": role,
                "backend": encoder.backend,
                "precision": encoder.precision,
                "deviation": encoder.deviation,
            }
            for role, encoder in self.encoders.items()
            if role in roles
        }
