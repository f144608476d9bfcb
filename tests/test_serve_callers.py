"""Who may call: names in Host, and a token."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from pipelines.serving.callers import TOKEN_VARIABLE, Callers
from pipelines.serving.errors import HttpError
from tests.serving import TOKEN, called, settings_of


@pytest.fixture(autouse=True)
def no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "example.org"])
def test_others_need_a_token(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=f"--host {host}: others than this machine could call"):
        Callers(settings_of(host=host))
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    Callers(settings_of(host=host)).check(b"anything", f"Bearer {TOKEN}".encode())


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "[::1]", "localhost"])
def test_this_machine_needs_none(host: str) -> None:
    shown = f"[{host}]" if host == "::1" else host
    Callers(settings_of(host=host)).check(shown.encode(), b"")


@pytest.mark.parametrize("token", ["", "short", "a" * 15, "a token of ümlauts", "two\nlines" * 3])
def test_bad_tokens_are_refused(token: str, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(token, "utf-8")
    with pytest.raises(ValueError, match="it takes at least 16, all printable ASCII"):
        Callers(settings_of(token_file=tmp_path / "token"))


def test_a_token_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--token-file .*nothing cannot be read \(No such file"):
        Callers(settings_of(token_file=tmp_path / "nothing"))


@pytest.mark.parametrize(
    "authorization",
    ["", TOKEN, "Bearer", "Bearer ", f"Basic {TOKEN}", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}"],
)
def test_wrong_tokens_are_refused(authorization: str, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    callers = Callers(settings_of(token_file=tmp_path / "token"))
    with pytest.raises(HttpError, match="the token is missing or wrong") as caught:
        callers.check(b"127.0.0.1", authorization.encode())
    assert caught.value.headers == {"www-authenticate": "Bearer"}
    callers.check(b"127.0.0.1", f"bearer  {TOKEN}".encode())


@pytest.mark.parametrize(
    "host",
    [
        *(b"", b"evil.example", b"127.0.0.1.evil.example", b"[::2]", b"\xff"),
        *(b"[::1].evil.com", b"localhost:8000@evil", b"127.0.0.1:1:evil", b"127.0.0.1/"),
    ],
)
def test_names_of_others_are_refused(host: bytes) -> None:
    callers = Callers(settings_of())
    with pytest.raises(HttpError, match="the Host of the request is none"):
        callers.check(host, b"")
    for good in (b"127.0.0.1:80", b"LOCALHOST", b"[::1]:9"):
        callers.check(good, b"")


def test_names_may_be_given() -> None:
    callers = Callers(settings_of(allowed_hosts="a.example, B.example"))
    callers.check(b"b.example:80", b"")
    with pytest.raises(HttpError, match="the Host of the request is none"):
        callers.check(b"127.0.0.1", b"")
    Callers(settings_of(allowed_hosts="*")).check(b"whoever", b"")


def test_everything_but_health_is_behind_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)

    async def run() -> None:
        async with called(settings_of()) as client:
            for path in ("/", "/metrics", "/openapi.json", "/docs", "/v1/pairs", "/nothing"):
                assert (await client.get(path)).status_code == 401, path
            for path in ("/healthz", "/readyz"):
                assert (await client.get(path)).status_code == 200, path
            headers = {"authorization": f"Bearer {TOKEN}"}
            assert (await client.get("/metrics", headers=headers)).status_code == 200

    asyncio.run(run())
