"""The peak memory of a call, above what the process held when it began.

Linux keeps the peak of a process's resident memory and sets it back on request, so the peak is the
kernel's own and not a sample. Memory that libraries freed but kept is handed back before a call, so
that it is not mistaken for what the caller holds.
"""

from __future__ import annotations

import ctypes
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import torch

Result = TypeVar("Result")

CLEAR, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured(Generic[Result]):
    """What a call gave and cost.

    Attributes:
        result: what it returned.
        elapsed_s: wall time.
        peak_bytes: memory above the beginning's; None where the system does not tell.
    """

    result: Result
    elapsed_s: float
    peak_bytes: int | None


def measure(call: Callable[[], Result], device: str = "cpu") -> Measured[Result]:
    """Run a call once.

    Args:
        call: what to measure.
        device: for `cuda` the memory is what torch allocates there, and the time ends when the
            device is done.
    """
    if torch.device(device).type == "cuda":
        return _on_gpu(call, device)
    held = _reset_peak()
    began = time.perf_counter()
    result = call()
    elapsed_s = time.perf_counter() - began
    peak = None if held is None else max(0, _status_bytes("VmHWM") - held)
    return Measured(result=result, elapsed_s=elapsed_s, peak_bytes=peak)


def _on_gpu(call: Callable[[], Result], device: str) -> Measured[Result]:
    torch.cuda.empty_cache()
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    held = torch.cuda.memory_allocated(device)
    began = time.perf_counter()
    result = call()
    torch.cuda.synchronize(device)
    elapsed_s = time.perf_counter() - began
    peak = torch.cuda.max_memory_allocated(device) - held
    return Measured(result=result, elapsed_s=elapsed_s, peak_bytes=peak)


def _reset_peak() -> int | None:
    """Set the peak back to what is held now, and return that; None where that is not possible."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
        trim(0)
        CLEAR.write_text("5")
    except (OSError, AttributeError):
        return None
    return _status_bytes("VmRSS")


def _status_bytes(name: str) -> int:
    (kilobytes,) = re.findall(rf"^{name}:\s+(\d+) kB", STATUS.read_text("ascii"), re.MULTILINE)
    return int(kilobytes) * 1024
