"""The page about the API, out of its OpenAPI document."""

from __future__ import annotations

import pytest

from miner.records import Json
from pipelines.serve import create_app
from pipelines.serving.api_page import api_page, kind_of, marked
from tests.serving import settings_of


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"type": "integer", "minimum": 1, "maximum": 1000}, "integer, at least 1, at most 1000"),
        ({"type": "string", "maxLength": 9}, "string, at most 9 characters"),
        ({"anyOf": [{"type": "number"}, {"type": "null"}]}, "number"),
        (
            {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]},
            "string or list of string",
        ),
        ({"type": "string", "enum": ["a", "b"]}, "a, b"),
        ({"type": "string", "format": "binary"}, "the image's bytes"),
        ({}, "anything"),
    ],
)
def test_kinds_in_words(schema: Json, said: str) -> None:
    assert kind_of(schema) == said


def test_text_is_text() -> None:
    assert marked("`a` <b> `c>d`") == "<code>a</code> &lt;b&gt; <code>c&gt;d</code>"


def test_every_route_and_field_is_there() -> None:
    document = create_app(settings_of()).openapi()
    page = api_page(document)
    for path, methods in document["paths"].items():
        for method, route in methods.items():
            assert f"<h2>{method.upper()} {path}</h2>" in page
            for each in route.get("parameters", []):
                assert f"<code>{each['name']}</code>" in page
    for name in ("input", "model", "encoding_format", "image_id"):
        assert f"<code>{name}</code>" in page
    assert "; default float" in page
    assert "`" not in page
