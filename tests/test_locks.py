from pathlib import Path

import pytest
from filelock import Timeout

from miner.locks import LocalLocks


def test_nobody_is_alone_while_somebody_writes(tmp_path: Path) -> None:
    locks = LocalLocks(tmp_path)
    with locks.writing():
        with LocalLocks(tmp_path).writing(), LocalLocks(tmp_path).alone() as alone:
            assert not alone
        with locks.alone() as alone:
            assert not alone
    with locks.alone() as alone:
        assert alone
    locks.check()


def test_who_looks_sees_whether_somebody_writes(tmp_path: Path) -> None:
    locks = LocalLocks(tmp_path)
    assert not locks.is_written()
    assert not list(tmp_path.iterdir())
    with LocalLocks(tmp_path).writing():
        assert locks.is_written()
    assert not locks.is_written()


def test_a_lock_is_one_processes(tmp_path: Path) -> None:
    with LocalLocks(tmp_path).lock("join"):
        with pytest.raises(Timeout), LocalLocks(tmp_path).lock("join").acquire(timeout=0):
            pass
        with LocalLocks(tmp_path).lock("other").acquire(timeout=0):
            pass
