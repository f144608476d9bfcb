"""Who is at work on a run in a bucket, where no operating system's locks reach.

A lease is a small object below `.leases/` that its holder writes anew every few seconds. It counts
as long as it is not older than `LEASE_S` by the storage's own clock, and its holder is not seen to
be dead on this very machine. What follows from that:

    writing, alone   each side puts its own lease first and looks for the other's then, so at least
                     one of the two sees the other. What a writer wrote is removed only after its
                     lease has ended
    lock             one holder at a time, as long as none is stopped for longer than LEASE_S. If
                     one is, a join's tables may be written by two, which is noticed: their record
                     goes first, comes back last, and names the hash of each
    check            a writer that was stopped for so long that others may have taken it for dead
                     commits nothing more
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from miner.errors import MinerError, StoreError
from miner.files import Files
from miner.holders import is_dead, this_process
from miner.records import new_attempt

log = logging.getLogger(__name__)

LEASE_S = 120.0
"""A lease that was not refreshed for so long is its holder's no more, in seconds."""

REFRESHES = 12
"""How often a lease is refreshed in that time."""

POLL_S = 0.5
"""How often those who wait look again, in seconds."""

FOLDER = ".leases"


class LeaseLocks:
    """Locks by leases; see `miner.locks.Locks`."""

    def __init__(self, files: Files, lease_s: float = LEASE_S) -> None:
        """Take a run's files.

        Args:
            files: the storage.
            lease_s: how long a lease lasts without being refreshed, in seconds.
        """
        self._files, self._lease_s = files, lease_s
        self._mutex = threading.Lock()
        self._num_writing = 0
        self._writer = ExitStack()
        self._lease: _Lease | None = None

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """See `Locks`."""
        lease = _Lease(self._files, f"{FOLDER}/locks/{name}", self._lease_s)
        while not lease.take(None):
            stale = self._ended("locks").get(lease.path)
            if stale is None or not lease.take(stale):
                time.sleep(POLL_S)
            else:
                break
        with lease.kept():
            yield

    @contextmanager
    def writing(self) -> Iterator[None]:
        """See `Locks`; the threads of a process share a lease."""
        with self._mutex:
            if self._num_writing == 0:
                with ExitStack() as stack:
                    lease = stack.enter_context(self._own("writers"))
                    while self._living("sweepers"):
                        time.sleep(POLL_S)
                    self._writer, self._lease = stack.pop_all(), lease
            self._num_writing += 1
        try:
            yield
        finally:
            with self._mutex:
                self._num_writing -= 1
                if self._num_writing == 0:
                    self._lease = None
                    self._writer.close()

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """See `Locks`."""
        with self._own("sweepers") as own:
            self._sweep_clock()
            yield not self._living("sweepers", but=own.path) and not self._living("writers")

    def is_written(self) -> bool:
        """See `Locks`."""
        return bool(self._living("writers"))

    def check(self) -> None:
        """See `Locks`.

        Raises:
            StoreError: the lease of this process was not refreshed in time.
        """
        lease = self._lease
        if lease is not None and (gap_s := lease.longest_gap_s()) > self._lease_s / 2:
            raise StoreError(
                f"{self._files.address}: this process was stopped, or cut off, for {gap_s:.0f} s "
                f"(limit {self._lease_s / 2:.0f} s), and others may have removed what it wrote; "
                "run the same command again"
            )

    @contextmanager
    def _own(self, kind: str) -> Iterator[_Lease]:
        lease = _Lease(self._files, f"{FOLDER}/{kind}/{new_attempt()}", self._lease_s)
        lease.take(None)
        with lease.kept():
            yield lease

    def _living(self, kind: str, but: str = "") -> set[str]:
        """The leases of a kind, but one, whose holders live; the others' are removed."""
        ended = self._ended(kind).keys() - {but}
        for path in ended:
            self._files.delete(path)
        there = {entry.path for entry in self._files.below(f"{FOLDER}/{kind}")}
        return there - ended - {but}

    def _ended(self, kind: str) -> dict[str, bytes]:
        """What stands in the leases of a kind that count no more, by path."""
        entries = self._files.below(f"{FOLDER}/{kind}")
        now = self._now() if entries else 0.0
        ended = {}
        for entry in entries:
            try:
                text = self._files.read(entry.path)
            except FileNotFoundError:
                continue
            holder = text.decode().partition(" ")[0]
            if now - entry.modified > self._lease_s or is_dead(holder):
                ended[entry.path] = text
        return ended

    def _now(self) -> float:
        """What the storage's clock says."""
        path = f"{FOLDER}/clock/{new_attempt()}"
        self._files.write(path, b"")
        (entry,) = (e for e in self._files.below(f"{FOLDER}/clock") if e.path == path)
        self._files.delete(path)
        return entry.modified

    def _sweep_clock(self) -> None:
        """Remove what processes left that were killed while they looked at the clock."""
        if entries := self._files.below(f"{FOLDER}/clock"):
            now = self._now()
            for entry in entries:
                if now - entry.modified > self._lease_s:
                    self._files.delete(entry.path)


class _Lease:
    """One lease, refreshed by a thread of its own."""

    def __init__(self, files: Files, path: str, lease_s: float) -> None:
        self._files, self.path, self._lease_s = files, path, lease_s
        self._name = f"{this_process()} {new_attempt()}"
        self._refreshed_s = _clock_s()
        self._gap_s = 0.0
        self._number = 0
        self._ended = threading.Event()

    def longest_gap_s(self) -> float:
        """The longest time in which it was not surely refreshed, in seconds."""
        return max(self._gap_s, _clock_s() - self._refreshed_s)

    def take(self, held: bytes | None) -> bool:
        """Whether it was put in the place of what stands there (None: nothing)."""
        asked_s = _clock_s()
        taken = False

        def change(found: bytes | None) -> bytes | None:
            nonlocal taken
            taken = found == held or (found is not None and self._is_own(found))
            if not taken:
                return None
            self._number += 1
            return f"{self._name} {self._number}".encode()

        self._files.update(self.path, change)
        if taken:
            self._gap_s = max(self._gap_s, asked_s - self._refreshed_s)
            self._refreshed_s = asked_s
        return taken

    def _is_own(self, found: bytes) -> bool:
        return found.decode().startswith(f"{self._name} ")

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Refresh it until the block ends, and remove it then."""
        thread = threading.Thread(target=self._keep, name=f"lease {self.path}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join(timeout=self._lease_s / REFRESHES)
            if self.longest_gap_s() < self._lease_s / 2:
                try:
                    self._files.delete(self.path)
                except (OSError, MinerError) as error:
                    log.warning("%s ends by itself, it cannot be removed: %s", self.path, error)

    def _keep(self) -> None:
        while not self._ended.wait(self._lease_s / REFRESHES):
            try:
                self.take(None)
            except (OSError, MinerError) as error:
                # The next try may do; `check` sees how long there was none.
                log.warning("%s cannot be refreshed: %s", self.path, error)


def _clock_s() -> float:
    """Seconds that pass while the machine sleeps, too."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
