"""Calls against a real server that misbehaves: what is tried again, and for how long."""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from miner import client_calls
from miner.client_calls import Answer, Calls, _pause_s, _seconds
from miner.errors import ResourceError, ServiceError
from tests.http_scripts import Step, breaks_off, dripping, hangs_up, playing, says


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_calls, "FIRST_PAUSE_S", 0.005)


Open = Callable[..., Calls]


@pytest.fixture
def calls() -> Iterator[Open]:
    opened: list[Calls] = []

    def call(
        url: str, token: str | None = None, timeout_s: float = 20.0, retries: int = 3
    ) -> Calls:
        opened.append(Calls(url, token, timeout_s, retries))
        return opened[-1]

    yield call
    for each in opened:
        each.close()


@pytest.mark.parametrize(
    "trouble",
    [
        *(says(429), says(500, b"Internal Server Error"), says(502)),
        *(says(503, Retry_After="0"), says(504), hangs_up, breaks_off),
    ],
    ids=["429", "a proxy's 500", "502", "503", "504", "hangs up", "breaks off"],
)
def test_what_may_pass_is_tried_again(calls: Open, trouble: Step) -> None:
    with playing(trouble, trouble, says(200, {"a": 1})) as script:
        answer = calls(script.url).ask("POST", "/x", json={"b": 2})
    assert answer == Answer(200, b'{"a": 1}')
    assert [body for *_, body in script.asked] == [{"b": 2}] * 3


@pytest.mark.parametrize("status", [400, 401, 404, 413, 415, 422, 500])
def test_what_will_not_pass_is_asked_once(calls: Open, status: int) -> None:
    body = b'{"error": {"message": "no"}}' if status == 500 else b"no"
    with playing(says(status, body)) as script:
        assert calls(script.url).ask("GET", "/x") == Answer(status, body)
    assert len(script.asked) == 1


def test_tries_are_counted_and_the_last_answer_is_given(calls: Open) -> None:
    with playing(says(503, b"away")) as script:
        assert calls(script.url, retries=2).ask("GET", "/x").status == 503
        assert len(script.asked) == 3
        assert calls(script.url, retries=0).ask("GET", "/x").status == 503
    assert len(script.asked) == 4


def test_nobody_there_is_an_error(calls: Open) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(
        ServiceError, match=r"no answer in 2 tries within 20 s .ConnectError"
    ) as info:
        calls(f"http://127.0.0.1:{port}", retries=1).ask("GET", "/x")
    assert info.value.status is None
    assert info.value.exit_code == 4


def test_retry_after_is_waited_for(calls: Open) -> None:
    with playing(says(429, Retry_After="1"), says(200)) as script:
        start_s = time.monotonic()
        assert calls(script.url).ask("GET", "/x").is_ok
        assert time.monotonic() - start_s >= 1.0


def test_a_retry_after_beyond_the_deadline_ends_the_call_at_once(calls: Open) -> None:
    with playing(says(429, Retry_After="3600")) as script:
        start_s = time.monotonic()
        assert calls(script.url).ask("GET", "/x") == Answer(429, b"", 3600.0)
        assert time.monotonic() - start_s < 15
    assert len(script.asked) == 1


def test_an_answer_that_drips_in_ends_with_the_deadline(calls: Open) -> None:
    stop = threading.Event()
    try:
        with playing(dripping(stop)) as script:
            start_s = time.monotonic()
            with pytest.raises(ServiceError, match=r"bytes of the answer's body came in time"):
                calls(script.url, timeout_s=0.5).ask("GET", "/x")
            assert 0.5 <= time.monotonic() - start_s < 15
    finally:
        stop.set()


