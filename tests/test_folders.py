import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from miner.folders import leftovers, new_folder

KILLED = """
import os, sys
from pathlib import Path
from miner.folders import new_folder

rename, times = Path.rename, []
def killing(self, target):
    times.append(self)
    if len(times) == int(sys.argv[2]):
        os.kill(os.getpid(), 9)
    return rename(self, target)
Path.rename = killing
with new_folder(Path(sys.argv[1])) as folder:
    (folder / "new").touch()
"""


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").touch()
    return tmp_path / "out"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("step", [1, 2])
def test_nothing_is_lost_where_a_step_fails(
    out: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    rename, calls = Path.rename, []

    def failing(self: Path, target: Path) -> Path:
        calls.append(target)
        if len(calls) == step:
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", failing)
        with pytest.raises(OSError, match="Input/output error"), new_folder(out) as folder:
            (folder / "new").touch()
    assert len(calls) == (1 if step == 1 else 3)
    assert names(out) == ["old"]
    assert names(out.parent) == ["out"]


@pytest.mark.parametrize("step", [1, 2])
def test_nothing_is_lost_where_it_is_killed(out: Path, step: int) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, out, str(step)], check=False)
    assert done.returncode == -signal.SIGKILL
    kept = {path.suffix: names(path) for path in (out, *leftovers(out)) if path.exists()}
    assert kept == (
        {"": ["old"], ".new": ["new"]} if step == 1 else {".new": ["new"], ".old": ["old"]}
    )
    with new_folder(out) as folder:
        (folder / "newer").touch()
    assert names(out) == ["newer"]
    assert names(out.parent) == ["out"]


def test_what_is_not_left_over_stays(out: Path) -> None:
    others = ["out.old", "out.0123456789ab", "other.0123456789ab.old", "out.0123456789ab.old.txt"]
    for name in others:
        (out.parent / name).mkdir()
    with new_folder(out) as live:
        (live / "file").touch()
        with new_folder(out) as folder:
            (folder / "new").touch()
        assert names(out) == ["new"]
        assert os.listdir(live) == ["file"]
    assert names(out) == ["file"]
    assert names(out.parent) == sorted([*others, "out"])


def test_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    assert leftovers(tmp_path / "a" / "b") == []
    with new_folder(tmp_path / "a" / "b") as folder:
        (folder / "x").touch()
    assert names(tmp_path / "a") == ["b"]
