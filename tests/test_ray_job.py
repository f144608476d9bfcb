"""`ray job submit` of a script to a Ray cluster of its own, whose ports serve the token's owner."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray._private.utils import get_dashboard_dependency_error

from miner.audit import verify
from miner.store import Store
from pipelines.mine_imagenet import mine_imagenet
from pipelines.scene_shards import write_shards
from tests.buckets import free_port
from tests.commands import Commands
from tests.small import PHOTOGRAPHS
from tests.test_kills import raw_parts

ROOT = Path(__file__).parents[1]
RAY = Path(sys.executable).parent / "ray"


@pytest.fixture
def head() -> Iterator[dict[str, str]]:
    """A Ray head with its dashboard, which takes jobs: the environment that reaches it."""
    missing = get_dashboard_dependency_error()
    assert missing is None, f'{missing}; jobs take pip install "ray[default]"'
    # Sockets have short paths.
    folder = tempfile.mkdtemp(prefix="ray-")
    port = free_port()
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    env |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    env |= {"RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    # A job's `python` is the one that has the package.
    env |= {"PATH": os.pathsep.join((str(RAY.parent), os.environ.get("PATH", os.defpath)))}
    words = [str(RAY), "start", "--head", "--block", "--num-cpus=2", "--port=0"]
    words += [f"--dashboard-port={port}", "--dashboard-host=127.0.0.1", f"--temp-dir={folder}"]
    words += [f"--object-store-memory={80 * 2**20}", "--disable-usage-stats"]
    with (Path(folder) / "head.log").open("w") as log:
        process = subprocess.Popen(
            words, env=env, stdout=log, stderr=log, start_new_session=True, cwd=folder
        )
    try:
        url = f"http://127.0.0.1:{port}"
        deadline_s = time.monotonic() + 120
        while not answers(f"{url}/api/version", env["RAY_AUTH_TOKEN"]):
            said = (Path(folder) / "head.log").read_text()
            assert process.poll() is None, said
            assert time.monotonic() < deadline_s, said
            time.sleep(0.2)
        yield env | {"RAY_API_SERVER_ADDRESS": url}
    finally:
        # --block passes the signal on to the whole cluster.
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


def answers(url: str, token: str) -> bool:
    """Whether the dashboard answers whoever has the token."""
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    try:
        with urllib.request.urlopen(request, timeout=10):
            return True
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


def test_a_submitted_job_finds_the_pairs_of_an_inline_run(
    commands: Commands, head: dict[str, str], tmp_path: Path
) -> None:
    write_shards(tmp_path / "scenes", num_scenes=48, seed=9, shard_size=24)
    shards = [tmp_path / "scenes", *([PHOTOGRAPHS] if PHOTOGRAPHS.exists() else [])]
    words = [*shards, "--clip", "demo-clip", "--dino", "demo-dino", "--device", "cpu"]
    words += ["--clip-above", "0.8", "--decoders", "thread"]
    inline = commands.run(mine_imagenet, *words, "--out", tmp_path / "inline")
    assert inline.code == 0, inline.err
    job = [str(RAY), "job", "submit", "--working-dir", str(ROOT), "--", "python"]
    job += ["pipelines/mine_imagenet.py", *map(str, words), "--out", str(tmp_path / "job")]
    submit = {"cwd": tmp_path, "capture_output": True, "text": True, "timeout": 400}
    refused = subprocess.run(job, env=head | {"RAY_AUTH_TOKEN": secrets.token_hex(32)}, **submit)  # type: ignore[call-overload]
    assert refused.returncode != 0
    assert not (tmp_path / "job").exists()
    ran = subprocess.run(job, env=head, **submit)  # type: ignore[call-overload]
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert raw_parts(tmp_path / "job") == raw_parts(tmp_path / "inline")
    store = Store(tmp_path / "job")
    assert store.run()["commands"][0]["settings"]["executor"] == "ray"
    assert store.raw(store.joins()[0]).num_rows > 0
    assert verify(store) == []
