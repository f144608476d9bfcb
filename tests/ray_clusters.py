"""A Ray cluster of two cores for the tests of a module."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from pipelines.ray_executor import RayExecutor


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A cluster that this process, and those it starts, work on."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        # Nodes that are taken away are missed soon.
        patch.setenv("RAY_health_check_period_ms", "500")
        patch.setenv("RAY_health_check_failure_threshold", "4")
        head = {"num_cpus": 2, "include_dashboard": False, "object_store_memory": 80 * 2**20}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        patch.setenv("RAY_ADDRESS", cluster.address)
        try:
            yield cluster
        finally:
            ray.shutdown()
            cluster.shutdown()


def store_bytes() -> int:
    """Bytes in the object stores of all nodes, and in files to which these were spilled."""
    kind = "object_store_memory"
    held = ray.cluster_resources().get(kind, 0) - ray.available_resources().get(kind, 0)
    session = Path(ray._private.worker._global_node.get_session_dir_path())
    spilled = [path for path in session.glob("ray_spilled*/**/*") if path.is_file()]
    return round(held) + sum(path.stat().st_size for path in spilled)


class Watching(RayExecutor):
    """Remembers how much the object stores ever held when an outcome came."""

    most_bytes = 0

    def run(self, *args: Any, **kwargs: Any) -> Generator[Any]:
        Watching.most_bytes = 0
        for outcome in super().run(*args, **kwargs):
            Watching.most_bytes = max(Watching.most_bytes, store_bytes())
            yield outcome
