"""What replicas of the service need of a Ray cluster, so that all fit into it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from miner.errors import ResourceError

if TYPE_CHECKING:
    from pipelines.ray_cluster import Needs
    from pipelines.serve_ray import RayServeSettings

log = logging.getLogger(__name__)


def needs_of(
    settings: RayServeSettings, nodes: Iterable[Mapping[str, float]], *, may_grow: bool
) -> Needs:
    """What a replica needs so that all fit into a cluster.

    Args:
        settings: how many there are.
        nodes: resources of each.
        may_grow: whether nodes may be added, so that replicas without room wait for them.

    Raises:
        ResourceError: they do not fit, and never will.
    """
    from pipelines.ray_cluster import MOST_CORES, Needs

    resources = [dict(node) for node in nodes]
    has_gpu = any(node.get("GPU", 0) >= 1 for node in resources)
    num_gpus = int(settings.device == "cuda" or (settings.device == "auto" and has_gpu))
    given = settings.cores_per_replica
    for num_cores in (given,) if given else range(MOST_CORES, 0, -1):
        needs = Needs(num_gpus=num_gpus, num_cores=num_cores)
        if sum(needs.fits(node) for node in resources) >= settings.num_replicas:
            return needs
    lacks = f"there is no room for {settings.num_replicas} replicas, each with {needs}"
    if not may_grow:
        raise ResourceError(
            f"{lacks}, on this machine; give fewer --num-replicas or --cores-per-replica, or "
            "start a cluster and set RAY_ADDRESS"
        )
    log.warning("%s, in the Ray cluster: waiting for nodes to be added", lacks)
    return needs


def this_machine() -> dict[str, float]:
    """Resources of this machine as those of a node."""
    import torch

    return {"CPU": len(os.sched_getaffinity(0)), "GPU": torch.cuda.device_count()}
