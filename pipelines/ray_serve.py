"""Ray Serve itself: whether it is there, and runs nowhere else, and how it is started."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

from miner.errors import ResourceError
from miner.store import Store

if TYPE_CHECKING:
    from pipelines.serve_ray import RayServeSettings

SAID_CHARS = 300
"""Of what Ray says about replicas that do not start."""


def start(serve: Any, settings: RayServeSettings, target: Any, name: str) -> None:
    """Start the proxy and the replicas.

    Raises:
        ResourceError: they do not start.
    """
    try:
        serve.start(
            proxy_location="HeadOnly",
            http_options={
                "host": settings.host.strip("[]"),
                "port": settings.port,
                # The app's own limits come first, and say more.
                "request_timeout_s": 1.5 * (settings.body_timeout_s + settings.request_timeout_s),
            },
        )
        serve.run(target, name=name, route_prefix="/")
    except RuntimeError as error:
        said = " ".join(str(error).split())[:SAID_CHARS]
        raise ResourceError(
            f"the replicas or their proxy did not start at {settings.host}:{settings.port} "
            f"({said}); see whether the port is free, and the replicas' log"
        ) from error


def check_here(settings: RayServeSettings) -> None:
    """Find out at once what replicas on this machine would only find out one after the other.

    Raises:
        ResourceError: the port is taken, or may not be listened on.
        StoreError: there is no run to serve.
    """
    if settings.index is not None:
        Store(settings.index).run()
    host = settings.host.strip("[]")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        socket.create_server((host, settings.port), family=family).close()
    except OSError as error:
        raise ResourceError(
            f"--port {settings.port}: cannot listen on {settings.host} ({error.strerror}); give "
            "another --port"
        ) from error


def refuse_another(serve: Any) -> None:
    """Leave a Ray Serve alone that runs already: its proxy listens where that one was told to.

    Raises:
        ResourceError: there is one.
    """
    status = serve.status()
    if status.proxies or status.applications:
        names = ", ".join(status.applications) or "no application"
        raise ResourceError(
            f"Ray Serve runs already in the Ray cluster ({names}), with a host and port of its "
            "own, so that --host and --port could not count; use `serve run` or `serve deploy` "
            "with pipelines.serve_ray:app there, or end it by `serve shutdown`"
        )


def ray_serve() -> Any:
    """Ray's `serve`.

    Raises:
        ResourceError: it is not installed.
    """
    try:
        from ray import serve
    except ImportError as error:
        raise ResourceError(
            f'replicas need Ray Serve, which is missing ({error}); pip install "ray[serve]"'
        ) from error
    return serve
