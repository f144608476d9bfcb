"""GET /v1/pairs and GET /v1/images: what a run selected, and its original images."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import ConfigDict, Field
from pydantic_core import to_json

from miner.pair_pages import CURSOR_CHARS, CursorError, PairFilter, PairPages
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
    # Another run may have other bytes by the same name, so a browser asks whether it is the same.
    "cache-control": "private, no-cache",
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
    response_model=None,
    responses={
        200: {"model": PairsResponse, "description": "A page of pairs."},
        **errors_of(400, 401, 404, 422, 429, 503, 504),
    },
)
async def pairs(request: Request, asked: Annotated[PairsQuery, Query()]) -> Response:
    """Pairs of the selection with both images' metadata, filtered and sorted."""
    service: Service = request.app.state.service
    pages = service.needed_index.pages
    try:
        body = await asyncio.to_thread(_page, pages, asked)
    except CursorError as error:
        raise HttpError(422, "invalid_cursor", str(error), param="cursor") from error
    return Response(body, media_type="application/json")


def _page(pages: PairPages, asked: PairsQuery) -> bytes:
    """A page as JSON; large ones are not written on the event loop.

    Raises:
        CursorError: the cursor is none of these pages.
    """
    found, cursor = pages.page(asked.part(PairFilter), asked.limit, asked.cursor)
    return to_json({"object": "list", "data": found, "next_cursor": cursor})


@router.get(
    "/v1/images/{image_id:path}",
    summary="Get an image's original bytes",
    response_class=Response,
    responses={
        200: {
            "content": {kind: {} for kind in MIME_TYPES.values()},
            "description": "The bytes as they lie in the shard, checked against their sha256.",
        },
        304: {"description": "They are those of If-None-Match."},
        **errors_of(400, 401, 404, 422, 429, 503, 504),
    },
)
async def images(
    request: Request, image_id: Annotated[str, Path(max_length=MAX_NAME_CHARS)]
) -> Response:
    """The type is that of the bytes, never what a name or a header said of them."""
    service: Service = request.app.state.service
    index = service.needed_index
    row, data = await service.reads.run(lambda _: index.image(image_id))
    name = f"{row['sha256'][:16]}.{EXTENSIONS[row['format']]}"
    headers = {
        **IMAGE_HEADERS,
        "content-disposition": f'inline; filename="{name}"',
        "etag": f'"{row["sha256"]}"',
    }
    if headers["etag"] in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(data, media_type=MIME_TYPES[row["format"]], headers=headers)
