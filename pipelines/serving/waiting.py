"""Images that wait for a decoder: what is slow goes alone, and then lets other requests pass."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from miner.passage import ORDER_BYTES, ORDER_IMAGES
from pipelines.serving.batch_encoding import Ticket

ORDER_PIXELS = 2**20
"""Of all images of an order together; one larger than that goes alone."""

MOST_SEGMENTS = 64
"""Of a JPEG that are looked at for its size."""

_NO_SIZE = frozenset({0xC4, 0xC8, 0xCC})
"""JPEG markers among those of frames that begin none: tables, and one that is reserved."""


class Waiting:
    """Images by request, first come, first served; after a slow image other requests come first.

    Small images do not take turns: requests that all end together leave the workers idle. Its
    owner's lock guards it.
    """

    def __init__(self) -> None:
        self._requests: deque[deque[Ticket]] = deque()
        self._number = 0

    def __len__(self) -> int:
        return self._number

    def add(self, tickets: Sequence[Ticket]) -> None:
        """Take in the images of a request."""
        if tickets:
            self._requests.append(deque(tickets))
            self._number += len(tickets)

    def remove(self, ticket: Ticket) -> bool:
        """Take out an image; False where it is not here any more."""
        for request in self._requests:
            if ticket in request:
                request.remove(ticket)
                self._number -= 1
                if not request:
                    self._requests.remove(request)
                return True
        return False

    def clear(self) -> None:
        """Forget all."""
        self._requests.clear()
        self._number = 0

    def take(self, most: int) -> tuple[list[Ticket], bool]:
        """Images for one order, at least one, and whether it may take long.

        Args:
            most: images that there is room for, > 0.
        """
        tickets: list[Ticket] = []
        pixels = num_bytes = 0
        while self._requests and len(tickets) < min(most, ORDER_IMAGES):
            first = self._requests[0][0]
            pixels += num_pixels(first.data)
            num_bytes += len(first.data)
            is_full = pixels > ORDER_PIXELS or num_bytes > ORDER_BYTES
            if is_full and tickets:
                break
            tickets.append(self._next(is_slow=is_full))
            if is_full:
                return tickets, True
        return tickets, False

    def _next(self, *, is_slow: bool) -> Ticket:
        request = self._requests.popleft()
        ticket = request.popleft()
        if request and is_slow:
            self._requests.append(request)
        elif request:
            self._requests.appendleft(request)
        self._number -= 1
        return ticket


def num_pixels(data: bytes) -> int:
    """What a PNG or a JPEG says of its size; of all others that they are large.

    It decides who waits for whom and nothing else, so a lie does no harm but that.
    """
    if data.startswith(b"\x89PNG\r\n\x1a\n") and len(data) >= 24:
        return int.from_bytes(data[16:20]) * int.from_bytes(data[20:24])
    if not data.startswith(b"\xff\xd8"):
        return ORDER_PIXELS + 1
    at = 2
    for _ in range(MOST_SEGMENTS):
        if len(data) < at + 9 or data[at] != 0xFF:
            break
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in _NO_SIZE:
            return int.from_bytes(data[at + 5 : at + 7]) * int.from_bytes(data[at + 7 : at + 9])
        at += 2 + int.from_bytes(data[at + 2 : at + 4])
    return ORDER_PIXELS + 1
