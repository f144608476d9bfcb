"""What a decode worker does: the bytes of some images to their crops, in their places in a ring.

This file and what it imports is all that a worker process loads.
"""

from __future__ import annotations

import hashlib
import signal
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import NamedTuple

import torch

from miner import crops, images, phash
from miner.arena import Arena
from miner.config import ImageLimits
from miner.crops import CropSpec
from miner.errors import ImageError
from miner.phash import PHASH_CROP
from miner.ring import Ring
from miner.schema import Reason


class Job(NamedTuple):
    """An image's bytes, and its row in the slot of its order."""

    row: int
    data: bytes


class Order(NamedTuple):
    """Some images of one batch, for one worker."""

    slot: int
    jobs: tuple[Job, ...]
    crops: tuple[int, ...]
    """Which of the ring's crops are wanted."""
    with_phash: bool
    is_second_try: bool = False
    """It is one image, and a worker that had it died."""
    is_slow: bool = False
    """No other order waits behind it, where that can be helped."""

    @property
    def num_bytes(self) -> int:
        """Of its images together."""
        return sum(len(job.data) for job in self.jobs)


class Parcel(NamedTuple):
    """An order as it is sent to a worker process."""

    order: Order
    place: int | None = None
    """Where its images lie in the worker's arena; None where the jobs have them."""
    lengths: tuple[int, ...] = ()
    """Of these images, in bytes."""

    def unpacked(self, arena: Arena) -> Order:
        """The order with its images, which are its own."""
        if self.place is None:
            return self.order
        images = arena.take(self.place, self.lengths)
        pairs = zip(self.order.jobs, images, strict=True)
        return self.order._replace(jobs=tuple(job._replace(data=data) for job, data in pairs))


class Found(NamedTuple):
    """What is known of an image whose crops are in the ring."""

    sha256: str
    phash: int | None
    """None where it is not wanted."""
    width: int
    height: int
    format: str
    exif_orientation: int | None


class Refused(NamedTuple):
    """Why an image has no crops."""

    reason: Reason
    detail: str


Outcome = Found | Refused


class Reply(NamedTuple):
    """What became of an order's images, in their order, and what that took."""

    outcomes: list[Outcome]
    elapsed_s: float
    core_s: float


Decode = Callable[[Order, Ring, ImageLimits], list[Outcome]]


def decode_order(order: Order, ring: Ring, limits: ImageLimits) -> list[Outcome]:
    """Decode the images of an order into the ring."""
    slots = {ring.crops[crop]: ring.pixels(order.slot, crop) for crop in order.crops}
    to_hash: list[torch.Tensor] = []
    outcomes: list[Outcome] = []
    for job in order.jobs:
        places = {crop: pixels_BCHW[job.row] for crop, pixels_BCHW in slots.items()}
        if order.with_phash and PHASH_CROP not in places:
            places[PHASH_CROP] = torch.empty(
                (3, PHASH_CROP.size, PHASH_CROP.size), dtype=torch.uint8
            )
        outcome = _decode(job.data, places, limits)
        outcomes.append(outcome)
        if order.with_phash and isinstance(outcome, Found):
            to_hash.append(places[PHASH_CROP])
    if not to_hash:
        return outcomes
    phashes = iter(phash.hashes(to_hash))
    return [
        outcome._replace(phash=next(phashes)) if isinstance(outcome, Found) else outcome
        for outcome in outcomes
    ]


def answer(order: Order, ring: Ring, limits: ImageLimits, decode: Decode) -> Reply:
    """Decode, and say how long it took."""
    start_s, start_core_s = time.perf_counter(), time.thread_time()
    outcomes = decode(order, ring, limits)
    return Reply(outcomes, time.perf_counter() - start_s, time.thread_time() - start_core_s)


def serve(
    parcels: Connection,
    replies: Connection,
    arena: Arena,
    ring: Ring,
    limits: ImageLimits,
    decode: Decode,
) -> None:
    """Be a decode worker: answer orders until nobody is at the other end any more.

    Args:
        parcels: what comes in.
        replies: what goes out; a first None says that the worker is ready.
        arena: where the images are.
        ring: where the crops go.
        limits: what an image may be.
        decode: `decode_order`.
    """
    # An interrupt goes to every process of a terminal; the one that gives orders decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    with suppress(EOFError, ConnectionError):
        replies.send(None)
        while True:
            replies.send(_reply(parcels.recv(), arena, ring, limits, decode))


def _reply(
    parcel: Parcel, arena: Arena, ring: Ring, limits: ImageLimits, decode: Decode
) -> Reply | Exception:
    try:
        return answer(parcel.unpacked(arena), ring, limits, decode)
    except Exception as error:
        # Whatever an image may do is an outcome; this is a mistake of ours and stops the run.
        error.add_note(traceback.format_exc())
        return error


def _decode(data: bytes, places: Mapping[CropSpec, torch.Tensor], limits: ImageLimits) -> Outcome:
    """One image, cut to where each crop [3, S, S] belongs; its perceptual hash is still missing."""
    try:
        decoded = images.decode(data, limits)
    except ImageError as error:
        return Refused(error.reason, error.detail)
    for crop, place_CHW in places.items():
        crops.cut(decoded.pixels_HWC, crop, out_CHW=place_CHW)
    return Found(
        sha256=hashlib.sha256(data).hexdigest(),
        phash=None,
        width=decoded.width,
        height=decoded.height,
        format=decoded.format,
        exif_orientation=decoded.exif_orientation,
    )
