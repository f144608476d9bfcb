"""Counters of actors, read where Prometheus would read them."""

from __future__ import annotations

import time
import urllib.request
from pathlib import Path

import ray
from prometheus_client.parser import text_string_to_metric_families
from ray.cluster_utils import Cluster

from miner.config import ExecutorSettings
from pipelines.ray_executor import RayExecutor
from tests.misbehaving import Deed, Misbehaving
from tests.ray_clusters import cluster

__all__ = ["cluster"]

EXPORTED_S = 120.0
"""Ray exports what it counts every few seconds."""


def exported() -> dict[str, float]:
    """Our counters, added up over all nodes."""
    found: dict[str, float] = {}
    for node in ray.nodes():
        url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        with urllib.request.urlopen(url, timeout=10) as answer:
            for family in text_string_to_metric_families(answer.read().decode()):
                for sample in family.samples:
                    if "blindpairs" in sample.name:
                        found[sample.name] = found.get(sample.name, 0.0) + sample.value
    return found


def test_ray_counts_what_its_actors_do(cluster: Cluster, tmp_path: Path) -> None:
    settings = ExecutorSettings(executor="ray", num_workers=1, cores_per_worker=1)
    deeds = [Deed(name=f"well{number}", takes_s=0.2) for number in range(3)]
    with RayExecutor(settings, "cpu") as executor:
        running = executor.run(Misbehaving(folder=tmp_path), deeds)
        done = [next(running) for _ in deeds]
        # Its worker lives until it is not wanted any more.
        assert len(done) == 3
        end_s = time.monotonic() + EXPORTED_S
        counted: dict[str, float] = {}
        while sum(counted.values()) < 3 + 6:
            assert time.monotonic() < end_s, counted
            time.sleep(0.5)
            counted = exported()
        running.close()
    tasks = {name: value for name, value in counted.items() if "tasks" in name}
    assert list(tasks.values()) == [3.0]
