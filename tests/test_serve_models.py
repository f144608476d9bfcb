"""Bodies as models: what clients may send, and that the answers' models are the answers."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from pipelines.serving import models
from pipelines.serving.errors import HttpError
from pipelines.serving.models import EmbeddingsRequest, PartnersRequest, RequestModel, schema_of


@pytest.mark.parametrize(
    ("model", "body"),
    [
        (EmbeddingsRequest, '{"input": "", "url": "x"}'),
        (EmbeddingsRequest, "{}"),
        (EmbeddingsRequest, '{"input": {"a": "b"}}'),
        (EmbeddingsRequest, '{"input": [1]}'),
        (EmbeddingsRequest, '{"input": "", "encoding_format": "hex"}'),
        (EmbeddingsRequest, '{"input": "", "model": ["clip"]}'),
        (EmbeddingsRequest, f'{{"input": "", "model": "{"m" * 1025}"}}'),
        (PartnersRequest, '{"image_ids": ["x"]}'),
        (PartnersRequest, '{"limit": "5"}'),
        (PartnersRequest, '{"limit": true}'),
        (PartnersRequest, '{"limit": 1.5}'),
        (PartnersRequest, '{"limit": 0}'),
        (PartnersRequest, '{"limit": 1001}'),
        (PartnersRequest, '{"clip_above": NaN}'),
        (PartnersRequest, '{"clip_above": 1.1}'),
        (PartnersRequest, '{"dino_below": -1.1}'),
        (PartnersRequest, f'{{"image_id": "{"i" * 1025}"}}'),
    ],
)
def test_bodies_are_taken_as_they_are_or_not_at_all(model: type[BaseModel], body: str) -> None:
    with pytest.raises(ValidationError):
        model.model_validate_json(body)


def test_bodies_that_are_good() -> None:
    one = EmbeddingsRequest.model_validate_json('{"input": "QQ==", "model": null}')
    assert (one.input, one.model, one.encoding_format) == ("QQ==", None, "float")
    asked = PartnersRequest.model_validate_json('{"clip_above": 1, "dino_below": -1.0}')
    assert (asked.clip_above, asked.dino_below, asked.limit) == (1.0, -1.0, 100)


def models_of_module() -> list[type[BaseModel]]:
    found = [each for each in vars(models).values() if isinstance(each, type)]
    return [each for each in found if issubclass(each, BaseModel) and each is not BaseModel]


def test_every_field_that_clients_send_is_described() -> None:
    sent = [m for m in models_of_module() if issubclass(m, RequestModel) and m is not RequestModel]
    assert {EmbeddingsRequest, PartnersRequest} <= set(sent)
    for model in sent:
        properties = schema_of(model, "validation")["properties"]
        assert properties.keys() == model.model_fields.keys()
        for name, field in properties.items():
            assert field["description"], f"{model.__name__}.{name}"


def test_schemas_point_into_the_document_they_go_into() -> None:
    schema = schema_of(models.EmbeddingsResponse, "serialization")
    assert "$defs" not in schema
    refs: list[str] = []

    def walk(part: Any) -> None:
        if isinstance(part, dict):
            refs.extend(value for key, value in part.items() if key == "$ref")
            part = list(part.values())
        for each in part if isinstance(part, list) else []:
            walk(each)

    walk(schema)
    assert refs == [
        "#/components/schemas/EmbeddingItem",
        "#/components/schemas/Usage",
    ]


def test_an_error_has_the_fields_that_its_model_shows() -> None:
    said = HttpError(422, "a_code", "what and why").said
    assert said.keys() == models.ErrorFields.model_fields.keys()
    assert models.ErrorFields.model_validate(said).param is None
