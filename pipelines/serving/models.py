"""What goes in and out of the service, as models that its OpenAPI document shows."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from miner.records import Json

MAX_NAME_CHARS = 1024


class RequestModel(BaseModel):
    """A body that clients send: no unknown field, no number that stands in a string."""

    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)


class ResponseModel(BaseModel):
    """A body that clients get."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class EmbeddingsRequest(RequestModel):
    """Images to embed."""

    input: str | list[str]
    """An image's bytes in base64, or a list of such; URLs are never fetched."""

    model: str | None = Field(default=None, max_length=MAX_NAME_CHARS)
    """`clip`, `dino`, or an encoder's name or id; null takes both."""

    encoding_format: Literal["float", "base64"] = "float"
    """Numbers, or base64 of little-endian float32."""


class PartnersRequest(RequestModel):
    """Whose blind partners are sought: exactly one of `image_id` and `image`."""

    image_id: str | None = Field(default=None, max_length=MAX_NAME_CHARS)
    """An image of the index."""

    image: str | None = None
    """An image's bytes in base64; URLs are never fetched."""

    clip_above: float | None = Field(default=None, ge=-1, le=1, allow_inf_nan=False)
    """Partners have a CLIP cosine strictly above this; default: the join's."""

    dino_below: float | None = Field(default=None, ge=-1, le=1, allow_inf_nan=False)
    """... and a DINO cosine strictly below this; default: the join's."""

    limit: int = Field(default=100, ge=1, le=1000)
    """Partners in the answer, those of the highest CLIP cosine; all are counted."""


class ErrorFields(ResponseModel):
    """Why something was not done."""

    message: str
    type: str
    code: str
    param: str | None


class ErrorResponse(ResponseModel):
    """The body of every answer with a status of 400 and above."""

    error: ErrorFields


class EmbeddingItem(ResponseModel):
    """One image's vector by one encoder, or why it has none."""

    object: Literal["embedding", "error"]
    index: int
    """The image's place in the request."""
    model: str | None = None
    """encoder_id."""
    embedding: list[float] | str | None = None
    """Of unit length, rounded to float16 as a run stores it."""
    error: ErrorFields | None = None


class Usage(ResponseModel):
    """How much was done."""

    num_images: int


class EmbeddingsResponse(ResponseModel):
    """Vectors, by image and encoder."""

    object: Literal["list"]
    data: list[EmbeddingItem]
    encoders: dict[str, dict[str, Any]]
    """By encoder_id, what decides its vectors."""
    usage: Usage


class Partner(ResponseModel):
    """An image of the index that CLIP calls the same and DINO calls different."""

    image_id: str
    clip_cos: float
    dino_cos: float
    gap: float
    borderline: bool
    num_duplicates: int
    """Further copies of equal bytes that it stands for."""
    sha256: str
    width: int
    height: int
    caption: str | None
    url: str | None
    label: str | None


class PartnersResponse(ResponseModel):
    """Blind partners by descending CLIP cosine."""

    object: Literal["list"]
    data: list[Partner]
    image_id: str | None
    """The image of the index whose bytes these are, if any."""
    clip_above: float
    dino_below: float
    num_partners: int
    """How many there are, in the answer or not."""
    exact: bool


class PairsResponse(ResponseModel):
    """Pairs of the selection; `next_cursor` asks for those that follow."""

    object: Literal["list"]
    data: list[dict[str, Any]]
    next_cursor: str | None


class StateResponse(ResponseModel):
    """How the service is."""

    status: Literal["ok", "starting", "draining", "broken"]


def schema_of(model: type[BaseModel], mode: Literal["validation", "serialization"]) -> Json:
    """A model's JSON schema for an OpenAPI document, with its parts inside it."""
    schema: Json = model.model_json_schema(mode=mode, ref_template="#/components/schemas/{model}")
    schema.pop("$defs", None)
    return schema
