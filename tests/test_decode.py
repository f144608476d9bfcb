import hashlib
import multiprocessing
import os
import signal
import threading
from multiprocessing.connection import Connection

import pytest
import torch

from miner import crops, images
from miner.arena import Arena
from miner.config import ImageLimits
from miner.crops import CropSpec
from miner.decode import Found, Job, Order, Parcel, Refused, Reply, answer, decode_order, serve
from miner.decode_process import warm_up
from miner.phash import PHASH_CROP, perceptual_hash
from miner.ring import Ring
from miner.schema import Reason
from tests.dying import telling
from tests.small import jpeg

SMALL = CropSpec(mode="shortest", resize_to=40, size=32)
LIMITS = ImageLimits()


def crop_of(seed: int, crop: CropSpec) -> torch.Tensor:
    return crops.cut(images.decode(jpeg(seed), LIMITS).pixels_HWC, crop)


@pytest.fixture
def ring() -> Ring:
    return Ring([SMALL, PHASH_CROP], batch_size=3, num_slots=2)


def test_crops_lie_in_their_places(ring: Ring) -> None:
    jobs = (Job(2, jpeg(1)), Job(0, b"<html>no</html>"), Job(1, jpeg(2)))
    outcomes = decode_order(Order(1, jobs, (0, 1), True), ring, LIMITS)
    first, refused, second = outcomes
    assert isinstance(refused, Refused)
    assert refused.reason is Reason.FORMAT_NOT_ALLOWED
    for found, row, seed in ((first, 2, 1), (second, 1, 2)):
        assert found == Found(
            sha256=hashlib.sha256(jpeg(seed)).hexdigest(),
            phash=perceptual_hash(crop_of(seed, PHASH_CROP)),
            width=96,
            height=80,
            format="JPEG",
            exif_orientation=None,
        )
        assert torch.equal(ring.pixels(1, 0)[row], crop_of(seed, SMALL))
        assert torch.equal(ring.pixels(1, 1)[row], crop_of(seed, PHASH_CROP))
    assert not ring.pixels(0, 0).any()
    assert not ring.pixels(1, 0)[0].any()


def test_only_what_is_wanted_is_cut_and_hashed(ring: Ring) -> None:
    (found,) = decode_order(Order(0, (Job(0, jpeg(1)),), (0,), False), ring, LIMITS)
    assert isinstance(found, Found)
    assert found.phash is None
    assert not ring.pixels(0, 1).any()


def test_hash_needs_no_crop_in_the_ring() -> None:
    ring = Ring([SMALL], batch_size=1, num_slots=1)
    (found,) = decode_order(Order(0, (Job(0, jpeg(1)),), (0,), True), ring, LIMITS)
    assert isinstance(found, Found)
    assert found.phash == perceptual_hash(crop_of(1, PHASH_CROP))


def test_reply_says_how_long_it_took(ring: Ring) -> None:
    reply = answer(Order(0, (Job(0, jpeg(1)),), (0,), True), ring, LIMITS, decode_order)
    assert reply.elapsed_s > 0
    assert reply.core_s > 0
    assert len(reply.outcomes) == 1


def serving(
    ring: Ring, arena: Arena
) -> tuple[Connection, Connection, multiprocessing.context.ForkServerProcess]:
    warm_up()
    context = multiprocessing.get_context("forkserver")
    theirs, parcels = context.Pipe(duplex=False)
    replies, their_replies = context.Pipe(duplex=False)
    process = context.Process(
        target=serve, args=(theirs, their_replies, arena, ring, LIMITS, telling)
    )
    process.start()
    theirs.close()
    their_replies.close()
    assert replies.recv() is None
    return parcels, replies, process


def test_worker_process_answers_until_the_connection_ends(ring: Ring) -> None:
    arena = Arena(1)
    parcels, replies, process = serving(ring, arena)
    parcels.send(Parcel(Order(1, (Job(0, b""),), (0,), True)))
    error = replies.recv()
    assert isinstance(error, RuntimeError)
    assert "in telling" in error.__notes__[0]
    # An interrupt is for who gives the orders; a mistake ends nothing here.
    assert process.pid is not None
    os.kill(process.pid, signal.SIGINT)
    parcels.send(Parcel(Order(0, (Job(0, b""),), (0,), True)))
    reply = replies.recv()
    assert isinstance(reply, Reply)
    assert reply.outcomes == [Refused(Reason.EMPTY, "1 thread")]
    parcels.close()
    process.join(10)
    assert process.exitcode == 0
    arena.close()


def test_parcel_gives_each_job_its_bytes() -> None:
    arena = Arena(2)
    order = Order(3, (Job(7, b""), Job(2, b""), Job(5, b"")), (0,), True)
    lengths = arena.put(1, [b"first", b"", b"third"])
    images = (Job(7, b"first"), Job(2, b""), Job(5, b"third"))
    assert Parcel(order, 1, lengths).unpacked(arena) == order._replace(jobs=images)
    travelling = order._replace(jobs=images)
    assert Parcel(travelling).unpacked(arena) == travelling
    arena.close()


def test_threads_may_decode_side_by_side(ring: Ring) -> None:
    def work(slot: int, seed: int) -> None:
        for _ in range(20):
            order = Order(slot, tuple(Job(row, jpeg(seed + row)) for row in range(3)), (0,), True)
            decode_order(order, ring, LIMITS)

    threads = [threading.Thread(target=work, args=(slot, 10 * slot)) for slot in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for slot in range(2):
        for row in range(3):
            assert torch.equal(ring.pixels(slot, 0)[row], crop_of(10 * slot + row, SMALL))
