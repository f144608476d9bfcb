"""What the service says when it cannot answer: one shape for all of its errors."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from miner.records import Json

log = logging.getLogger(__name__)

TYPES = {
    401: "authentication_error",
    404: "not_found_error",
    408: "timeout_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "unavailable_error",
    504: "timeout_error",
}
"""The `type` of an error by its status; of all others the request is wrong."""

CODES = {400: "bad_request", 404: "not_found", 405: "method_not_allowed"}


class HttpError(Exception):
    """A request that is not answered as asked.

    Attributes:
        status: of HTTP.
        code: one word for programs.
        message: fact, limit, and what to do.
        param: what of the request is wrong.
        retry_after_s: when to come again, in seconds.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message
        self.param, self.retry_after_s = param, retry_after_s

    @property
    def headers(self) -> dict[str, str]:
        """Those that go with it."""
        headers = {}
        if self.retry_after_s is not None:
            headers["retry-after"] = str(self.retry_after_s)
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        return headers

    @property
    def said(self) -> Json:
        """The error as an item or a body says it."""
        return said(self.status, self.code, self.message, self.param)


def said(status: int, code: str, message: str, param: str | None = None) -> Json:
    """An error's own fields."""
    kind = TYPES.get(status, "invalid_request_error")
    return {"message": message, "type": kind, "code": code, "param": param}


def answer(error: HttpError) -> JSONResponse:
    """An error as a response."""
    return JSONResponse({"error": error.said}, error.status, error.headers)


def invalid(problems: Sequence[Mapping[str, Any]]) -> HttpError:
    """What pydantic says of a request, in a sentence that repeats nothing of the request."""
    first = problems[0]
    place = [str(part) for part in first["loc"] if part not in ("body", "query", "path")]
    param = ".".join(place)[:100] or None
    is_syntax = first["type"] in ("json_invalid", "value_error.jsondecode")
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    message = str(first["msg"]).removeprefix("Value error, ")[:300]
    return HttpError(
        400 if is_syntax else 422,
        "invalid_json" if is_syntax else "invalid_request",
        f"{param or 'the request'}: {message}{more}; see /docs for what is asked for",
        param=param,
    )


def install(app: FastAPI) -> None:
    """Have every error of an app said in this shape, and none with a traceback."""

    @app.exception_handler(HttpError)
    async def of_service(request: Request, error: HttpError) -> JSONResponse:
        return answer(error)

    @app.exception_handler(RequestValidationError)
    async def of_validation(request: Request, error: RequestValidationError) -> JSONResponse:
        return answer(invalid(error.errors()))

    @app.exception_handler(HTTPException)
    async def of_http(request: Request, error: HTTPException) -> JSONResponse:
        code = CODES.get(error.status_code, "http_error")
        # Paths and methods that are none of ours.
        message = f"{error.detail}; /docs says what there is"
        body = {"error": said(error.status_code, code, message)}
        return JSONResponse(body, error.status_code, dict(error.headers or {}))

    @app.exception_handler(Exception)
    async def of_ours(request: Request, error: Exception) -> JSONResponse:
        # The server logs the traceback; the client learns nothing of our insides.
        return answer(HttpError(500, "internal", "the service failed; its log says why"))
