"""GET /v1/models: the encoders, by the names under which they are asked for."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter, Request

from miner.records import Json
from pipelines.serving.models import ResponseModel
from pipelines.serving.openapi import errors_of
from pipelines.serving.service import ROLES, Service

router = APIRouter()


class ModelItem(ResponseModel):
    """An encoder."""

    id: str
    """encoder_id, which changes where anything does that decides a vector."""
    object: Literal["model"]
    role: Literal["clip", "dino"]
    """Also a name for it, as `model` or in `encoders`."""
    record: dict[str, Any]
    """What decides its vectors, and what computes them here."""


class ModelsResponse(ResponseModel):
    """Both encoders."""

    object: Literal["list"]
    data: list[ModelItem]


@router.get(
    "/v1/models",
    summary="List the encoders",
    response_model=ModelsResponse,
    responses=errors_of(400, 401, 404, 429, 503, 504),
)
async def models(request: Request) -> Json:
    """Either is asked for as `clip` or `dino`, by its name or by its id."""
    service: Service = request.app.state.service
    records = service.encoder_records(ROLES)
    items = [
        {"id": encoder_id, "object": "model", "role": record["role"], "record": record}
        for encoder_id, record in records.items()
    ]
    return {"object": "list", "data": items}