def test_a_proxy_of_the_environment_is_not_told_the_token(
    calls: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    with playing(says(200, b"proxy")) as proxy, playing(says(200, b"service")) as script:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        monkeypatch.setenv("no_proxy", "")
        assert calls(script.url, token="secret").ask("GET", "/x").body == b"service"
    assert proxy.asked == []


def test_an_encoding_that_was_not_asked_for_is_the_clients_own_error(calls: Open) -> None:
    with (
        playing(says(200, b"no gzip", Content_Encoding="gzip")) as script,
        pytest.raises(ServiceError, match=r"/x came with the Content-Encoding 'gzip'"),
    ):
        calls(script.url).ask("GET", "/x")
    ((_, _, headers, _),) = script.asked
    assert headers["Accept-Encoding"] == "identity"


def test_an_answer_has_a_largest_size(calls: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_calls, "MOST_BYTES", 1000)
    with playing(says(200, b"x" * 1000), says(200, b"x" * 1001)) as script:
        own = calls(script.url)
        assert len(own.ask("GET", "/x").body) == 1000
        with pytest.raises(ServiceError, match="/x answered with more than 1000 bytes"):
            own.ask("GET", "/x")


def test_numbers_that_json_does_not_know_are_not_sent(calls: Open) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        calls("http://a").ask("POST", "/x", json={"clip_above": float("nan")})


def test_silence_ends_with_the_deadline(calls: Open) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ServiceError, match=r"in 1 tries within 0.3 s .ReadTimeout"):
            calls(url, timeout_s=0.3).ask("GET", "/x")
        assert calls(url, timeout_s=0.3).try_once("/x") is None


def test_pauses_double_with_jitter_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_calls, "FIRST_PAUSE_S", 0.1)
    gone = ConnectionError()
    for num_tries, most_s in ((1, 0.1), (2, 0.2), (5, 1.6), (50, 5.0)):
        drawn = [_pause_s(num_tries, gone) for _ in range(200)]
        assert most_s / 2 <= min(drawn) < max(drawn) <= most_s
        assert max(drawn) - min(drawn) > most_s / 4
    assert 7.05 <= _pause_s(1, Answer(429, b"", 7.0)) <= 7.1


def test_retry_after_is_read_as_seconds_or_a_date() -> None:
    assert _seconds("12") == 12.0
    soon = datetime.now(UTC) + timedelta(seconds=90)
    assert 60 < _seconds(format_datetime(soon, usegmt=True)) <= 90
    assert 60 < _seconds(soon.strftime("%a, %d %b %Y %H:%M:%S -0000")) <= 90
    never = "Mon, 01 Jan 99999999999999999999 00:00:00 GMT", "Fri, 31 Dec 9999 23:59:59 -9999"
    for nothing in (*never, "", "soon", "-5", "1.5", "²", "Wed, 21 Oct 2015 07:28:00 GMT"):
        assert _seconds(nothing) == 0.0


def test_the_token_goes_along_and_redirects_are_not_followed(calls: Open) -> None:
    with playing(says(307, Location="/elsewhere")) as script:
        assert calls(script.url + "/", token="secret\n").ask("GET", "/x").status == 307
    ((method, path, headers, _),) = script.asked
    assert (method, path) == ("GET", "/x")
    assert headers["Authorization"] == "Bearer secret"


def test_arguments_out_of_range_are_refused(calls: Open) -> None:
    for token in ("", " ", "a\nb", "ä"):
        with pytest.raises(ValueError, match="printable ASCII"):
            calls("http://a", token=token)
    for timeout_s in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match=r"timeout_s is .*; it has to be above 0 and finite"):
            calls("http://a", timeout_s=timeout_s)
    with pytest.raises(ValueError, match="retries is -1; it has to be 0 or more"):
        calls("http://a", retries=-1)


def test_httpcore_is_asked_for_where_it_is_missing(
    calls: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "miner.client_wire", raising=False)
    monkeypatch.setitem(sys.modules, "httpcore", None)
    with pytest.raises(ResourceError, match=r'pip install "blindpairs\[serve\]"'):
        calls("http://a")
