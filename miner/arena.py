"""Undecoded images on their way to a worker process: memory that both sides see.

Through a pipe their bytes would be copied five times; here they are copied in and out. Like the
ring, the memory has no name, so that nothing is left of it when a process is killed. Each worker
process has an arena of its own, whose places are given out on this side: one that dies takes no
place with it.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from multiprocessing import reduction
from typing import Any

PLACE_BYTES = 2**21
"""Room for the images of one order."""


class Arena:
    """Places for images, some to a place, one behind the other; whoever puts knows what is free.

    Attributes:
        num_places: how many there are.
    """

    def __init__(self, num_places: int) -> None:
        descriptor = os.memfd_create("images")
        os.ftruncate(descriptor, num_places * PLACE_BYTES)
        self._map(descriptor, num_places, mmap.PROT_READ | mmap.PROT_WRITE)

    def _map(self, descriptor: int, num_places: int, access: int) -> None:
        self.num_places = num_places
        self._descriptor = descriptor
        self._memory = mmap.mmap(descriptor, num_places * PLACE_BYTES, prot=access)

    def put(self, place: int, images: Sequence[bytes]) -> tuple[int, ...]:
        """Write images to a place; returns the length of each.

        Raises:
            ValueError: they do not fit.
        """
        lengths = tuple(map(len, images))
        if sum(lengths) > PLACE_BYTES:
            raise ValueError(
                f"images of {sum(lengths)} bytes, and a place has {PLACE_BYTES}; send them"
            )
        at = place * PLACE_BYTES
        for data in images:
            self._memory[at : at + len(data)] = data
            at += len(data)
        return lengths

    def take(self, place: int, lengths: Sequence[int]) -> list[bytes]:
        """The images of a place, copied: it may be written to again."""
        images, at = [], place * PLACE_BYTES
        for length in lengths:
            images.append(self._memory[at : at + length])
            at += length
        return images

    def close(self) -> None:
        """Give the memory back."""
        self._memory.close()
        os.close(self._descriptor)

    def __getstate__(self) -> dict[str, Any]:
        """What a worker process is given while it is started."""
        return {"descriptor": reduction.DupFd(self._descriptor), "num_places": self.num_places}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # A decoder gone wrong reaches no bytes that are still to be decoded.
        self._map(state["descriptor"].detach(), state["num_places"], mmap.PROT_READ)
