"""Processes that load what they work with, and nothing else.

multiprocessing has each new process import the script that the parent was started with. For a
worker that is a second or more on a core, and a script without `if __name__ == "__main__":` would
run again. Ours need nothing of it: what they do has a name in a module.
"""

from __future__ import annotations

import io
import os
from multiprocessing import forkserver, popen_forkserver, reduction, spawn, util
from multiprocessing.context import ForkServerProcess, set_spawning_popen
from multiprocessing.process import BaseProcess
from typing import Any, cast


class _Launch(popen_forkserver.Popen):
    """The standard library's own, less the main module."""

    def _launch(self, process_obj: BaseProcess) -> None:
        prepared = spawn.get_preparation_data(process_obj.name)
        for key in ("init_main_from_name", "init_main_from_path"):
            prepared.pop(key, None)
        message = io.BytesIO()
        set_spawning_popen(self)
        try:
            reduction.dump(prepared, message)
            reduction.dump(process_obj, message)
        finally:
            set_spawning_popen(None)
        self.sentinel, pipe = forkserver.connect_to_new_process(cast("Any", self)._fds)
        # The child learns by it that this process ended.
        ours = os.dup(pipe)
        self.finalizer = util.Finalize(self, _close, (ours, self.sentinel))
        with open(pipe, "wb") as file:
            file.write(message.getbuffer())
        self.pid = forkserver.read_signed(self.sentinel)


def _close(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


class WorkerProcess(ForkServerProcess):
    """A process forked from the fork server, which does not import the main module."""

    @staticmethod
    def _Popen(process_obj: BaseProcess) -> Any:
        return _Launch(process_obj)
