"""What decode workers do in tests instead of decoding; light, since every worker imports it."""

import os
import signal
import time
from pathlib import Path

import torch

from miner.config import ImageLimits
from miner.decode import Order, Outcome, Refused, decode_order
from miner.ring import Ring
from miner.schema import Reason

KILLS, KILLS_ONCE = b"kills", b"kills once:"
"""Beginnings of bytes that end a worker; the second's rest is a file that tells it has been."""

MURDERS, HANGS = b"SIGNAL", b"hangs"
"""Bytes at which somebody kills the worker, with the signal whose number follows; or that are
never decoded to their end."""


def dying(order: Order, ring: Ring, limits: ImageLimits) -> list[Outcome]:
    """Decodes as ever, but some bytes end the process, as a fault in C would."""
    for job in order.jobs:
        if job.data.startswith(KILLS_ONCE):
            path = Path(job.data.removeprefix(KILLS_ONCE).decode())
            if not path.exists():
                path.touch()
                os.kill(os.getpid(), signal.SIGSEGV)
        elif job.data.startswith(KILLS):
            os.kill(os.getpid(), signal.SIGSEGV)
        elif job.data.startswith(MURDERS):
            os.kill(os.getpid(), int(job.data.removeprefix(MURDERS)))
        elif job.data == HANGS:
            time.sleep(600)
    return decode_order(order, ring, limits)


def leaving(order: Order, ring: Ring, limits: ImageLimits) -> list[Outcome]:
    """Ends the process by itself."""
    os._exit(3)


def mistaken(order: Order, ring: Ring, limits: ImageLimits) -> list[Outcome]:
    """Raises what no image is to blame for."""
    raise RuntimeError("a mistake of ours")


def telling(order: Order, ring: Ring, limits: ImageLimits) -> list[Outcome]:
    """Says how many threads a worker has; for slot 1 it raises."""
    if order.slot == 1:
        raise RuntimeError("a mistake of ours")
    return [Refused(Reason.EMPTY, f"{torch.get_num_threads()} thread")]
