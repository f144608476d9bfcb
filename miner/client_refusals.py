"""What the service says when it refuses, and whether that is about one image or the request."""

from __future__ import annotations

from pydantic import BaseModel, ValidationError

from miner.client_answers import Problem
from miner.errors import ServiceError
from miner.schema import Reason

MOST_MESSAGE_CHARS = 500
"""Of what a service says about an error."""

IMAGE_CODES = frozenset(reason.value for reason in Reason)
"""Codes of a refusal that is about an image, not about the request."""


class Refusal(BaseModel):
    """The body of an answer that refuses a request."""

    error: Problem


def refusal_of(url: str, status: int, body: bytes) -> ServiceError:
    """The error that an answer other than 2xx stands for."""
    try:
        said = Refusal.model_validate_json(body).error
    except ValidationError:
        said = Problem(message=body.decode("utf-8", "replace"))
    code = said.code if said.code is not None else said.type
    message = said.message[:MOST_MESSAGE_CHARS] or "it says nothing more"
    named = f" ({code})" if code is not None else ""
    return ServiceError(
        f"{url} answered {status}{named}: {message}",
        status=status,
        code=None if code is None else str(code),
    )


def image_problem(status: int, body: bytes) -> Problem | None:
    """What is wrong with the one image of a request, where it is the image that is refused.

    A service that is asked for one image alone says so for the request as a whole.
    """
    try:
        problem = Refusal.model_validate_json(body).error
    except ValidationError:
        return None
    is_image = status == 413 or (status == 422 and problem.code in IMAGE_CODES)
    return problem if is_image else None


def is_too_much(status: int, body: bytes) -> bool:
    """Whether a request is refused for how many images it has, or how many bytes."""
    return status == 413 or (status == 422 and b'"too_many_images"' in body)
