import subprocess
import sys

from miner.holders import is_dead, this_process

SAY_NAME = "from miner.holders import this_process; print(this_process(), flush=True); input()"


def test_a_process_lives_until_it_ends() -> None:
    other = subprocess.Popen(
        [sys.executable, "-c", SAY_NAME], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdin is not None
    assert other.stdout is not None
    name = other.stdout.readline().strip()
    assert name != this_process()
    assert " " not in name
    assert not is_dead(name)
    other.kill()
    # Dead, and not yet buried.
    other.stdout.read()
    other.wait()
    assert is_dead(name)
    other.stdin.close()
    other.stdout.close()


def test_nobody_says_of_another_machines_processes() -> None:
    assert not is_dead(this_process())
    place, number, started = this_process().rsplit(":", 2)
    assert is_dead(f"{place}:{number}:{started}0")
    assert not is_dead(f"elsewhere{place}:{number}:{started}0")
    assert not is_dead("nonsense")
