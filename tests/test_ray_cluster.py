"""Which cluster is taken, and what it has room for; what needs a real one is in other files."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from miner.config import ExecutorSettings
from miner.errors import ResourceError
from pipelines import ray_cluster
from pipelines.ray_cluster import STORE_BYTES, Cluster, Needs
from tests.commands import Commands
from tests.small import write_corpus


def test_room_is_counted_in_whole_workers() -> None:
    assert Needs(num_gpus=0, num_cores=3).fits({"CPU": 8.0}) == 2
    assert Needs(num_gpus=1, num_cores=3).fits({"CPU": 8.0}) == 0
    assert Needs(num_gpus=1, num_cores=3).fits({"CPU": 16.0, "GPU": 4.0}) == 4
    assert Needs(num_gpus=1, num_cores=8).fits({"CPU": 16.0, "GPU": 4.0}) == 2
    assert str(Needs(num_gpus=1, num_cores=8)) == "a GPU and 8 cores"


class Nodes(Cluster):
    """A cluster that has these nodes."""

    def __init__(self, nodes: list[dict[str, float]], is_ours: bool) -> None:
        self._nodes, self.is_ours = nodes, is_ours

    def nodes(self) -> dict[str, dict[str, float]]:
        return {str(place): node for place, node in enumerate(self._nodes)}

    def needs_of(self, device: str, **settings: Any) -> str:
        self.needs = self._needs_of(ExecutorSettings(executor="ray", **settings), device)
        return str(self.needs)


def test_a_worker_needs_a_gpu_and_its_share_of_the_cores_or_cores_alone() -> None:
    gpus = Nodes([{"CPU": 4}, {"CPU": 64, "GPU": 8}, {"CPU": 16, "GPU": 1}], is_ours=False)
    assert gpus.needs_of("auto") == "a GPU and 8 cores"
    assert gpus.room() == 9
    assert gpus.needs_of("cuda", cores_per_worker=16) == "a GPU and 16 cores"
    assert gpus.room() == 5
    assert gpus.needs_of("cpu") == "4 cores"
    assert gpus.room() == 21
    assert gpus.describe() == "3 nodes with 84 cores and 9 GPUs"
    assert Nodes([{"CPU": 32}], is_ours=False).needs_of("auto") == "8 cores"
    # Before the first node has come.
    assert Nodes([], is_ours=False).needs_of("cuda") == "a GPU and 1 cores"


def test_a_machine_that_cannot_grow_is_refused_at_once() -> None:
    small = Nodes([{"CPU": 2}], is_ours=True)
    small.needs_of("cuda")
    with pytest.raises(ResourceError, match="--device cuda: each worker needs a GPU and 1 cores"):
        small._check_room("cuda")


def test_a_cluster_that_is_named_and_not_there(
    commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_corpus(tmp_path / "corpus", num_shards=1)
    words = (tmp_path / "corpus", "--executor", "ray", "--out", tmp_path / "run")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
    ran = commands.mine(*words)
    assert ran.code == 4, ran.err
    assert f"no Ray cluster answers at 127.0.0.1:{port}" in ran.err
    monkeypatch.setenv("RAY_ADDRESS", "ray://127.0.0.1:10001")
    ran = commands.mine(*words)
    assert ran.code == 4, ran.err
    assert "a Ray client's, through which workers cannot be watched" in ran.err


def test_a_cluster_of_this_machine_takes_a_token_and_little_memory(tmp_path: Path) -> None:
    script = (
        "import os, ray\n"
        "from miner.config import ExecutorSettings\n"
        "from pipelines.ray_cluster import Cluster\n"
        "cluster = Cluster(ExecutorSettings(executor='ray', cores_per_worker=1), 'auto')\n"
        "print(cluster.is_ours, os.environ['RAY_AUTH_MODE'])\n"
        "print(round(ray.cluster_resources()['object_store_memory']))\n"
        "cluster.close()\n"
    )
    env = {name: value for name, value in os.environ.items() if name != "RAY_AUTH_MODE"}
    ran = subprocess.run(
        [sys.executable, "-c", script],
        env=env | {"RAY_ADDRESS": "local", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == ["True", "token", str(STORE_BYTES)]
    assert "no node of the Ray cluster has a GPU, so workers compute on CPUs" in ran.stderr


def test_errors_of_ray_are_said_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(address: str | None) -> None:
        # As Ray does when it connects.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise ConnectionError(f"nobody at {address}")

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setenv("RAY_ADDRESS", "local")
    monkeypatch.setattr(ray_cluster, "_init", fails)
    with pytest.raises(ResourceError, match=r"no Ray cluster can be started \(nobody at local\)"):
        Cluster(ExecutorSettings(executor="ray"), "cpu")
    assert signal.getsignal(signal.SIGTERM) is before
