"""A service for a benchmark: its process, where it listens, and what it says of itself."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self

from prometheus_client.parser import text_string_to_metric_families

START_S = 300.0
STOP_S = 60.0
LISTENS = re.compile(r"serving at http://127\.0\.0\.1:(\d+)")

PATIENT = {"OMP_WAIT_POLICY": "passive"}
"""For every process that computes: threads that wait would else spin on cores that others need."""


OWN = ("pipelines.cli", "serve")
PLAIN = ("bench.serve_plain",)


class ServiceFailedError(Exception):
    """The service ended, or did not begin to listen."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What a service has counted so far.

    Attributes:
        batches: that were encoded.
        images: in them.
        encode_s: of both encoders.
    """

    batches: float
    images: float
    encode_s: float

    def __sub__(self, other: Counts) -> Counts:
        return Counts(
            self.batches - other.batches, self.images - other.images, self.encode_s - other.encode_s
        )


class Served:
    """`blindpairs serve`, or another service, in a process of its own. Use as a context manager.

    Attributes:
        port: where it listens; 0 until `wait` has returned.
    """

    def __init__(self, arguments: list[str], log: Path, command: Sequence[str] = OWN) -> None:
        """Prepare.

        Args:
            arguments: of the command, but the port.
            log: a file for what it says.
            command: a module, and its command if it has several.
        """
        self._arguments, self._log, self._command = arguments, log, command
        self._process: subprocess.Popen[bytes] | None = None
        self._output: IO[Any] | None = None
        self.port = 0

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", *self._command, "--port", "0", *self._arguments]
        self._output = self._log.open("wb")
        self._process = subprocess.Popen(
            command,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            cwd=Path(__file__).parents[1],
            # Nothing is to be asked of the user's own service.
            env={n: value for n, value in os.environ.items() if n != "BLINDPAIRS_TOKEN"} | PATIENT,
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        assert self._output is not None
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._output.close()

    def counts(self) -> Counts:
        """What it has counted so far."""
        url = f"http://127.0.0.1:{self.port}/metrics"
        with urllib.request.urlopen(url, timeout=STOP_S) as answer:
            text = answer.read().decode()
        totals: dict[str, float] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                totals[sample.name] = totals.get(sample.name, 0.0) + sample.value
        return Counts(
            batches=totals["blindpairs_batch_images_count"],
            images=totals["blindpairs_batch_images_sum"],
            encode_s=totals.get("blindpairs_encode_seconds_total", 0.0),
        )

    def wait(self) -> None:
        """Wait until it listens at `port`.

        Raises:
            ServiceFailedError: it ended, or takes too long.
        """
        assert self._process is not None
        end_s = time.monotonic() + START_S
        while time.monotonic() < end_s and self._process.poll() is None:
            said = self._log.read_text("utf-8", "replace")
            if found := LISTENS.search(said):
                self.port = int(found[1])
                return
            time.sleep(0.1)
        raise ServiceFailedError(
            f"the service did not begin to listen (exit code {self._process.poll()}); it says: "
            f"{self._log.read_text('utf-8', 'replace')[-2000:]}"
        )
