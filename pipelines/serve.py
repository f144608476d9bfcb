"""The HTTP service: embeddings, blind partners and pairs for people who run no batch jobs.

What it is made of is imported when it runs, so that `--help` does not wait, and so that the
package works without its extra `serve`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from miner.errors import ResourceError
from pipelines.options import settings_from, settings_options
from pipelines.serving.settings import ServeSettings

if TYPE_CHECKING:
    from fastapi import FastAPI

__all__ = ["ServeSettings", "create_app", "serve"]


def create_app(settings: ServeSettings, *, owns_process: bool = False) -> FastAPI:
    """The service as an ASGI app; its encoders and index are loaded in its lifespan.

    Args:
        settings: how it runs.
        owns_process: whether this process does nothing else; Python is tuned for it then.

    Raises:
        ResourceError: the extra `serve` is not installed.
        ValueError: it would listen to others without a token.
    """
    _check_extra()
    from pipelines.serving.app import build_app

    return build_app(settings, owns_process=owns_process)


def _check_extra() -> None:
    try:
        import fastapi  # noqa: F401
        import httptools  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise ResourceError(
            f"the service needs {error.name}, which is not installed; "
            'pip install "blindpairs[serve]"'
        ) from error


@click.command()
@settings_options(ServeSettings)
def serve(config_file: Path | None, **flags: Any) -> int:
    """Serve embeddings, blind partners and pairs over HTTP.

    On this machine alone, unless told else.
    """
    settings = settings_from(ServeSettings, flags, config_file)
    # Before torch is loaded: threads that wait for the next batch leave the cores to the decoders.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    _check_extra()
    from pipelines.serving.callers import read_token
    from pipelines.serving.listening import allow_many_connections, open_listener

    # What is wrong with these is said before anything is loaded, which takes a while.
    read_token(settings)
    allow_many_connections()
    with open_listener(settings) as listener:
        click.echo("loading the encoders ...", err=True)
        app = create_app(settings, owns_process=True)
        from pipelines.serving.server import run_server

        return run_server(app, settings, listener)
