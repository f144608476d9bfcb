"""Bodies of requests: raw image bytes, or strict JSON with images in base64."""

from __future__ import annotations

import asyncio
import binascii
import re
from collections.abc import Iterator, Mapping
from typing import TypeVar

from fastapi import Request
from pydantic import ValidationError

from pipelines.serving.errors import HttpError, invalid
from pipelines.serving.models import RequestModel

ModelT = TypeVar("ModelT", bound=RequestModel)

INLINE_BYTES = 2**16
"""Bodies up to this size are parsed on the event loop; a larger one would hold up others."""

MOST_VALUES = 2**13
"""Values that a JSON body may have, by its commas and brackets; base64 has none of these."""

_PIECE_CHARS = 2**18

_DATA_URL = re.compile(r"\s*data:[\w.+-]+/[\w.+-]+;base64,", re.IGNORECASE)

_DATA_URL_CHARS = 100

_URL = re.compile(r"^\s*(https?|ftp|file|data|s3|gs):", re.IGNORECASE)


def media_type(request: Request) -> str:
    """The Content-Type without its parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def is_raw(request: Request) -> bool:
    """Whether the body is an image's bytes and no JSON.

    Raises:
        HttpError: it is neither, or compressed (415).
    """
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding != "identity":
        raise HttpError(
            415,
            "unsupported_encoding",
            "the Content-Encoding is none that is read; send the body uncompressed",
            param="content-encoding",
        )
    kind = media_type(request)
    if kind == "application/json":
        return False
    if kind == "application/octet-stream" or kind.startswith("image/"):
        return True
    raise HttpError(
        415,
        "unsupported_media_type",
        "the Content-Type is none that is read; send an image's own bytes as image/* or "
        "application/octet-stream (curl --data-binary @FILE), or application/json, no form",
        param="content-type",
    )


async def read_json(request: Request, model: type[ModelT]) -> ModelT:
    """A body as a model.

    Raises:
        HttpError: it is no JSON (400), or not what the model says (422).
    """
    body = await request.body()
    if len(body) <= INLINE_BYTES:
        return parse(body, model)
    return await asyncio.to_thread(parse, body, model)


def parse(body: bytes, model: type[ModelT]) -> ModelT:
    """JSON bytes as a model; no Python object of unknown depth is made on the way.

    Raises:
        HttpError: as `read_json`.
    """
    # Each value takes memory many times its bytes, and each wrong one is a problem of its own.
    num_values = sum(body.count(each) for each in (b",", b"[", b"{"))
    if num_values > MOST_VALUES:
        raise HttpError(
            422,
            "too_many_values",
            f"the body has more than {MOST_VALUES} values; send fewer images at a time",
        )
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False, include_context=False)
        for problem in problems:
            if problem["loc"] == ("image_url",):
                raise url_refused("image_url") from None
        raise invalid(problems) from None


def url_refused(param: str) -> HttpError:
    """What is said to someone who sends a URL for an image."""
    return HttpError(
        422,
        "url_not_fetched",
        "this service fetches no URLs; send the image's bytes themselves, or their base64",
        param=param,
    )


async def decode_base64(texts: list[str], param: str) -> list[bytes | HttpError]:
    """Images out of base64, or why one is none; large ones on another thread."""
    if sum(map(len, texts)) <= INLINE_BYTES:
        return [decode_one(text, param) for text in texts]
    return await asyncio.to_thread(lambda: [decode_one(text, param) for text in texts])


def decode_one(text: str, param: str) -> bytes | HttpError:
    """One image out of base64, or why it is none; `data:image/...;base64,` may stand before it."""
    start = 0
    if _URL.match(text[:16]):
        found = _DATA_URL.match(text[:_DATA_URL_CHARS])
        if found is None:
            return url_refused(param)
        start = found.end()
    try:
        return b"".join(_pieces(text[start:].encode("ascii").translate(None, b"\r\n")))
    except (binascii.Error, UnicodeEncodeError):
        return HttpError(
            422, "invalid_base64", "the text is no base64 of an image's bytes", param=param
        )


def _pieces(text: bytes) -> Iterator[bytes]:
    """What base64 stands for, bit by bit, so that other threads have their turn."""
    for start in range(0, len(text), _PIECE_CHARS):
        piece = text[start : start + _PIECE_CHARS]
        if start + _PIECE_CHARS < len(text) and piece.endswith(b"="):
            raise binascii.Error("it ends before its end")
        yield binascii.a2b_base64(piece, strict_mode=True)


def parse_query(fields: Mapping[str, object], model: type[ModelT]) -> ModelT:
    """Parameters of a URL as the model that stands for a body, too."""
    return model.model_validate(fields)
