"""Parts of the OpenAPI document that several routes share, and its page without a script."""

from __future__ import annotations

from typing import Any

from pipelines.serving.models import ErrorResponse

REASONS = {
    400: "The request is no JSON, or its Host is none of ours.",
    401: "The token is missing or wrong.",
    404: "There is no such thing here.",
    408: "The request took too long to arrive.",
    413: "The body is too large.",
    415: "The Content-Type is none that is read.",
    422: "The request, or every image of it, is refused; the message says why.",
    429: "Too much at a time; come again after Retry-After.",
    503: "The service is starting or stopping.",
    504: "The answer took too long.",
}

RAW_IMAGE: dict[str, Any] = {
    kind: {"schema": {"type": "string", "format": "binary"}}
    for kind in ("application/octet-stream", "image/*")
}
"""A body that is an image's bytes."""


def errors_of(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Descriptions of a route's errors."""
    return {status: {"model": ErrorResponse, "description": REASONS[status]} for status in statuses}
