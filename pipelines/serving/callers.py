"""Who may call the service: names in Host, and a bearer token."""

from __future__ import annotations

import hashlib
import hmac
import os
import re

from pipelines.serving.errors import HttpError
from pipelines.serving.settings import LOCAL_NAMES, ServeSettings

TOKEN_VARIABLE = "BLINDPAIRS_TOKEN"
LEAST_TOKEN_CHARS = 16

_HOST = re.compile(r"(\[[0-9a-f:.%]+\]|[^][:@/?#\\\s]+)(?::[0-9]{0,5})?")


class Callers:
    """Lets requests through by their Host and their token."""

    def __init__(self, settings: ServeSettings) -> None:
        """Read the token.

        Raises:
            ValueError: it cannot be read, is too short, or is missing where others can call.
        """
        token = read_token(settings)
        self._token = None if token is None else _digest(token.encode())
        self._hosts = allowed_hosts(settings, has_token=token is not None)

    def check(self, host: bytes, authorization: bytes) -> None:
        """Refuse a request that is not for us, or whose sender is not known.

        Raises:
            HttpError: the Host is none of ours (400), or the token is wrong (401).
        """
        if self._hosts is not None and _name(host) not in self._hosts:
            raise HttpError(
                400,
                "host_not_allowed",
                "the Host of the request is none that is answered here; see --allowed-hosts",
                param="host",
            )
        if self._token is not None:
            scheme, _, token = authorization.partition(b" ")
            # Digests are of one length, so that the time says nothing about the token.
            same = hmac.compare_digest(_digest(token.strip()), self._token)
            if scheme.lower() != b"bearer" or not same:
                raise HttpError(
                    401,
                    "invalid_token",
                    "the token is missing or wrong; send `Authorization: Bearer TOKEN`",
                    param="authorization",
                )


def read_token(settings: ServeSettings) -> str | None:
    """The token that callers have to send, if any.

    Raises:
        ValueError: it cannot be read, is too short, or is missing where others can call.
    """
    token = os.environ.get(TOKEN_VARIABLE)
    if settings.token_file is not None:
        try:
            token = settings.token_file.read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ValueError(
                f"--token-file {settings.token_file} cannot be read ({reason}); give another one"
            ) from error
    if token is None:
        if not settings.is_local:
            raise ValueError(
                f"--host {settings.host}: others than this machine could call; give a token by "
                f"--token-file or {TOKEN_VARIABLE}, or listen on 127.0.0.1"
            )
        return None
    if len(token) < LEAST_TOKEN_CHARS or not token.isascii() or not token.isprintable():
        raise ValueError(
            f"the token has {len(token)} characters; it takes at least {LEAST_TOKEN_CHARS}, all "
            "printable ASCII, as `openssl rand -hex 32` gives"
        )
    return token


def allowed_hosts(settings: ServeSettings, *, has_token: bool) -> frozenset[str] | None:
    """Names in Host that are answered; None for all.

    Without a token a page from elsewhere could have its own name resolved to this machine.
    """
    if settings.allowed_hosts is None:
        return None if has_token else frozenset({*LOCAL_NAMES, settings.host.lower()})
    names = {name.strip().lower() for name in settings.allowed_hosts.split(",")}
    return None if "*" in names else frozenset(names)


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()


def _name(host: bytes) -> str:
    """A Host without its port, in small letters; empty where it is none."""
    found = _HOST.fullmatch(host.decode("latin-1").lower())
    return "" if found is None else found[1]
