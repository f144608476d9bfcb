"""The Ray cluster that a run works on: the one that is there, else one on this machine."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray

from miner.config import ExecutorSettings
from miner.errors import ResourceError

log = logging.getLogger(__name__)

CONNECT_S = 10.0
"""How long a cluster's head may take to answer, in seconds."""

STORE_BYTES = 200 * 2**20
"""Object store of a cluster that is started here; Ray would set a share of the memory aside."""

MOST_CORES = 8
"""Cores of a worker that computes on CPUs, where the settings say nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What each worker needs of a node.

    Attributes:
        num_gpus: 0 or 1.
        num_cores: that Ray sets aside for it.
    """

    num_gpus: int
    num_cores: int

    def __str__(self) -> str:
        gpu = "a GPU and " if self.num_gpus else ""
        return f"{gpu}{self.num_cores} cores"

    def fits(self, resources: dict[str, float]) -> int:
        """How many workers some resources are enough for."""
        by_cores = int(resources.get("CPU", 0)) // self.num_cores
        return min(by_cores, int(resources.get("GPU", 0))) if self.num_gpus else by_cores


class Cluster:
    """A connection to a cluster.

    Attributes:
        is_ours: whether it was started here, and ends with the run; then it does not grow.
        needs: of each worker; guessed until a node comes that has room for one.
    """

    def __init__(self, settings: ExecutorSettings, device: str) -> None:
        """Connect.

        Args:
            settings: cores of each worker.
            device: `auto`, `cpu` or `cuda`.

        Raises:
            ResourceError: no cluster can be reached or started, or there is no room in it.
        """
        self._is_connected_here = not ray.is_initialized()
        self.is_ours = self._is_connected_here and _connect()
        try:
            self._settings, self._device = settings, device
            self.needs = self._needs_of(settings, device)
            self._is_guessed = self.room() == 0
            self._check_room(device)
            self._say_device()
        except BaseException:
            self.close()
            raise

    def nodes(self) -> dict[str, dict[str, float]]:
        """Resources of every node that is alive, by its id."""
        nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
        return {node["NodeID"]: node["Resources"] for node in nodes if node["Alive"]}

    def room(self) -> int:
        """How many workers the nodes are enough for, if nobody else used them."""
        return sum(self.needs.fits(resources) for resources in self.nodes().values())

    def free(self) -> int:
        """How many further workers there is room for, as others use it now."""
        if self.is_ours:
            return self.room()
        free: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
        return self.needs.fits(free)

    def update_needs(self) -> bool:
        """Find out what a worker needs where that was a guess; whether it is something else."""
        if not self._is_guessed:
            return False
        before, self.needs = self.needs, self._needs_of(self._settings, self._device)
        self._is_guessed = self.room() == 0
        if not self._is_guessed:
            self._say_device()
        return self.needs != before

    def describe(self) -> str:
        """What there is, in words."""
        nodes = self.nodes().values()
        gpus, cores = (sum(int(n.get(kind, 0)) for n in nodes) for kind in ("GPU", "CPU"))
        return f"{len(nodes)} nodes with {cores} cores and {gpus} GPUs"

    def close(self) -> None:
        """Disconnect; a cluster of our own ends."""
        if self._is_connected_here:
            with _signals_kept():
                ray.shutdown()
            self._is_connected_here = False

    def _needs_of(self, settings: ExecutorSettings, device: str) -> Needs:
        nodes = list(self.nodes().values())
        has_gpu = any(node.get("GPU", 0) >= 1 for node in nodes)
        cores = settings.cores_per_worker
        if device == "cuda" or (device == "auto" and has_gpu):
            shares = [int(n.get("CPU", 0)) // int(n["GPU"]) for n in nodes if n.get("GPU", 0) >= 1]
            return Needs(num_gpus=1, num_cores=cores or max(min(shares, default=1), 1))
        sizes = [int(node["CPU"]) for node in nodes if node.get("CPU", 0) >= 1]
        return Needs(num_gpus=0, num_cores=cores or min(MOST_CORES, *(sizes or [1])))

    def _check_room(self, device: str) -> None:
        if self.room() > 0:
            return
        lacks = f"each worker needs {self.needs}, and the Ray cluster has {self.describe()}"
        if self.is_ours:
            raise ResourceError(
                f"--device {device}: {lacks}, all of this machine; give --device cpu or fewer "
                "--cores-per-worker, or start a cluster with such nodes and set RAY_ADDRESS"
            )
        log.warning("%s: waiting for nodes to be added", lacks)

    def _say_device(self) -> None:
        if self._device == "auto" and not self.needs.num_gpus and not self._is_guessed:
            log.warning(
                "--device auto: no node of the Ray cluster has a GPU, so workers compute on CPUs"
            )


def _connect() -> bool:
    """Connect to a cluster, or start one; whether it was started."""
    # Ray says on its own what nobody asked for.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    address = _find()
    try:
        with _signals_kept():
            # Ray finds the same address again, with the token that it takes.
            context = _init(None if address else "local")
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ResourceError(
            f"no Ray cluster can be {'reached' if address else 'started'} "
            f"({error}); see to it, or set RAY_ADDRESS"
        ) from error
    log.warning(
        "%s at %s",
        "on the Ray cluster"
        if address
        else "on a Ray cluster of this machine alone, started for this",
        context.address_info["gcs_address"],
    )
    return not address


def _find() -> str:
    """Where a cluster is that RAY_ADDRESS names, or that was started on this machine; else empty.

    Raises:
        ResourceError: it does not answer, which Ray itself would find out after many minutes.
    """
    named = os.environ.get("RAY_ADDRESS", "")
    if named == "local":
        return ""
    if "://" in named:
        raise ResourceError(
            f"RAY_ADDRESS is {named}, a Ray client's, through which workers cannot "
            "be watched; run on the cluster (`ray job submit`), or give HOST:PORT of its head"
        )
    services: Any = ray._private.services
    address = named if named not in ("", "auto") else services.find_bootstrap_address(None) or ""
    if not address and not named:
        return ""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), CONNECT_S).close()
    except (OSError, ValueError) as error:
        raise ResourceError(
            f"no Ray cluster answers at {address or 'RAY_ADDRESS=auto'} ({error}); "
            "set RAY_ADDRESS to HOST:PORT of one that is up, or to `local` to start one here"
        ) from error
    return str(address)


def _init(address: str | None) -> Any:
    # A new cluster takes a token by Ray's own default; RAY_AUTH_MODE set here would only undo that.
    context = ray.init(
        address=address,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=STORE_BYTES if address == "local" else None,
    )
    # Ray prints on stdout what becomes of its processes, whatever it was told; we log it ourselves.
    told: Any = ray._private.worker
    told._worker_logs_enabled = False
    return context


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Keep what SIGTERM and SIGINT do; Ray takes the first for itself when it connects."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
