"""HTTP/1.1 on one connection, for clients that are slow, silent, or mean no good.

Parsing is llhttp's, in C: a client that sends a byte at a time costs little. What a client may take
is bounded here: the time for a head, its size, pieces of a body that are too small to be meant, and
the time in which it reads what it asked for.
"""

from __future__ import annotations

import asyncio
import json
import logging
from http import HTTPStatus
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from pipelines.serving.errors import HttpError

log = logging.getLogger(__name__)

MAX_HEAD_BYTES = 2**16
"""Largest head of a request, in bytes."""

READ_BYTES = 2**16
"""What is read from a connection at a time, in bytes; then others have their turn."""

MOST_PIPELINED = 32
"""Requests of a connection that may wait for the answer to the one before."""

FREE_PIECES = 4096
"""Pieces of a body that may be of any size."""

LEAST_PIECE_BYTES = 64
"""Mean size of further ones, in bytes."""

NO_HTTP = HttpError(400, "bad_http", "the request is no HTTP/1.1 that is read here")

HEAD_TOO_LARGE = HttpError(
    431,
    "head_too_large",
    f"the head of the request is larger than {MAX_HEAD_BYTES} bytes; send less",
)

NO_UPGRADE = HttpError(
    400,
    "no_other_protocol",
    "no protocol but HTTP/1.1 is spoken here; send a body without the header Upgrade",
)

TOO_MANY = HttpError(
    429,
    "too_many_pipelined",
    f"more than {MOST_PIPELINED} requests wait on this connection; read the answers first",
    retry_after_s=1,
)


class _RefusedError(Exception):
    """Stops the parser."""


class PunctualProtocol(HttpToolsProtocol):
    """Hangs up on clients that are silent, or slow to send a head or to read an answer."""

    patience_s = 20.0
    """How long a head may take to arrive, and a piece of an answer to be taken, in seconds."""

    _num_head_bytes = 0
    _num_fed_bytes = 0
    _num_pieces = 0
    _num_piece_bytes = 0
    _is_in_head = False
    _is_refused = False
    _head_clock: asyncio.TimerHandle | None = None
    _write_clock: asyncio.TimerHandle | None = None
    _running: RequestResponseCycle | None = None
    _refusal = NO_HTTP

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is there; its time runs."""
        super().connection_made(transport)
        transport.max_size = READ_BYTES  # type: ignore[attr-defined]
        self._start_head_clock()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone: whoever works on its request is told, also where others follow it."""
        self._stop_head_clock()
        self._stop_write_clock()
        if self._running is not None and not self._is_idle:
            self._running.disconnected = True
            self._running.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes came; what is no request is refused, and a head that does not end is cut off."""
        if self._is_refused:
            return
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # It was answered as if no other protocol had been asked for.
            pass
        except httptools.HttpParserError as error:
            log.debug("a request is refused: %s", error)
            self._say(self._refusal)
            return
        if self._is_in_head:
            # What the parser still holds of a header was not counted by it.
            self._num_fed_bytes += len(data)
            if self._num_fed_bytes > MAX_HEAD_BYTES + READ_BYTES:
                self._say(HEAD_TOO_LARGE)
        elif self._is_idle and self._head_clock is None:
            # Empty lines before a request are no head; they get as long as one.
            self._start_head_clock()

    # -- what the parser finds ----------------------------------------------------------------

    def on_message_begin(self) -> None:
        """A head begins."""
        super().on_message_begin()
        self._is_in_head, self._num_head_bytes, self._num_fed_bytes = True, 0, 0
        self._num_pieces = self._num_piece_bytes = 0
        if self._head_clock is None:
            self._start_head_clock()

    def on_url(self, url: bytes) -> None:
        """A part of the path."""
        self._count_head(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header."""
        self._count_head(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """A whole head came."""
        self._is_in_head = False
        self._stop_head_clock()
        if len(self.pipeline) >= MOST_PIPELINED:
            self._refusal = TOO_MANY
            raise _RefusedError
        if self._would_lose_body():
            self._refusal = NO_UPGRADE
            raise _RefusedError
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of a body; a client that sends it in crumbs is hung up on."""
        self._num_pieces += 1
        self._num_piece_bytes += len(body)
        least = LEAST_PIECE_BYTES * self._num_pieces
        if self._num_pieces > FREE_PIECES and self._num_piece_bytes < least:
            raise _RefusedError
        super().on_body(body)

    def _would_lose_body(self) -> bool:
        """Whether the parser takes a body for the words of another protocol."""
        bodies = (b"content-length", b"transfer-encoding")
        has_body = any(name in bodies and value != b"0" for name, value in self.headers)
        return has_body and self.parser.should_upgrade()

    def _count_head(self, num_bytes: int) -> None:
        self._num_head_bytes += num_bytes
        if self._num_head_bytes > MAX_HEAD_BYTES:
            self._refusal = HEAD_TOO_LARGE
            raise _RefusedError

    @property
    def _is_idle(self) -> bool:
        """Whether no answer is under way."""
        return self._running is None or self._running.response_complete

    def _say(self, error: HttpError) -> None:
        """Answer, where no other answer is under way, and hang up.

        What the client is still sending is taken in for a while and thrown away: one that is cut
        off while it sends never reads the answer.
        """
        self._is_refused, self._is_in_head = True, False
        if self.transport.is_closing() or not self._is_idle:
            self._hang_up()
            return
        body = json.dumps({"error": error.said}).encode()
        head = (
            f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}\r\n"
            "content-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.write_eof()
        self._stop_head_clock()
        self._start_head_clock()

    # -- clocks -------------------------------------------------------------------------------

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        """An answer was written; where it is the last, it has to be read in time."""
        super().on_response_complete()
        if self.transport.is_closing():
            self._start_write_clock()

    def timeout_keep_alive_handler(self) -> None:
        """The client has asked nothing for long."""
        self._hang_up()

    def pause_writing(self) -> None:
        """The client does not read as fast as we write; its time runs."""
        super().pause_writing()
        self._start_write_clock()

    def resume_writing(self) -> None:
        """It has read; where this was the last answer, the rest has to be read in time, too."""
        self._stop_write_clock()
        super().resume_writing()
        if self.transport.is_closing():
            self._start_write_clock()

    def _hang_up(self) -> None:
        """Close; what is not taken in time then is thrown away."""
        self.transport.close()
        self._start_write_clock()

    def _start_head_clock(self) -> None:
        self._head_clock = self.loop.call_later(self.patience_s, self._hang_up)

    def _stop_head_clock(self) -> None:
        if self._head_clock is not None:
            self._head_clock.cancel()
            self._head_clock = None

    def _start_write_clock(self) -> None:
        num_bytes = self.transport.get_write_buffer_size()
        if self._write_clock is None and num_bytes:
            self._write_clock = self.loop.call_later(self.patience_s, self._look, num_bytes)

    def _look(self, num_bytes: int) -> None:
        """Hang up on a client that has taken nothing since so many bytes were left."""
        self._write_clock = None
        if self.transport.get_write_buffer_size() < num_bytes:
            self._start_write_clock()
        else:
            self.transport.abort()

    def _stop_write_clock(self) -> None:
        if self._write_clock is not None:
            self._write_clock.cancel()
            self._write_clock = None
