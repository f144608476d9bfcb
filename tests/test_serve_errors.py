"""Errors: one shape whatever went wrong, and nothing of the request or of our insides in it."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from pipelines.serving.errors import HttpError, answer, install, invalid
from pipelines.serving.models import EmbeddingsRequest, ErrorResponse, PartnersRequest


def problems(model: Any, body: bytes) -> list[Any]:
    with pytest.raises(ValidationError) as info:
        model.model_validate_json(body)
    return info.value.errors(include_url=False, include_input=False, include_context=False)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (404, "not_found_error"),
        (413, "invalid_request_error"),
        (422, "invalid_request_error"),
        (429, "rate_limit_error"),
        (503, "unavailable_error"),
        (504, "timeout_error"),
    ],
)
def test_an_errors_type_goes_by_its_status(status: int, kind: str) -> None:
    error = HttpError(status, "a_code", "what and why", param="input")
    assert error.said == {
        "message": "what and why",
        "type": kind,
        "code": "a_code",
        "param": "input",
    }
    assert str(error) == "what and why"


def test_headers_say_when_to_come_again_and_what_proves_who_one_is() -> None:
    assert answer(HttpError(429, "busy", "", retry_after_s=7)).headers["retry-after"] == "7"
    assert HttpError(429, "busy", "", retry_after_s=0).headers == {"retry-after": "0"}
    assert HttpError(401, "token", "").headers == {"www-authenticate": "Bearer"}
    assert HttpError(422, "x", "").headers == {}


def test_what_is_no_json_is_400_and_what_is_wrong_in_it_422() -> None:
    broken = invalid(problems(EmbeddingsRequest, b"{"))
    assert (broken.status, broken.code, broken.param) == (400, "invalid_json", None)
    assert broken.message.startswith("the request: ")
    wrong = invalid(problems(PartnersRequest, b'{"limit": 0}'))
    assert (wrong.status, wrong.code, wrong.param) == (422, "invalid_request", "limit")
    assert wrong.message.startswith("limit: Input should be greater than or equal to 1")
    assert "more)" not in wrong.message


def test_a_refusal_repeats_nothing_and_does_not_grow_with_the_request() -> None:
    secret = b"secret" * 100
    many = b", ".join(b'"%d-%s": 1' % (number, secret) for number in range(40))
    found = problems(EmbeddingsRequest, b'{"input": 3, "encoding_format": "' + secret + b'"}')
    assert "secret" not in invalid(found).message
    error = invalid(problems(EmbeddingsRequest, b'{"input": "", ' + many + b"}"))
    assert "(and 39 more)" in error.message
    assert error.param is not None
    assert len(error.param) <= 100
    assert len(error.message) < 500


def test_a_models_own_words_lose_what_pydantic_puts_before_them() -> None:
    found = {"loc": ("body", "limit"), "type": "value_error", "msg": "Value error, too many"}
    assert invalid([found]).message.startswith("limit: too many; see /docs")


def test_every_error_of_an_app_has_the_one_shape() -> None:
    app = FastAPI()
    install(app)

    @app.get("/own")
    async def own() -> None:
        raise HttpError(429, "busy", "come again", retry_after_s=3)

    @app.get("/ours")
    async def ours() -> None:
        raise RuntimeError("a secret of ours")

    @app.get("/foreign")
    async def foreign() -> None:
        raise HTTPException(418, "a teapot", {"x-kind": "pot"})

    @app.get("/number")
    async def number(n: int) -> int:
        return n

    client = TestClient(app, raise_server_exceptions=False)
    wanted = {
        "/own": (429, "busy"),
        "/ours": (500, "internal"),
        "/foreign": (418, "http_error"),
        "/number?n=secret": (422, "invalid_request"),
        "/nowhere": (404, "not_found"),
    }
    for path, found in wanted.items():
        said = client.get(path)
        error = ErrorResponse.model_validate_json(said.content).error
        assert (said.status_code, error.code) == found
        assert "secret" not in said.text
    assert client.get("/own").headers["retry-after"] == "3"
    assert client.get("/foreign").headers["x-kind"] == "pot"
    assert client.get("/number?n=x").json()["error"]["param"] == "n"
    refused = client.post("/own")
    assert refused.json()["error"]["code"] == "method_not_allowed"
    assert refused.headers["allow"] == "GET"
