"""What a running command has done so far, as metrics for Prometheus.

They are always counted, which costs nothing to speak of; a port is opened only where one is asked
for, and on the loopback interface unless another address is given.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import click
from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server

from miner.errors import ResourceError
from miner.stats import Stats

LOOPBACK = "127.0.0.1"

registry = CollectorRegistry()

_images = Counter("blindpairs_images", "Images that were decoded to be encoded.", registry=registry)
_quarantined = Counter("blindpairs_quarantined", "Samples that were refused.", registry=registry)
_shards = Counter(
    "blindpairs_shards", "Shards that were dealt with.", ["outcome"], registry=registry
)
_stage_s = Counter(
    "blindpairs_stage_seconds",
    "Time of embedding by stage, added up over all workers.",
    ["stage"],
    registry=registry,
)
_parts = Gauge(
    "blindpairs_parts",
    "Parts of the work in progress: shards, or blocks of a join.",
    ["work", "state"],
    registry=registry,
)


def images(number: int) -> None:
    """So many more images were decoded."""
    _images.inc(number)


def shard(outcome: str, stats: Stats, num_quarantined: int) -> None:
    """A shard was dealt with: `embedded`, `failed`, or `known` from an earlier command."""
    _shards.labels(outcome).inc()
    _quarantined.inc(num_quarantined)
    for stage, elapsed_s in stats.seconds.items():
        _stage_s.labels(stage).inc(elapsed_s)


def parts(work: str, num_done: int, num_parts: int) -> None:
    """How much of some work is done."""
    _parts.labels(work, "done").set(num_done)
    _parts.labels(work, "left").set(num_parts - num_done)


@contextmanager
def served(port: int | None, host: str = LOOPBACK) -> Iterator[int | None]:
    """Serve the metrics at http://HOST:PORT/metrics while the block runs; None serves nothing.

    Args:
        port: to listen on; 0 takes a free one.
        host: the address to listen on.

    Yields:
        The port that is listened on.

    Raises:
        ResourceError: the port is taken, or may not be listened on.
    """
    if port is None:
        yield None
        return
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        raise ResourceError(
            f"--metrics-port {port}: cannot listen on {host}:{port} ({error.strerror}); give "
            "another port, or 0 for a free one"
        ) from error
    try:
        # Only here is it known which port was free.
        shown = f"[{host}]" if ":" in host else host
        click.echo(f"metrics at http://{shown}:{server.server_port}/metrics", err=True)
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def metrics_options(command: Any) -> Any:
    """Decorate a command with `--metrics-port` and `--metrics-host`; it is served while it runs."""

    @wraps(command)
    def serving(*args: Any, metrics_port: int | None, metrics_host: str, **flags: Any) -> Any:
        with served(metrics_port, metrics_host):
            return command(*args, **flags)

    host = click.option(
        "--metrics-host",
        default=LOOPBACK,
        show_default=True,
        help="Address of that port; whoever reaches it reads counts of the run.",
    )
    port = click.option(
        "--metrics-port",
        type=click.IntRange(0, 65535),
        default=None,
        help="Serve Prometheus metrics on this port while the command runs; default: none.",
    )
    return port(host(serving))
