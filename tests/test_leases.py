import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from miner import leases
from miner.errors import StoreError
from miner.files import Change
from miner.leases import LeaseLocks
from miner.object_files import ObjectFiles
from miner.store import Store

ELSEWHERE = b"machine:pid:[1]:1:1 attempt 1"
"""What a holder on another machine writes."""


@pytest.fixture
def files(s3: str) -> ObjectFiles:
    return ObjectFiles(f"{s3}/run")


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "POLL_S", 0.05)


def test_nobody_is_alone_while_somebody_writes(files: ObjectFiles) -> None:
    one, other = LeaseLocks(files), LeaseLocks(files)
    with one.writing():
        with other.writing(), one.writing(), other.alone() as alone:
            assert not alone
        with one.alone() as alone:
            assert not alone
        one.check()
        assert other.is_written()
    assert not other.is_written()
    with one.alone() as alone:
        assert alone
        with other.alone() as second:
            assert not second
    assert files.below("") == []


def test_a_writer_waits_until_nobody_sweeps(files: ObjectFiles) -> None:
    began = threading.Event()

    def write() -> None:
        with LeaseLocks(files).writing():
            began.set()

    with ThreadPoolExecutor(1) as pool:
        with LeaseLocks(files).alone() as alone:
            assert alone
            writer = pool.submit(write)
            assert not began.wait(0.3)
        writer.result(60)
    assert began.is_set()


def test_the_dead_hold_nothing(files: ObjectFiles) -> None:
    files.write(".leases/writers/one", ELSEWHERE)
    files.write(".leases/clock/one", b"")
    with LeaseLocks(files).alone() as alone:
        assert not alone
    assert files.exists(".leases/clock/one")
    # The storage tells whole seconds.
    time.sleep(2.1)
    with LeaseLocks(files, lease_s=1).alone() as alone:
        assert alone
    assert files.below("") == []


def test_a_process_that_died_on_this_machine_holds_nothing(files: ObjectFiles) -> None:
    name = leases.this_process() + "0"
    files.write(".leases/writers/one", f"{name} attempt 1".encode())
    files.write(".leases/locks/join", f"{name} attempt 1".encode())
    locks = LeaseLocks(files)
    with locks.alone() as alone:
        assert alone
    with locks.lock("join"):
        pass
    assert files.below("") == []


def test_a_lock_has_one_holder_at_a_time(files: ObjectFiles) -> None:
    inside, most = [], []

    def work(number: int) -> None:
        with LeaseLocks(files).lock("join"):
            inside.append(number)
            most.append(len(inside))
            time.sleep(0.02)
            inside.remove(number)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(6)))
    assert most == [1] * 6
    assert files.below("") == []


def test_of_many_heirs_of_a_dead_holder_one_wins(files: ObjectFiles) -> None:
    files.write(".leases/locks/join", f"{leases.this_process()}0 attempt 1".encode())
    test_a_lock_has_one_holder_at_a_time(files)


class CutOff(ObjectFiles):
    """A bucket that cannot be reached for a while."""

    down = False
    num_updates = 0

    def update(self, path: str, change: Change) -> None:
        if self.down:
            raise StoreError("cut off")
        super().update(path, change)
        self.num_updates += 1


def test_a_writer_that_was_cut_off_commits_nothing_more(
    s3: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = [100.0]
    monkeypatch.setattr(leases, "_clock_s", lambda: now[0])
    files = CutOff(f"{s3}/run")
    store = Store(f"{s3}/run", files=files)
    store._locks = locks = LeaseLocks(files, lease_s=1.2)
    with locks.writing():
        locks.check()
        files.down = True
        now[0] += 0.9
        with pytest.raises(StoreError, match=r"cut off, for 1 s \(limit 1 s\), and others may"):
            store.commit("samples", "set.0", [], {})
        with pytest.raises(StoreError, match="others may have removed what it wrote"):
            store.replace_record("pairs/a/join.json", {})
        wait_until(lambda: "cannot be refreshed: cut off" in caplog.text)
        files.down = False
        num_updates = files.num_updates
        wait_until(lambda: files.num_updates > num_updates + 1)
        # What was removed meanwhile does not come back with the connection.
        with pytest.raises(StoreError, match="others may have removed what it wrote"):
            locks.check()
    assert store.committed("samples") == []


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 120
    while not is_so():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def test_a_lease_is_kept_for_as_long_as_its_holder_works(files: ObjectFiles) -> None:
    locks = LeaseLocks(files, lease_s=6)
    with locks.writing():
        # By the storage's clock, it would have ended.
        time.sleep(7.1)
        with LeaseLocks(files, lease_s=6).alone() as alone:
            assert not alone
