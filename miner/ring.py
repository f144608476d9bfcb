"""Pixels on their way from the decoders to the encoders: a few batches' worth of memory, reused.

The memory belongs to no file and no name, so that nothing is left of it when a process is killed;
worker processes get it by its descriptor. Where a GPU reads it, it is pinned.

Shape suffixes: B images of a batch, C = 3 channels, H rows, W columns.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from multiprocessing import reduction
from typing import Any

import numpy as np
import torch

from miner.crops import CropSpec
from miner.errors import ResourceError

PAGE_BYTES = 4096


class Ring:
    """Slots for batches; each has room for every crop of `batch_size` images.

    Attributes:
        crops: the crops of an image, in the order by which workers are told which to cut.
        batch_size: images to a slot.
        num_slots: how many there are.
    """

    def __init__(self, crops: Sequence[CropSpec], *, batch_size: int, num_slots: int) -> None:
        self._make(os.memfd_create("pixels"), tuple(crops), batch_size, num_slots)
        self._is_pinned = False

    def _make(
        self, descriptor: int, crops: tuple[CropSpec, ...], batch_size: int, num_slots: int
    ) -> None:
        self.crops, self.batch_size, self.num_slots = crops, batch_size, num_slots
        self._descriptor = descriptor
        shapes = [(num_slots, batch_size, 3, crop.size, crop.size) for crop in crops]
        sizes = [-(-int(np.prod(shape)) // PAGE_BYTES) * PAGE_BYTES for shape in shapes]
        self.num_bytes = max(sum(sizes), PAGE_BYTES)
        os.ftruncate(descriptor, self.num_bytes)
        memory = np.frombuffer(mmap.mmap(descriptor, self.num_bytes), np.uint8)
        self._whole = torch.from_numpy(memory)
        starts = np.cumsum([0, *sizes])
        self._pixels_BCHW: list[list[torch.Tensor]] = [
            list(self._whole[start : start + int(np.prod(shape))].view(shape))
            for start, shape in zip(starts, shapes, strict=False)
        ]

    def pixels(self, slot: int, crop: int) -> torch.Tensor:
        """[B, 3, S, S] uint8: one crop of every image in a slot."""
        return self._pixels_BCHW[crop][slot]

    def pin(self) -> None:
        """Lock the memory, so that a GPU may copy from it while the CPU goes on.

        Raises:
            ResourceError: the system does not allow so much locked memory.
        """
        cudart: Any = torch.cuda.cudart
        code = int(cudart().cudaHostRegister(self._whole.data_ptr(), self.num_bytes, 0))
        if code != 0:
            raise ResourceError(
                f"{self.num_bytes} bytes of pixels cannot be pinned for the GPU (CUDA error "
                f"{code}); give a smaller --batch-size, or raise the limit of locked memory "
                "(ulimit -l)"
            )
        self._is_pinned = True

    def close(self) -> None:
        """Give the memory back once nobody looks at it any more."""
        if self._is_pinned:
            cudart: Any = torch.cuda.cudart
            cudart().cudaHostUnregister(self._whole.data_ptr())
            self._is_pinned = False
        os.close(self._descriptor)

    def __getstate__(self) -> dict[str, Any]:
        """What a worker process is given while it is started."""
        return {
            "descriptor": reduction.DupFd(self._descriptor),
            "crops": self.crops,
            "batch_size": self.batch_size,
            "num_slots": self.num_slots,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._make(
            state["descriptor"].detach(), state["crops"], state["batch_size"], state["num_slots"]
        )
        self._is_pinned = False
