"""The service's socket."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

from miner.errors import ResourceError
from pipelines.serving.listening import allow_many_connections, open_listener
from tests.serving import Live, settings_of


def test_a_port_that_is_taken_is_said(live: Live) -> None:
    port = int(live.url.rpartition(":")[2])
    with pytest.raises(ResourceError, match=f"--port {port}: cannot listen on 127.0.0.1:{port}"):
        open_listener(settings_of(port=port))


def test_an_address_of_nobody_here_is_said() -> None:
    with pytest.raises(ResourceError, match=r"cannot listen on 192\.0\.2\.1:0"):
        open_listener(settings_of(host="192.0.2.1"))


def test_as_many_files_as_the_system_allows() -> None:
    allow_many_connections()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert soft == hard


def test_what_is_wrong_is_said_before_anything_is_loaded(live: Live) -> None:
    port = live.url.rpartition(":")[2]
    code = (
        "import sys; from pipelines.cli import main\n"
        "try: main()\n"
        "finally: print('torch' in sys.modules)"
    )
    for words, said in ((["--port", port], "cannot listen"), (["--host", "::"], "give a token")):
        ended = subprocess.run(
            [sys.executable, "-c", code, "serve", *words], capture_output=True, text=True
        )
        assert said in ended.stderr
        assert ended.stdout.strip() == "False"
