"""A batch of decoded images to vectors: each encoder looks at those that ask for it.

Shape suffixes: B images of a batch, C = 3 channels, H, W rows and columns, D width of a vector.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from miner.decode import Found, Refused
from miner.encoders import Encoder
from miner.ring import Ring
from miner.schema import Reason
from pipelines.serving.errors import HttpError
from pipelines.serving.metrics import ServeMetrics

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Embedded:
    """An image's vectors, as `blindpairs embed` would store them.

    Attributes:
        found: what is known of the image.
        vectors: by role, [D] float16 of unit length.
    """

    found: Found
    vectors: dict[str, np.ndarray]


Answer = Embedded | Refused
Future = asyncio.Future[Answer]


@dataclass(eq=False, slots=True)
class Ticket:
    """An image on its way."""

    data: bytes
    roles: frozenset[str]
    future: Future
    asked_s: float
    row: int = -1
    found: Found | None = None
    ready_s: float = field(default=math.inf)


class BatchEncoding:
    """Encodes batches out of the rows of a ring.

    Args:
        encoders: by role, all on one device.
        ring: where the pixels are, all in its first slot.
        metrics: where batches are counted.
    """

    def __init__(self, encoders: Mapping[str, Encoder], ring: Ring, metrics: ServeMetrics) -> None:
        self.encoders, self._ring, self._metrics = encoders, ring, metrics
        (self._device,) = {encoder.device for encoder in encoders.values()}

    def encode(self, tickets: Sequence[Ticket]) -> list[Answer | HttpError]:
        """Each image's vectors, or why it has none.

        Where a batch fails, each of its images is tried alone, so that one fails only itself.
        """
        self._metrics.batch_images.observe(len(tickets))
        try:
            return self._encode(tickets)
        except Exception:
            log.exception("a batch of %d images could not be encoded", len(tickets))
        answers: list[Answer | HttpError] = [_failed()]
        if len(tickets) > 1:
            answers = [self._alone(ticket) for ticket in tickets]
        num_failed = sum(isinstance(each, HttpError) for each in answers)
        log.error("of these, %d of %d could not be encoded alone", num_failed, len(tickets))
        return answers

    def _alone(self, ticket: Ticket) -> Answer | HttpError:
        try:
            return self._encode([ticket])[0]
        except Exception as error:
            # The traceback of its batch is in the log; this one may have failed at something else.
            log.error("an image could not be encoded alone: %r", error)
            return _failed()

    def _encode(self, tickets: Sequence[Ticket]) -> list[Answer | HttpError]:
        found: list[dict[str, np.ndarray]] = [{} for _ in tickets]
        for role, encoder in self.encoders.items():
            places = [n for n, ticket in enumerate(tickets) if role in ticket.roles]
            if not places:
                continue
            start_s = time.perf_counter()
            vectors_BD = self._vectors(encoder, [tickets[n].row for n in places])
            self._metrics.encode_s.labels(role).inc(time.perf_counter() - start_s)
            for n, vector_D in zip(places, vectors_BD, strict=True):
                found[n][role] = vector_D
        return [_answer(ticket, each) for ticket, each in zip(tickets, found, strict=True)]

    def _vectors(self, encoder: Encoder, rows: list[int]) -> np.ndarray:
        """[B, D] float32."""
        crop = self._ring.crops.index(encoder.record.crop)
        pixels_BCHW = self._ring.pixels(0, crop)[torch.tensor(rows)]
        vectors_BD: np.ndarray = encoder(pixels_BCHW.to(self._device)).cpu().numpy()
        return vectors_BD


def _failed() -> HttpError:
    return HttpError(500, "encoding_failed", "the encoder failed at this image; the log says why")


def _answer(ticket: Ticket, vectors: dict[str, np.ndarray]) -> Answer:
    assert ticket.found is not None
    for role, vector_D in vectors.items():
        if not np.isfinite(vector_D).all() or not vector_D.any():
            return Refused(Reason.NONFINITE, f"{role} gave a vector that is not finite")
    # As it would be stored, so that a search finds for an upload what a join finds for its image.
    stored = {role: vector_D.astype(np.float16) for role, vector_D in vectors.items()}
    return Embedded(ticket.found, stored)
