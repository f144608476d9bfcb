"""The service as replicas on a Ray cluster, behind Ray Serve's proxy.

    python pipelines/serve_ray.py --index DIR --num-replicas 2
    serve run pipelines.serve_ray:app index=DIR num_replicas=2 host=127.0.0.1

Each replica is the whole app of `blindpairs serve` with encoders and batches of its own, and a GPU
of its own where there are any. A replica that dies is replaced; what it had in hand is answered
with an error, and nothing else is lost.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import click
from pydantic import Field, model_validator

from miner.encoders import find_record
from miner.errors import ResourceError
from pipelines.options import settings_from, settings_options
from pipelines.ray_serve import check_here, ray_serve, refuse_another, start
from pipelines.replica_needs import needs_of, this_machine
from pipelines.serve import create_app
from pipelines.serving.settings import ServeSettings

if TYPE_CHECKING:
    from fastapi import FastAPI

    from pipelines.ray_cluster import Needs

log = logging.getLogger(__name__)

NAME = "blindpairs"

BATCHES_ONGOING = 2
"""Batches of requests that a replica has at a time: while one is encoded, the next one fills."""

HEALTH_S = 2.0
"""How often Ray asks a replica how it is, in seconds."""

RETRY_AFTER_S = 1


class RayServeSettings(ServeSettings):
    """How the replicas run."""

    num_replicas: int = Field(default=1, gt=0)
    """Replicas of the service, each with encoders of its own; their number does not change."""

    cores_per_replica: int | None = Field(default=None, gt=0)
    """Cores that Ray sets aside for a replica; default: as many as all can have, at most 8."""

    @model_validator(mode="after")
    def _suit_ray(self) -> Self:
        if self.port == 0:
            raise ValueError("port is 0: the proxy of Ray Serve takes a port that is named")
        if ":" in self.device:
            raise ValueError(
                f"device is {self.device}: Ray gives each replica a GPU of its own; "
                "give --device cuda"
            )
        return self


class Replica:
    """The app in one process of the cluster, as Ray Serve wants it."""

    def __init__(self, settings: dict[str, Any], token: str | None) -> None:
        """Prepare.

        Args:
            settings: of the service, without a token file, which this node may not have.
            token: that callers have to send, if any.
        """
        from pipelines.serving.callers import TOKEN_VARIABLE

        if token is None:
            os.environ.pop(TOKEN_VARIABLE, None)
        else:
            os.environ[TOKEN_VARIABLE] = token
        self._app = create_app(ServeSettings(**settings), owns_process=True)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """The app, for Ray Serve, which also runs its lifespan."""
        return self._app

    def check_health(self) -> None:
        """Ask for another replica where only that helps.

        Raises:
            ResourceError: the service cannot go on.
        """
        status = self._app.state.service.status
        if status == "broken":
            raise ResourceError("the decoders of the service stopped; see the replica's log")


def app(args: Mapping[str, Any]) -> Any:
    """The application for `serve run`, and for `import_path` in a file of `serve deploy`.

    The proxy's host and port are Ray Serve's own settings, of which nothing is known here. So a
    token is needed, unless `host` says that the proxy listens on this machine alone.

    Args:
        args: fields of `RayServeSettings`.

    Raises:
        ValueError: there is no token, and no `host` that needs none.
    """
    import ray

    settings = RayServeSettings(**{"host": "0.0.0.0", **args})
    if ray.is_initialized():
        known: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
        nodes = [node["Resources"] for node in known if node["Alive"]]
    else:
        # `serve run` asks before it connects, by flags of its own.
        nodes = [this_machine()]
    return application(settings, needs_of(settings, nodes, may_grow=True))


def application(settings: RayServeSettings, needs: Needs) -> Any:
    """The replicas as a Ray Serve application.

    Raises:
        ResourceError: Ray Serve or what the service needs is not installed.
        ValueError: it would listen to others without a token.
    """
    serve = ray_serve()
    from pipelines.serving.callers import read_token

    token = read_token(settings)
    # The workers of one replica are on its own cores, not on all of its machine's.
    num_decoders = max(needs.num_cores - 2, 1) if needs.num_gpus else needs.num_cores
    given = settings.part(ServeSettings).model_dump(exclude_unset=True, exclude={"token_file"})
    given = {"num_decoders": num_decoders, **given}
    deployment = serve.deployment(
        serve.ingress()(Replica),
        name=NAME,
        num_replicas=settings.num_replicas,
        ray_actor_options={"num_cpus": needs.num_cores, "num_gpus": needs.num_gpus},
        max_ongoing_requests=min(BATCHES_ONGOING * settings.max_batch, settings.max_requests),
        max_queued_requests=settings.max_queue,
        backpressure_config={"status_code": 429, "retry_after_s": RETRY_AFTER_S},
        health_check_period_s=HEALTH_S,
        graceful_shutdown_timeout_s=settings.drain_s,
        graceful_shutdown_wait_loop_s=0.2,
    )
    return deployment.bind(given, token)


@contextmanager
def deployed(settings: RayServeSettings) -> Iterator[str]:
    """Replicas that run until the block ends, and the URL where they are reached.

    Raises:
        ResourceError: there is no cluster, no room in it, Ray Serve runs there already, the
            replicas do not start, or something is not installed.
        StoreError: there is no run to serve.
        ValueError: it would listen to others without a token, or there is no such encoder.
    """
    serve = ray_serve()
    for name in filter(None, (settings.clip, settings.dino)):
        find_record(name)
    from miner.config import ExecutorSettings
    from pipelines.ray_cluster import Cluster

    cores = settings.cores_per_replica or 1
    cluster = Cluster(ExecutorSettings(executor="ray", cores_per_worker=cores), settings.device)
    try:
        refuse_another(serve)
        nodes = cluster.nodes().values()
        target = application(settings, needs_of(settings, nodes, may_grow=not cluster.is_ours))
        if cluster.is_ours:
            check_here(settings)
        try:
            start(serve, settings, target, NAME)
            yield f"http://{settings.host}:{settings.port}"
        finally:
            serve.delete(NAME)
            if not serve.status().applications:
                serve.shutdown()
    finally:
        cluster.close()


@click.command()
@settings_options(RayServeSettings)
def serve_ray(config_file: Path | None, **flags: Any) -> int:
    """Serve embeddings, blind partners and pairs by replicas on a Ray cluster.

    The cluster is the one that RAY_ADDRESS names, or that was started on this machine; else one of
    this machine alone is started. SIGTERM and Ctrl-C end the replicas, after what is in flight.
    """
    settings = settings_from(RayServeSettings, flags, config_file)
    told = threading.Event()
    with deployed(settings) as url:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: told.set())
        click.echo(f"serving at {url}, {settings.num_replicas} replicas", err=True)
        told.wait()
    return 0


if __name__ == "__main__":
    from pipelines import serve_ray as this
    from pipelines.cli import main

    # Replicas find what they run by its module's name, which a script does not have.
    main(command=this.serve_ray, name="serve_ray.py")
