"""Processes that have everything imported: what is done to them hits their work, not their start.

Their fork server is their own. The library's is started once for each process, by the first test
that decodes in processes, and knows the modules of those only.
"""

from __future__ import annotations

from multiprocessing import forkserver, popen_forkserver
from multiprocessing.context import ForkServerProcess
from multiprocessing.process import BaseProcess
from typing import Any
from unittest.mock import patch

SERVER = forkserver.ForkServer()
SERVER.set_forkserver_preload(
    [
        *("tests.mine_small", "tests.test_kills", "tests.chaos_world", "open_clip", "timm"),
        # What a command imports when it comes to it, and what that does.
        *("pipelines.driver", "pipelines.show", "pipelines.demo", "miner.report", "export.gate"),
        *("matplotlib.backends.backend_svg", "matplotlib.backends.backend_agg"),
        *("pandas", "pyarrow.pandas_compat", "rich.progress", "rich.table"),
    ]
)


class WarmProcess(ForkServerProcess):
    """A process of the `forkserver` context, forked from the server that has all of it."""

    @staticmethod
    def _Popen(process_obj: BaseProcess) -> Any:
        with patch.object(forkserver, "connect_to_new_process", SERVER.connect_to_new_process):
            return popen_forkserver.Popen(process_obj)
