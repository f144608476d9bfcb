"""Which process holds something, and whether it is seen to be dead from here (Linux)."""

from __future__ import annotations

import os
from pathlib import Path

PROC = Path("/proc")


def this_process() -> str:
    """A name that no other process of any machine has, without spaces."""
    return f"{_place()}:{os.getpid()}:{_started(os.getpid())}"


def is_dead(name: str) -> bool:
    """Whether a process, by its name, ran here and runs no more; False where nobody can say."""
    place, _, process = name.rpartition(":")[0].rpartition(":")
    started = name.rpartition(":")[2]
    return place == _place() and process.isdigit() and _started(int(process)) != started


def _place() -> str:
    """Where process numbers are each given once: a machine since it was started, a container."""
    boot_id = (PROC / "sys/kernel/random/boot_id").read_text("utf-8").strip()
    return f"{boot_id}:{os.readlink(PROC / 'self/ns/pid')}"


def _started(process: int) -> str:
    """When a process began, in ticks since the machine did; empty where there is none."""
    try:
        stat = (PROC / str(process) / "stat").read_text("utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return ""
    # Behind the command's name, which may hold anything: fields 3 (state) and on.
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] in "ZX" else fields[19]
