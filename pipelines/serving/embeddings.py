"""POST /v1/embeddings: images to unit vectors."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator, Sequence
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
        is_single = True
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
        is_single = isinstance(asked.input, str)
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
    errors = [each for each in answers if isinstance(each, HttpError)]
    all_failed = len(errors) == len(answers)
    if all_failed and (is_single or errors[0].status >= 500):
        raise errors[0]
    said: Json = {
        "object": "list",
        "encoders": service.encoder_records(roles),
        "usage": {"num_images": len(images)},
    }
    if all_failed:
        said["error"] = HttpError(
            422,
            "no_good_image",
            f"none of the {len(images)} images could be embedded; each item says why",
            param="input",
        ).said
    ids = {role: service.encoders[role].encoder_id for role in roles}
    body = await asyncio.to_thread(_body, said, answers, ids, as_base64=encoding_format == "base64")
    return Response(body, 422 if all_failed else 200, media_type="application/json")


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
        outcomes = await asyncio.gather(*futures, return_exceptions=True)
    finally:
        for future in futures:
            future.cancel()
    answers: list[Answer | HttpError] = []
    left = iter(outcomes)
    for image in images:
        each = next(left) if isinstance(image, bytes) else image
        # Where the encoder failed at an image, others may do; anything else ends the request.
        if isinstance(each, BaseException) and not isinstance(each, HttpError):
            raise each
        if isinstance(each, HttpError) and each.status == 503:
            raise each
        answers.append(refusal(each, param) if isinstance(each, Refused) else each)
    return answers


def refusal(refused: Refused, param: str) -> HttpError:
    """Why an image was not embedded; `code` is a reason of `miner.schema.Reason`."""
    return HttpError(
        422, refused.reason.value, f"{refused.reason.value}: {refused.detail}", param=param
    )


def _body(
    said: Json, answers: Sequence[Answer | HttpError], ids: dict[str, str], *, as_base64: bool
) -> bytes:
    """An answer as JSON, written vector by vector: other threads have their turn in between."""
    items = [
        to_json(item)
        for index, answer in enumerate(answers)
        for item in _items(index, answer, ids, as_base64=as_base64)
    ]
    return to_json(said)[:-1] + b',"data":[' + b",".join(items) + b"]}"


def _items(
    index: int, answer: Answer | HttpError, ids: dict[str, str], *, as_base64: bool
) -> Iterator[Json]:
    if isinstance(answer, HttpError):
        yield {"object": "error", "index": index, "error": answer.said}
        return
    assert not isinstance(answer, Refused)
    for role, encoder_id in ids.items():
        yield {
            "object": "embedding",
            "index": index,
            "model": encoder_id,
            "embedding": _written(answer.vectors[role], as_base64=as_base64),
        }


def _written(vector_D: np.ndarray, *, as_base64: bool) -> Any:
    wide_D = vector_D.astype("<f4")
    return base64.b64encode(wide_D.tobytes()).decode() if as_base64 else wide_D.tolist()
