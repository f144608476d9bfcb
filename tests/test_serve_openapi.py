"""The OpenAPI document: every status that is answered is in it, and no part of it is missing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from fastapi import Request

from pipelines.serving import openapi
from pipelines.serving.app import build_app
from pipelines.serving.bodies import is_raw
from pipelines.serving.models import ErrorResponse
from pipelines.serving.openapi import RAW_IMAGE, REASONS, errors_of
from tests.serving import settings_of

SOURCES = sorted(Path(openapi.__file__).parent.glob("*.py"))


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return build_app(settings_of()).openapi()


def parts_of(part: Any, name: str) -> list[Any]:
    """Values of a name, anywhere in a document."""
    if isinstance(part, dict):
        inner = [each for value in part.values() for each in parts_of(value, name)]
        return inner + ([part[name]] if name in part else [])
    return [x for each in part for x in parts_of(each, name)] if isinstance(part, list) else []


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    refs = {ref for ref in parts_of(document, "$ref") if isinstance(ref, str)}
    assert "#/components/schemas/ErrorResponse" in refs
    prefix = "#/components/schemas/"
    known = {prefix + name for name in document["components"]["schemas"]}
    assert refs <= known


def test_every_status_that_is_raised_has_its_reason() -> None:
    raised = {
        int(status)
        for source in SOURCES
        for status in re.findall(r"HttpError\(\s*(\d{3})\b", source.read_text("utf-8"))
    }
    assert {401, 413, 422, 429} <= raised
    # 500 is what nobody planned; a head of a request that is too large has no route yet.
    assert raised - {500, 431} <= REASONS.keys()


def test_errors_are_described_in_the_one_shape(document: dict[str, Any]) -> None:
    assert errors_of(404, 429) == {
        404: {"model": ErrorResponse, "description": REASONS[404]},
        429: {"model": ErrorResponse, "description": REASONS[429]},
    }
    ours = "#/components/schemas/ErrorResponse"
    for path, methods in document["paths"].items():
        for route in methods.values():
            for status, response in route["responses"].items():
                if path.startswith("/v1/") and int(status) >= 400 and status != "422":
                    schema = response["content"]["application/json"]["schema"]
                    assert schema == {"$ref": ours}, (path, status)


def test_the_bodies_that_are_described_are_those_that_are_read() -> None:
    for kind in RAW_IMAGE:
        sent = kind.replace("*", "jpeg").encode()
        scope = {"type": "http", "headers": [(b"content-type", sent)]}
        assert is_raw(Request(scope))
