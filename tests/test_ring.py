import multiprocessing
from multiprocessing.connection import Connection

import pytest
import torch

from miner.crops import CropSpec
from miner.decode_process import warm_up
from miner.errors import ResourceError
from miner.ring import Ring

SMALL = CropSpec(mode="shortest", resize_to=8, size=8)
LARGE = CropSpec(mode="squash", resize_to=30, size=30)


def make_ring() -> Ring:
    return Ring([SMALL, LARGE], batch_size=3, num_slots=2)


def fill(ring: Ring, done: Connection) -> None:
    """In another process: every place gets a number of its own."""
    for crop in range(2):
        for slot in range(2):
            for row in range(3):
                ring.pixels(slot, crop)[row] = 1 + row + 3 * slot + 6 * crop
    done.send("filled")


def test_places_share_no_byte() -> None:
    ring = make_ring()
    for crop, size in enumerate((8, 30)):
        for slot in range(2):
            pixels_BCHW = ring.pixels(slot, crop)
            assert (pixels_BCHW.shape, pixels_BCHW.dtype) == ((3, 3, size, size), torch.uint8)
            assert pixels_BCHW.is_contiguous()
            assert not pixels_BCHW.any()
            pixels_BCHW.fill_(1 + slot + 2 * crop)
    for crop in range(2):
        for slot in range(2):
            assert (ring.pixels(slot, crop) == 1 + slot + 2 * crop).all()
    ring.close()


def test_another_process_writes_what_this_one_reads() -> None:
    warm_up()
    context = multiprocessing.get_context("forkserver")
    ring = make_ring()
    ours, theirs = context.Pipe()
    process = context.Process(target=fill, args=(ring, theirs))
    process.start()
    assert ours.recv() == "filled"
    process.join()
    for crop in range(2):
        for slot in range(2):
            for row in range(3):
                assert (ring.pixels(slot, crop)[row] == 1 + row + 3 * slot + 6 * crop).all()
    ring.close()


def test_pixels_outlive_the_ring() -> None:
    ring = make_ring()
    pixels_BCHW = ring.pixels(1, 1)
    pixels_BCHW.fill_(7)
    ring.close()
    del ring
    assert (pixels_BCHW == 7).all()


class _Refusing:
    """A CUDA runtime that locks no memory."""

    def cudaHostRegister(self, *_: object) -> int:
        return 2


def test_memory_that_cannot_be_pinned_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    ring = make_ring()
    monkeypatch.setattr(torch.cuda, "cudart", _Refusing)
    with pytest.raises(ResourceError, match=r"bytes of pixels cannot be pinned .*CUDA error 2"):
        ring.pin()
    ring.close()


@pytest.mark.gpu
def test_pinned_memory_is_known_to_torch() -> None:
    ring = make_ring()
    ring.pin()
    ring.pixels(0, 0).fill_(9)
    assert ring.pixels(0, 0).is_pinned()
    assert (ring.pixels(0, 0).to("cuda", non_blocking=True).cpu() == 9).all()
    ring.close()
