"""A server that speaks S3 on a port of loopback: python -m tests.s3_server PORT.

The storage is moto's, which looks first and writes then; S3 decides a conditional request at once.
So writes are taken one after the other here.
"""

import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple

App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def one_write_at_a_time(app: App) -> App:
    """The same application, its writes in turn."""
    turn = threading.Lock()

    def serve(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] in ("GET", "HEAD"):
            return app(environ, start_response)
        with turn:
            return list(app(environ, start_response))

    return serve


if __name__ == "__main__":
    storage = one_write_at_a_time(DomainDispatcherApplication(create_backend_app))
    run_simple("127.0.0.1", int(sys.argv[1]), storage, threaded=True)
