"""POST /v1/embeddings: images to unit vectors."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Query, Request, Response
from pydantic_core import to_json

from miner.decode import Refused
from miner.records import Json
from pipelines.serving.batch_encoding import Answer
from pipelines.serving.batcher import Batcher
from pipelines.serving.bodies import decode_base64, is_raw, read_json
from pipelines.serving.errors import HttpError
from pipelines.serving.models import EmbeddingsRequest, EmbeddingsResponse, schema_of
from pipelines.serving.openapi import RAW_IMAGE, errors_of
from pipelines.serving.service import Service

router = APIRouter()

Images = list[bytes | HttpError]


@router.post(
    "/v1/embeddings",
    summary="Embed images with one encoder or both",
    response_model=None,
    responses={
        200: {"model": EmbeddingsResponse, "description": "Vectors; one bad image fails alone."},
        **errors_of(400, 401, 408, 413, 415, 422, 429, 503, 504),
    },
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": schema_of(EmbeddingsRequest, "validation")},
                **RAW_IMAGE,
            },
        }
    },
)
async def embeddings(
    request: Request,
    encoders: Annotated[
        str | None,
        Query(max_length=1024, description="For raw bytes: clip, dino, or both with a comma."),
    ] = None,
    encoding_format: Annotated[
        Literal["float", "base64"] | None,
        Query(description="For raw bytes: numbers (default), or base64 as in JSON."),
    ] = None,
) -> Response:
    """Embed an image (raw bytes) or several (JSON, base64); rows are float16 as a run's."""
    service: Service = request.app.state.service
    if is_raw(request):
        names = None if encoders is None else encoders.split(",")
        roles = service.roles_of(names, "encoders")
        images: Images = [await request.body()]
    else:
        asked = await read_json(request, EmbeddingsRequest)
        given = {"encoders": encoders, "encoding_format": encoding_format}
        for param, value in given.items():
            if value is not None:
                raise HttpError(
                    422,
                    "no_effect",
                    "with a JSON body its fields model and encoding_format say this",
                    param=param,
                )
        encoding_format = asked.encoding_format
        roles = service.roles_of(None if asked.model is None else [asked.model], "model")
        texts = [asked.input] if isinstance(asked.input, str) else asked.input
        most = service.settings.max_batch
        if not 1 <= len(texts) <= most:
            raise HttpError(
                422,
                "too_many_images" if texts else "no_image",
                f"{len(texts)} images in a request, which takes 1 to {most}; send several requests",
                param="input",
            )
        images = await decode_base64(texts, "input")
    answers = await embed(service.batcher, images, roles)
    items = [
        item
        for index, each in enumerate(answers)
        for item in _items(service, index, each, roles, as_base64=encoding_format == "base64")
    ]
    errors = [each for each in answers if isinstance(each, HttpError)]
    if len(errors) == len(answers) and len(answers) == 1:
        raise errors[0]
    body = {
        "object": "list",
        "data": items,
        "encoders": service.encoder_records(roles),
        "usage": {"num_images": len(images)},
    }
    if len(errors) == len(answers):
        body["error"] = HttpError(
            422,
            "no_good_image",
            f"none of the {len(images)} images could be embedded; each item says why",
            param="input",
        ).said
    status = 422 if len(errors) == len(answers) else 200
    return Response(to_json(body), status, media_type="application/json")


async def embed(
    batcher: Batcher, images: Images, roles: Sequence[str], param: str = "input"
) -> list[Answer | HttpError]:
    """What became of each image; cancelling this takes them all out of the queue.

    Raises:
        HttpError: the queue is full (429), or the service stops (503).
    """
    good = [each for each in images if isinstance(each, bytes)]
    futures = batcher.submit(good, roles)
    try:
        embedded = iter(await asyncio.gather(*futures))
    finally:
        for future in futures:
            future.cancel()
    answers = [next(embedded) if isinstance(each, bytes) else each for each in images]
    return [refusal(each, param) if isinstance(each, Refused) else each for each in answers]


def refusal(refused: Refused, param: str) -> HttpError:
    """Why an image was not embedded; `code` is a reason of `miner.schema.Reason`."""
    return HttpError(
        422, refused.reason.value, f"{refused.reason.value}: {refused.detail}", param=param
    )


def _items(
    service: Service,
    index: int,
    answer: Answer | HttpError,
    roles: Sequence[str],
    *,
    as_base64: bool,
) -> list[Json]:
    if isinstance(answer, HttpError):
        return [{"object": "error", "index": index, "error": answer.said}]
    assert not isinstance(answer, Refused)
    return [
        {
            "object": "embedding",
            "index": index,
            "model": service.encoders[role].encoder_id,
            "embedding": _written(answer.vectors[role], as_base64=as_base64),
        }
        for role in roles
    ]


def _written(vector_D: np.ndarray, *, as_base64: bool) -> Any:
    wide_D = vector_D.astype("<f4")
    return base64.b64encode(wide_D.tobytes()).decode() if as_base64 else wide_D.tolist()
