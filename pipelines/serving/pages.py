"""Pages for people: the report of the index, and the API described with no script."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from pipelines.serving.api_page import api_page
from pipelines.serving.service import Service

router = APIRouter(include_in_schema=False)

PLAIN_PAGE = {
    "content-security-policy": (
        "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"
    )
}
"""A policy under which a page has its colours, and no script."""

PLAIN_PICTURE = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; sandbox"
}
"""The same for a drawing."""


@router.get("/")
async def home(request: Request) -> Response:
    """The report where there is an index, else the description of the API."""
    service: Service = request.app.state.service
    return RedirectResponse("docs" if service.index is None else "report/index.html", 307)


@router.get("/docs")
async def docs(request: Request) -> Response:
    """The API on one page, which loads nothing."""
    return HTMLResponse(api_page(request.app.openapi()), headers=PLAIN_PAGE)


@router.get("/report/{name:path}")
async def report(request: Request, name: str) -> Response:
    """A file of the report; its page has a policy of its own."""
    service: Service = request.app.state.service
    index = service.needed_index
    data, kind = await service.lookups.run(lambda _: index.report_file(name or "index.html"))
    headers = {"content-security-policy": "frame-ancestors 'none'"}
    if kind.startswith("image/svg"):
        headers = PLAIN_PICTURE
    return Response(data, media_type=kind, headers=headers)
