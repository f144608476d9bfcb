"""The socket on which a service listens; nothing heavy is imported for it."""

from __future__ import annotations

import resource
import socket

from miner.errors import ResourceError
from pipelines.serving.settings import ServeSettings


def open_listener(settings: ServeSettings) -> socket.socket:
    """The socket; nobody is answered before somebody listens on it.

    Raises:
        ResourceError: the port is taken, or may not be listened on.
    """
    host = settings.host.strip("[]")
    try:
        (family, kind, number, _, address), *_ = socket.getaddrinfo(
            host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        listener = socket.socket(family, kind, number)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise ResourceError(
            f"--port {settings.port}: cannot listen on {host}:{settings.port} "
            f"({error.strerror}); give another --port, or 0 for a free one"
        ) from error
    return listener


def allow_many_connections() -> None:
    """As many open files as the system lets this process have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
