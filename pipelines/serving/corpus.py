"""GET /v1/pairs and GET /v1/images: what a run selected, and its original images."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import ConfigDict, Field

from miner.pair_pages import CURSOR_CHARS, PairFilter
from miner.records import Json
from miner.reporting.images import EXTENSIONS
from pipelines.serving.errors import HttpError
from pipelines.serving.index import MIME_TYPES
from pipelines.serving.models import MAX_NAME_CHARS, PairsResponse
from pipelines.serving.openapi import errors_of
from pipelines.serving.service import Service

router = APIRouter()

IMAGE_HEADERS = {
    # What an image's bytes also are, a browser does not run it.
    "content-security-policy": "default-src 'none'; sandbox",
    "cache-control": "private, max-age=31536000, immutable",
}


class PairsQuery(PairFilter):
    """A page of pairs."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    limit: int = Field(default=50, ge=1, le=1000)
    """Pairs to a page."""

    cursor: str | None = Field(default=None, max_length=CURSOR_CHARS)
    """`next_cursor` of the page before; the other parameters stay the same."""


@router.get(
    "/v1/pairs",
    summary="List the selected pairs",
    response_model=PairsResponse,
    responses=errors_of(400, 401, 404, 422, 429, 503, 504),
)
async def pairs(request: Request, asked: Annotated[PairsQuery, Query()]) -> Json:
    """Pairs of the selection with both images' metadata, filtered and sorted."""
    service: Service = request.app.state.service
    pages = service.needed_index.pages
    try:
        found, cursor = await asyncio.to_thread(
            pages.page, asked.part(PairFilter), asked.limit, asked.cursor
        )
    except ValueError as error:
        raise HttpError(422, "invalid_cursor", str(error), param="cursor") from error
    return {"object": "list", "data": found, "next_cursor": cursor}


@router.get(
    "/v1/images/{image_id:path}",
    summary="Get an image's original bytes",
    response_class=Response,
    responses={
        200: {
            "content": {kind: {} for kind in MIME_TYPES.values()},
            "description": "The bytes as they lie in the shard, checked against their sha256.",
        },
        **errors_of(400, 401, 404, 422, 429, 503, 504),
    },
)
async def images(
    request: Request, image_id: Annotated[str, Path(max_length=MAX_NAME_CHARS)]
) -> Response:
    """The type is that of the bytes, never what a name or a header said of them."""
    service: Service = request.app.state.service
    row, data = await asyncio.to_thread(service.needed_index.image, image_id)
    name = f"{row['sha256'][:16]}.{EXTENSIONS[row['format']]}"
    headers = {
        **IMAGE_HEADERS,
        "content-disposition": f'inline; filename="{name}"',
        "etag": f'"{row["sha256"]}"',
    }
    return Response(data, media_type=MIME_TYPES[row["format"]], headers=headers)
