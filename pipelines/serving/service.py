"""The service behind the routes: encoders, batcher, index, and what state they are in."""

from __future__ import annotations

import asyncio
import io
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from miner.decode import Refused
from miner.decode_process import warm_up
from miner.encoders import Encoder, find_record
from miner.errors import MinerError, ResourceError
from miner.records import Json
from miner.registry import EncoderRecord
from miner.store import Store
from pipelines.loading import Encoders
from pipelines.serving.batcher import Batcher
from pipelines.serving.errors import HttpError
from pipelines.serving.index import Index
from pipelines.serving.lanes import Lane
from pipelines.serving.metrics import ServeMetrics
from pipelines.serving.settings import ServeSettings

log = logging.getLogger(__name__)

DEFAULTS = {"clip": "clip-vit-l-14", "dino": "dinov2-vit-l-14"}

ROLES = ("clip", "dino")

READERS = 4
"""Images that are read from their shards at a time, and files of the run."""


class Service:
    """What one process serves.

    Attributes:
        settings: as given.
        metrics: what it counts.
        encoders: by role; empty until loaded.
        index: what is served of a run; None without --index.
        searches: where partners are sought, one search after the other.
        reads: where shards are read; a bucket that hangs holds up nothing else.
        lookups: where the run's own files are read, which may lie in another bucket.
        num_in_flight: requests that are being answered.
        is_draining: whether it was told to stop.
        is_closed: whether it has begun to stop its threads.
        failure: why it could not be started.
    """

    def __init__(self, settings: ServeSettings) -> None:
        self.settings = settings
        self.metrics = ServeMetrics()
        self.encoders: dict[str, Encoder] = {}
        self.num_in_flight = 0
        self.is_draining = self.is_closed = False
        self.failure: Exception | None = None
        self.metrics.in_flight.set_function(lambda: self.num_in_flight)
        self.index: Index | None = None
        self.searches, self.reads = Lane("searches", 1), Lane("reads", READERS)
        self.lookups = Lane("lookups", READERS)
        self._batcher: Batcher | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def load(self) -> None:
        """Load both encoders; takes a while, on any thread."""
        warm_up()
        known: dict[str, EncoderRecord] = {}
        if self.settings.index is not None:
            self.index = Index(Store(self.settings.index), self.settings.name, self._scratch())
            known = self.index.encoder_records()
        names = {"clip": self.settings.clip, "dino": self.settings.dino}
        records = [
            known[role] if name is None and role in known else find_record(name or DEFAULTS[role])
            for role, name in names.items()
        ]
        which = self.settings.embedding(*(record.name for record in records))
        loading = Encoders(which, records=records)
        if self.index is not None:
            self.index.refuse_others([record.encoder_id for record in loading.records])
        for role, record in zip(ROLES, loading.records, strict=True):
            self.encoders[role] = loading.load(record.encoder_id)

    def _scratch(self) -> Path:
        """A folder for mapped vectors, which is removed in the end."""
        parent = self.settings.scratch
        if parent is not None:
            parent.mkdir(parents=True, exist_ok=True)
        self._folder = tempfile.TemporaryDirectory(prefix="blindpairs-serve-", dir=parent)
        return Path(self._folder.name)

    async def start(self) -> None:
        """Take images from now on, the first one ours; called on the event loop.

        Raises:
            MinerError: that one cannot be embedded.
        """
        self._batcher = Batcher(self.encoders, self.settings, self.metrics)
        # So that no client waits for workers that start and memory that is asked for.
        try:
            (answer,) = await asyncio.gather(*self._batcher.submit([_first_image()], ROLES))
        except HttpError as error:
            cause = self._batcher.error
            if isinstance(cause, MinerError):
                raise cause from None
            why = error if cause is None else f"{type(cause).__name__}: {cause}"
            raise _no_start(why) from cause or error
        if isinstance(answer, Refused):
            raise _no_start(f"{answer.reason}: {answer.detail}")

    async def close(self) -> None:
        """Stop all threads and processes; the event loop goes on meanwhile."""
        self.is_closed = True
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        if self._batcher is not None:
            self._batcher.close()
        self.searches.close()
        self.lookups.close()
        # What still reads a shard keeps it open.
        if self.reads.close() and self.index is not None:
            self.index.close()
        if self._folder is not None:
            self._folder.cleanup()

    @property
    def batcher(self) -> Batcher:
        """What embeds.

        Raises:
            HttpError: nothing is loaded yet.
        """
        if self._batcher is None:
            raise HttpError(503, "starting", "the encoders are loading; come again soon")
        return self._batcher

    @property
    def needed_index(self) -> Index:
        """The index.

        Raises:
            HttpError: there is none (404).
        """
        if self.index is None:
            raise HttpError(
                404, "no_index", "no run is served here; start the service with --index DIR"
            )
        return self.index

    @property
    def status(self) -> str:
        """`ok`, `starting`, `draining` or `broken`."""
        if self._batcher is None:
            return "starting"
        if self._batcher.error is not None:
            return "broken"
        return "draining" if self.is_draining or self.is_closed else "ok"

    def roles_of(self, names: Sequence[str] | None, param: str) -> list[str]:
        """The roles that names stand for; None stands for both.

        Raises:
            HttpError: no encoder goes by a name (422).
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
                raise HttpError(
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


def _no_start(why: object) -> ResourceError:
    return ResourceError(
        f"the service's own first image could not be embedded ({why}); see to it and start again, "
        "perhaps with another --device or --decoders"
    )


def _first_image() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), "grey").save(buffer, "PNG")
    return buffer.getvalue()
