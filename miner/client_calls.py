"""One call to the service: tried again where that may help, and never longer than its deadline.

One deadline holds for all tries of a call: to connect, to send, to wait, and to read head and body.
No proxy is asked, whatever `HTTP_PROXY` and its like say: a token is for the service alone.

Every call of the service may be repeated: none changes anything. Tried again are connections that
fail or break, the answers 429, 502, 503 and 504, and a proxy's 500, after a pause that doubles,
with jitter, and is never shorter than the `Retry-After` of the answer. Any other answer is final.
"""

from __future__ import annotations

import json as json_text
import logging
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from miner.client_url import base_of, check_service_url, query_of
from miner.errors import ResourceError, ServiceError

log = logging.getLogger(__name__)

AGAIN = frozenset({429, 502, 503, 504})
"""Answers that another try may change."""

FIRST_PAUSE_S = 0.1
MOST_PAUSE_S = 5.0

MOST_BYTES = 2**29
"""Of an answer; the largest are original images."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back, whole.

    Attributes:
        status: of HTTP.
        body: its bytes.
        retry_after_s: the pause that the service asks for; 0 where it asks for none.
    """

    status: int
    body: bytes
    retry_after_s: float = 0.0

    @property
    def is_ok(self) -> bool:
        """Whether the service did what was asked."""
        return 200 <= self.status < 300


class Calls:
    """Calls to one service, over connections that stay open.

    Attributes:
        url: of the service, without a slash at its end.
        timeout_s: of a call, all its tries and pauses together.
        retries: further tries of a call.
    """

    def __init__(self, url: str, token: str | None, timeout_s: float, retries: int) -> None:
        """Prepare; connects when something is asked.

        Raises:
            ValueError: an argument is out of its range.
            ResourceError: httpcore is not installed.
        """
        check_service_url(url)
        token = None if token is None else token.strip()
        if token is not None and not (token and token.isascii() and token.isprintable()):
            raise ValueError("the token is empty or holds what is not printable ASCII; check it")
        if not 0 < timeout_s < float("inf"):
            raise ValueError(f"timeout_s is {timeout_s}; it has to be above 0 and finite")
        if retries < 0:
            raise ValueError(f"retries is {retries}; it has to be 0 or more")
        try:
            from miner.client_wire import open_pool
        except ImportError as error:
            raise ResourceError(
                'the client needs httpcore, which is missing: pip install "blindpairs[serve]"'
            ) from error
        self.url, self.timeout_s, self.retries = base_of(url), timeout_s, retries
        self._headers = {"Host": urlsplit(url).netloc, "Accept-Encoding": "identity"}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"
        self._pool = open_pool()

    def close(self) -> None:
        """Close the connections."""
        self._pool.close()

    def ask(
        self,
        method: str,
        path: str,
        *,
        json: Mapping[str, Any] | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> Answer:
        """Call, and call again where that may help.

        Args:
            method: of HTTP.
            path: from the service's URL on, quoted.
            json: the body, if any.
            params: the query, if any.

        Returns:
            The last answer, whatever its status.

        Raises:
            ServiceError: no try was answered in time.
            ValueError: a number of the body is not finite.
        """
        end_s = time.monotonic() + self.timeout_s
        target = path + query_of(params)
        body = None if json is None else json_text.dumps(json, allow_nan=False).encode()
        for num_tries in range(1, self.retries + 2):
            outcome = self._try(method, target, body, end_s)
            if isinstance(outcome, Answer) and not _may_pass(outcome):
                return outcome
            pause_s = _pause_s(num_tries, outcome)
            if num_tries > self.retries or time.monotonic() + pause_s >= end_s:
                break
            log.info("%s%s: %s; again in %.1f s", self.url, path, _seen(outcome), pause_s)
            time.sleep(pause_s)
        if isinstance(outcome, Answer):
            return outcome
        raise ServiceError(
            f"{self.url}{path} gave no answer in {num_tries} tries within {self.timeout_s:g} s "
            f"({_seen(outcome)}); see whether the service runs there, or give more timeout_s"
        ) from outcome

    def try_once(self, path: str) -> Answer | None:
        """GET a path in a single try; None where nobody answers."""
        outcome = self._try("GET", path, None, time.monotonic() + self.timeout_s)
        return outcome if isinstance(outcome, Answer) else None

    def _try(
        self, method: str, target: str, body: bytes | None, end_s: float
    ) -> Answer | Exception:
        """One try, which ends by the deadline however slowly the answer drips in.

        Raises:
            ServiceError: the answer is too large, or in an encoding that was not asked for.
        """
        import httpcore

        from miner.client_wire import until

        headers = self._headers | ({"Content-Type": "application/json"} if body is not None else {})
        found = bytearray()
        try:
            with (
                until(end_s),
                self._pool.stream(
                    method, self.url + target, headers=list(headers.items()), content=body
                ) as response,
            ):
                for chunk in response.iter_stream():
                    found += chunk
                    if len(found) > MOST_BYTES:
                        raise ServiceError(
                            f"{self.url}{target} answered with more than {MOST_BYTES} bytes, which "
                            "no answer of the service has; see whether it is another program"
                        )
        except httpcore.ReadTimeout:
            return httpcore.ReadTimeout(f"{len(found)} bytes of the answer's body came in time")
        except (
            httpcore.NetworkError,
            httpcore.TimeoutException,
            httpcore.RemoteProtocolError,
        ) as error:
            return error
        said = {name.lower(): value.decode("latin-1") for name, value in response.headers}
        if (encoding := said.get(b"content-encoding", "identity")).lower() != "identity":
            raise ServiceError(
                f"{self.url}{target} came with the Content-Encoding {encoding[:40]!r}, which "
                "nobody asked for; see what stands between here and the service"
            )
        return Answer(response.status, bytes(found), _seconds(said.get(b"retry-after", "")))


def _may_pass(answer: Answer) -> bool:
    """Whether another try may be answered otherwise.

    A 500 that is not in the service's own words is that of a proxy which lost its replica.
    """
    return answer.status in AGAIN or (answer.status == 500 and b'"error"' not in answer.body)


def _pause_s(num_tries: int, outcome: Answer | Exception) -> float:
    """Seconds before the next try: some of what doubles, after what the service asked for."""
    most_s = min(FIRST_PAUSE_S * 2.0 ** min(num_tries - 1, 60), MOST_PAUSE_S)
    drawn_s = random.uniform(0.5, 1.0) * most_s
    return drawn_s + (outcome.retry_after_s if isinstance(outcome, Answer) else 0.0)


def _seconds(retry_after: str) -> float:
    """What a Retry-After header asks for: seconds or a date; 0 where it is neither."""
    if retry_after.isascii() and retry_after.isdigit():
        return float(retry_after)
    try:
        moment = parsedate_to_datetime(retry_after)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return max((moment - datetime.now(UTC)).total_seconds(), 0.0)
    except (ValueError, OverflowError):
        # A date that no calendar has may have come over the wire, too.
        return 0.0


def _seen(outcome: Answer | Exception) -> str:
    if isinstance(outcome, Answer):
        return f"status {outcome.status}"
    return f"{type(outcome).__name__}: {outcome}"
