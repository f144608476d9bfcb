import subprocess
import sys
from pathlib import Path

from miner.decode_process import warm_up
from miner.worker_process import WorkerProcess
from tests.dying import leaving

SCRIPT = """
from multiprocessing import Pipe
from operator import methodcaller
from pathlib import Path

from miner.decode_process import warm_up
from miner.worker_process import WorkerProcess

# No guard: a process that imported this would start another one.
with open("ran.txt", "a") as file:
    file.write("ran\\n")
ours, theirs = Pipe()
process = WorkerProcess(target=methodcaller("send", "hello"), args=(theirs,))
process.start()
theirs.close()
print(ours.recv())
process.join()
print(process.exitcode)
"""


def test_script_is_not_run_again(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert (done.stdout, done.stderr) == ("hello\n0\n", "")
    assert (tmp_path / "ran.txt").read_text() == "ran\n"


def test_exit_code_and_name_are_told() -> None:
    warm_up()
    process = WorkerProcess(target=leaving, args=(None, None, None), name="one", daemon=True)
    process.start()
    process.join(60)
    assert (process.exitcode, process.name) == (3, "one")
    process.close()
