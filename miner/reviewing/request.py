"""One request to the server of a report: whether it may be answered, and with what.

A request names a file of the report by a plain name; nothing else of the run can be read.
"""

from __future__ import annotations

import hmac
import json
import logging
import re
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from miner.errors import MinerError, StoreError
from miner.review import Decision, parse_decisions
from miner.reviewing.kept import keep_decisions, read_limited
from miner.reviewing.served_page import served_page

if TYPE_CHECKING:
    from miner.reviewing.server import ReviewServer

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 8 * 2**20
"""Largest request to save decisions, in bytes; the page sends some hundred at a time."""

TIMEOUT_S = 30.0
"""How long a request may take to arrive, in seconds."""

JSON_LINES = "application/x-ndjson"
"""Content type of decisions. A form of another page cannot send it."""

TYPES = {
    "html": "text/html; charset=utf-8",
    "csv": "text/csv; charset=utf-8",
    "svg": "image/svg+xml",
    "jpg": "image/jpeg",
    "png": "image/png",
    "webp": "image/webp",
    "gif": "image/gif",
    "bmp": "image/bmp",
    "tiff": "image/tiff",
    "avif": "image/avif",
}
"""Content types of a report's files, by extension; a file of another one is not served."""

FILE = re.compile(r"(?:(?:images|thumbs)/)?[a-z0-9][a-z0-9_-]*(?:\.view)?\.([a-z]+)")
"""A file of a report, by its path within it."""

REVIEWER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class _Refused(Exception):
    """A request that is not answered as it wishes; becomes a status and a sentence."""

    def __init__(self, status: HTTPStatus, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class ReviewRequest(BaseHTTPRequestHandler):
    """Answers one request; `server` is the server that it came to."""

    server: ReviewServer
    protocol_version = "HTTP/1.1"
    server_version = "blindpairs"
    sys_version = ""
    timeout = TIMEOUT_S

    def do_GET(self) -> None:
        """A file of the report, or the decisions of a reviewer."""
        self._answer(self._read)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        """Save decisions."""
        with self.server.saving():
            self._answer(self._save)

    def log_message(self, format: str, *args: Any) -> None:
        """Say it to the log, without the token."""
        log.info("%s", (format % args).replace(self.server.token, "..."))

    # -- what is asked ----------------------------------------------------------------------

    def _answer(self, act: Any) -> None:
        try:
            status, kind, body = act(self._path())
        except _Refused as refused:
            self._refuse(refused.status, str(refused))
        except FileNotFoundError:
            self._refuse(HTTPStatus.NOT_FOUND, "there is no such file")
        except (MinerError, OSError) as error:
            log.warning("%s", error)
            self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, str(error))
        else:
            self._send(status, kind, body)

    def _path(self) -> str:
        """What is asked for, below the token."""
        if self.headers.get("Host") not in self.server.hosts:
            raise _Refused(HTTPStatus.FORBIDDEN, "this server answers to 127.0.0.1 alone")
        try:
            parts = urlsplit(self.path).path.split("/", 2)
        except ValueError as error:
            raise _Refused(HTTPStatus.BAD_REQUEST, f"no address: {error}") from error
        _, token, path = [*parts, "", ""][:3]
        if not hmac.compare_digest(token.encode(), self.server.token.encode()):
            raise _Refused(HTTPStatus.NOT_FOUND, "use the address that `blindpairs report` printed")
        return path

    def _read(self, path: str) -> tuple[HTTPStatus, str, bytes]:
        files = self.server.store.files
        if path == "review.jsonl":
            reviewer = parse_qs(urlsplit(self.path).query).get("reviewer", [""])[0]
            if not REVIEWER.fullmatch(reviewer):
                raise _Refused(HTTPStatus.BAD_REQUEST, "give ?reviewer=NAME: letters and digits")
            kept = f"review/{reviewer}.jsonl"
            data = read_limited(self.server.store, kept) if files.exists(kept) else b""
            data = _lines_of(reviewer, data)
            return HTTPStatus.OK, f"{JSON_LINES}; charset=utf-8", data
        path = path or "index.html"
        found = FILE.fullmatch(path)
        if found is None or found[1] not in TYPES:
            raise _Refused(HTTPStatus.NOT_FOUND, "there is no such file")
        data = files.read(f"{self.server.report}/{path}")
        return HTTPStatus.OK, TYPES[found[1]], served_page(data) if path == "index.html" else data

    def _save(self, path: str) -> tuple[HTTPStatus, str, bytes]:
        if path != "review.jsonl":
            raise _Refused(HTTPStatus.NOT_FOUND, "decisions are saved to review.jsonl")
        if self.headers.get("Origin") not in {f"http://{host}" for host in self.server.hosts}:
            raise _Refused(HTTPStatus.FORBIDDEN, "only the report's own page may save decisions")
        if self.headers.get_content_type() != JSON_LINES:
            raise _Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"decisions come as {JSON_LINES}")
        decisions = _decisions(self._body())
        with self.server.store.writing():
            keep_decisions(self.server.store, decisions)
        return HTTPStatus.NO_CONTENT, "text/plain; charset=utf-8", b""

    def _body(self) -> bytes:
        said = self.headers.get("Content-Length", "")
        if not re.fullmatch(r"\d{1,15}", said, re.ASCII):
            raise _Refused(HTTPStatus.LENGTH_REQUIRED, "Content-Length is missing")
        if int(said) > MAX_BODY_BYTES:
            sentence = f"{said} bytes, limit {MAX_BODY_BYTES}; send fewer decisions at a time"
            raise _Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, sentence)
        body = self.rfile.read(int(said))
        if len(body) < int(said):
            raise _Refused(HTTPStatus.BAD_REQUEST, f"{len(body)} of {said} bytes arrived")
        return body

    # -- what is answered -------------------------------------------------------------------

    def _refuse(self, status: HTTPStatus, sentence: str) -> None:
        # What else the request holds was not read, so it must not be taken for another one.
        self.close_connection = True
        self._send(status, "text/plain; charset=utf-8", f"{sentence}\n".encode())

    def _send(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(status)
        is_page = kind == TYPES["html"]
        # A page's policy stands in the page; whatever else is opened by itself can do nothing.
        policy = "frame-ancestors 'none'" if is_page else "default-src 'none'; sandbox"
        headers = {
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            "Content-Security-Policy": policy,
            "X-Content-Type-Options": "nosniff",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-store",
        }
        if status is HTTPStatus.NO_CONTENT:
            del headers["Content-Length"]
        if self.close_connection:
            headers["Connection"] = "close"
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _lines_of(reviewer: str, data: bytes) -> bytes:
    """A file's lines without those of others, whose places stay empty; what is damaged stays."""

    def is_anothers(line: bytes) -> bool:
        try:
            return bool(json.loads(line.decode())["reviewer"] != reviewer)
        except (ValueError, TypeError, KeyError, RecursionError):
            return False

    lines = data.split(b"\n")
    return b"\n".join(b"" if line and is_anothers(line) else line for line in lines)


def _decisions(body: bytes) -> list[Decision]:
    try:
        return parse_decisions(body, "the request")
    except StoreError as error:
        raise _Refused(HTTPStatus.UNPROCESSABLE_ENTITY, str(error)) from error
