"""Pages for people: the report of the index, and the API described with no script."""

from __future__ import annotations

import asyncio

import jinja2
from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from pipelines.serving.service import Service

router = APIRouter(include_in_schema=False)

PLAIN_PAGE = {"content-security-policy": "default-src 'none'; frame-ancestors 'none'"}

PLAIN_PICTURE = "default-src 'none'; style-src 'unsafe-inline'; sandbox"
"""A policy under which a drawing has its colours, and no script."""

DOCS = jinja2.Environment(
    autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
).from_string(
    """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{{ title }}: the API</title>
<h1>{{ title }} {{ version }}</h1>
<p>{{ description }} The whole description: <a href="openapi.json">openapi.json</a>.</p>
{% for path, methods in paths.items() %}
{% for method, route in methods.items() %}
<h2>{{ method | upper }} {{ path }}</h2>
<p>{{ route.summary }}. {{ route.get("description", "") }}</p>
<ul>
{% for each in route.get("parameters", []) %}
<li><code>{{ each.name }}</code> ({{ each.in }}) {{ each.get("description", "") }}</li>
{% endfor %}
</ul>
{% for kind, body in route.get("requestBody", {}).get("content", {}).items() %}
<h3>{{ kind }}</h3>
<ul>
{% for name, field in body.schema.get("properties", {}).items() %}
<li><code>{{ name }}</code> {{ field.get("description", "") }}</li>
{% endfor %}
</ul>
{% endfor %}
<p>Answers: {{ route.responses | join(", ") }}</p>
{% endfor %}
{% endfor %}
</html>
"""
)


@router.get("/")
async def home(request: Request) -> Response:
    """The report where there is an index, else the description of the API."""
    service: Service = request.app.state.service
    return RedirectResponse("docs" if service.index is None else "report/index.html", 307)


@router.get("/docs")
async def docs(request: Request) -> Response:
    """The API on one page, which loads nothing."""
    document = request.app.openapi()
    text = DOCS.render(**document["info"], paths=document["paths"])
    return HTMLResponse(text, headers=PLAIN_PAGE)


@router.get("/report/{name:path}")
async def report(request: Request, name: str) -> Response:
    """A file of the report; its page has a policy of its own."""
    service: Service = request.app.state.service
    data, kind = await asyncio.to_thread(service.needed_index.report_file, name or "index.html")
    headers = {"content-security-policy": "frame-ancestors 'none'"}
    if kind.startswith("image/svg"):
        headers = {"content-security-policy": PLAIN_PICTURE}
    return Response(data, media_type=kind, headers=headers)
