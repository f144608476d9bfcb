"""When to come again: how fast work has been done of late."""

from __future__ import annotations

import math
import time

LONGEST_RETRY_S = 60

MEMORY = 0.8
"""What a batch counts once the next one is done."""


class Rate:
    """How fast things are done; asked from any thread."""

    def __init__(self) -> None:
        self._number, self._busy_s, self._last_s = 0.0, 0.0, -math.inf

    def add(self, number: int, asked_s: float) -> None:
        """Some are done, of which the first was asked for at this time of `time.monotonic`."""
        now_s = time.monotonic()
        self._number = MEMORY * self._number + number
        # While nothing was asked for nothing could be done.
        self._busy_s = MEMORY * self._busy_s + now_s - max(asked_s, self._last_s)
        self._last_s = now_s

    def retry_after_s(self, number: int) -> int:
        """When so many will be done, in whole seconds."""
        expected_s = number * self._busy_s / self._number if self._number else 0
        return min(max(math.ceil(expected_s), 1), LONGEST_RETRY_S)
