"""The whole corpus as shards in a folder, and how much memory a command takes over it."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from miner.schema import Reason
from tests.hostile.files import END as IEND
from tests.hostile.files import ihdr, png
from tests.hostile.images import IMAGES, HostileImage
from tests.hostile.shards import SHARDS
from tests.small import jpeg, write_tar
from tests.tars import END, member

NUM_EMPTY = 100_000
"""Members without contents in one shard."""

GOOD_EVERY = 4
"""So many bad images, then a good one."""

IMAGES_PER_SHARD = 40


def write_hostile(folder: Path) -> None:
    """Every bad image between good ones, every bad shard, and what is large."""
    for first, images in _parts():
        members = [
            member
            for at, image in enumerate(images, first)
            for member in (*_good(at), (f"{image.name}.jpg", image.data))
        ]
        write_tar(folder / f"images-{first:03d}.tar", members)
    for shard in SHARDS:
        (folder / f"{shard.name}.tar").write_bytes(shard.tar)
        if shard.sidecar is not None:
            (folder / f"{shard.name}.parquet").write_bytes(shard.sidecar)
    (folder / "empty-members.tar").write_bytes(empty_members(NUM_EMPTY))


def write_clean(folder: Path) -> None:
    """The good images alone."""
    for first, images in _parts():
        members = [member for at in range(first, first + len(images)) for member in _good(at)]
        write_tar(folder / f"images-{first:03d}.tar", members)


def _parts() -> Iterator[tuple[int, list[HostileImage]]]:
    """The bad images of each shard, and the number of the first one."""
    images = [*IMAGES, *large_images()]
    for first in range(0, len(images), IMAGES_PER_SHARD):
        yield first, images[first : first + IMAGES_PER_SHARD]


def _good(at: int) -> list[tuple[str, bytes]]:
    """The good image in front of a bad one, if there is one."""
    return [(f"good{at}.jpg", jpeg(at))] if at % GOOD_EVERY == 0 else []


@cache
def large_images() -> list[HostileImage]:
    """As many pixels as are allowed, in few bytes, in the ways that take the most memory."""
    palette = (b"PLTE", b"\x80" * 3), (b"tRNS", b"\x80")
    cases = {
        "rgba": (ihdr(10_000, 10_000, 8, 6), _zeros(10_000 * 40_001)),
        "palette": (ihdr(10_000, 10_000, 8, 3), *palette, _zeros(10_000 * 10_001)),
    }
    why = "100 million pixels, which is the limit"
    found = [
        HostileImage(name=f"large-{name}", data=png(*chunks, IEND), outcome="PNG", why=why)
        for name, chunks in cases.items()
    ]
    found.append(HostileImage(name="large-webp", data=LARGE_WEBP, outcome="WEBP", why=why))
    return found


LARGE_WEBP = bytes.fromhex("524946461a000000574542505650384c0e0000002f0fe7c309071011fd0f4444ff03")
"""10,000 x 10,000 black pixels without loss."""


def _zeros(num_bytes: int) -> tuple[bytes, bytes]:
    packer, piece = zlib.compressobj(1), bytes(10**6)
    packed = [packer.compress(piece) for _ in range(num_bytes // len(piece))]
    packed += [packer.compress(bytes(num_bytes % len(piece))), packer.flush()]
    return b"IDAT", b"".join(packed)


def empty_members(number: int) -> bytes:
    """Texts without contents and without images, each with a key of its own."""
    blocks = np.tile(np.frombuffer(member("0000000.txt"), np.uint8), (number, 1))
    for digit in range(7):
        blocks[:, digit] = 48 + np.arange(number) // 10 ** (6 - digit) % 10
    blocks[:, 148:156] = 32
    sums = blocks.sum(axis=1, dtype=np.int64)
    for digit in range(6):
        blocks[:, 148 + digit] = 48 + (sums >> 3 * (5 - digit)) % 8
    blocks[:, 154] = 0
    return blocks.tobytes() + END


def outcomes() -> dict[str, Reason | str]:
    """Of each bad image by its key."""
    return {image.name: image.outcome for image in [*IMAGES, *large_images()]}


@dataclass(frozen=True, kw_only=True)
class Watched:
    """A command that was watched from outside.

    Attributes:
        code: its exit code.
        out: what it printed.
        err: what it complained of.
        elapsed_s: wall time.
        main_bytes: the most memory that its own process held.
        other_bytes: the most that any process below it held.
    """

    code: int
    out: str
    err: str
    elapsed_s: float
    main_bytes: int
    other_bytes: int


def watch(*words: object, limit_s: float) -> Watched:
    """Run `blindpairs` in a process of its own, and look at the memory of all of them."""
    command = [sys.executable, "-m", "pipelines.cli", *map(str, words)]
    start_s = time.monotonic()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        peaks: dict[int, int] = {}
        over = threading.Event()
        watcher = threading.Thread(target=_watch, args=(process.pid, peaks, over))
        watcher.start()
        try:
            out, err = process.communicate(timeout=limit_s)
        finally:
            process.kill()
            over.set()
            watcher.join()
    main_bytes = peaks.pop(process.pid)
    return Watched(
        code=process.returncode,
        out=out,
        err=err,
        elapsed_s=time.monotonic() - start_s,
        main_bytes=main_bytes,
        other_bytes=max(peaks.values()),
    )


def _watch(root: int, peaks: dict[int, int], over: threading.Event) -> None:
    """Note the high-water mark of a process and of all below it, until it is over."""
    while not over.wait(0.02):
        found = [root]
        for pid in found:
            found += _children(pid)
            peaks[pid] = max(peaks.get(pid, 0), _high_water(pid))


def _children(pid: int) -> list[int]:
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        texts = [(task / "children").read_text() for task in tasks]
    except OSError:
        # It ended in between.
        return []
    return [int(word) for text in texts for word in text.split()]


def _high_water(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    match = re.search(r"VmHWM:\s+(\d+) kB", text)
    return int(match[1]) * 1024 if match else 0
