"""POST /v1/blind-partners: images of the index that CLIP confuses with one, and DINO does not."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Annotated

import numpy as np
import torch
from fastapi import APIRouter, Query, Request, Response
from pydantic_core import to_json

from miner.partner_search import Partner, PartnerSearch
from miner.partner_search import Query as Wanted
from miner.records import Json
from miner.sample_lookup import SampleLookup
from pipelines.serving.batch_encoding import Embedded
from pipelines.serving.bodies import (
    INLINE_BYTES,
    decode_one,
    is_raw,
    parse_query,
    read_json,
    refuse_unknown,
)
from pipelines.serving.embeddings import embed
from pipelines.serving.errors import HttpError
from pipelines.serving.models import PartnersRequest, PartnersResponse, schema_of
from pipelines.serving.openapi import RAW_IMAGE, errors_of
from pipelines.serving.service import ROLES, Service

router = APIRouter()

METADATA = ("sha256", "width", "height", "caption", "url", "label")

Cosine = Annotated[float | None, Query(ge=-1, le=1, allow_inf_nan=False)]


@router.post(
    "/v1/blind-partners",
    summary="Find the blind partners of an image",
    response_model=None,
    responses={
        200: {"model": PartnersResponse, "description": "By descending CLIP cosine."},
        **errors_of(400, 401, 404, 408, 413, 415, 422, 429, 503, 504),
    },
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": schema_of(PartnersRequest, "validation")},
                **RAW_IMAGE,
            },
        }
    },
)
async def blind_partners(
    request: Request,
    clip_above: Cosine = None,
    dino_below: Cosine = None,
    limit: Annotated[int | None, Query(ge=1, le=1000)] = None,
) -> Response:
    """Exact: for an image of the index what its join says; any other is compared in the same way.

    Where near-copies were collapsed, the one that stands for them is asked and answered; another
    image is taken as it is, for a copy of none.
    """
    service: Service = request.app.state.service
    index = service.needed_index
    if index.search is None:
        raise HttpError(422, "index_not_searchable", str(index.why_not_searchable))
    given = {"clip_above": clip_above, "dino_below": dino_below, "limit": limit}
    refuse_unknown(request, given)
    asked_in_url = {name: value for name, value in given.items() if value is not None}
    if is_raw(request):
        asked = parse_query(asked_in_url, PartnersRequest)
        data: bytes | None = await request.body()
    else:
        asked = await read_json(request, PartnersRequest)
        if asked_in_url:
            raise HttpError(
                422,
                "no_effect",
                "with a JSON body these are fields of it",
                param=next(iter(asked_in_url)),
            )
        data = await _image_of(asked)
    if data is None:
        image_id, query = asked.image_id, index.search.stored(str(asked.image_id))
        if query is None:
            raise HttpError(
                404, "no_such_image", "the index has no image with that id", param="image_id"
            )
    else:
        image_id, query = await _known_or_embedded(service, index.search, data)
    partners, num_partners = await _sought(service, index.search, query, asked)
    said = {
        "object": "list",
        "image_id": image_id,
        "clip_above": index.search.clip_above if asked.clip_above is None else asked.clip_above,
        "dino_below": index.search.dino_below if asked.dino_below is None else asked.dino_below,
        "num_partners": num_partners,
        "exact": True,
    }
    body = await service.lookups.run(lambda _: _written(index.lookup, partners, said))
    return Response(body, media_type="application/json")


async def _image_of(asked: PartnersRequest) -> bytes | None:
    """The image's bytes; None where an image_id is given."""
    if (asked.image is None) == (asked.image_id is None):
        raise HttpError(
            422, "invalid_request", "give exactly one of image_id and image", param="image_id"
        )
    if asked.image is None:
        return None
    data = await asyncio.to_thread(decode_one, asked.image, "image")
    if isinstance(data, HttpError):
        raise data
    return data


async def _known_or_embedded(
    service: Service, search: PartnerSearch, data: bytes
) -> tuple[str | None, Wanted]:
    """An uploaded image as a query: by its bytes where the index has them, else by its vectors."""
    digest = hashlib.sha256
    hashed = digest(data) if len(data) <= INLINE_BYTES else await asyncio.to_thread(digest, data)
    known = search.with_bytes(hashed.hexdigest())
    if known is not None:
        return known
    (answer,) = await embed(service.batcher, [data], ROLES, "image")
    if isinstance(answer, HttpError):
        raise answer
    assert isinstance(answer, Embedded)
    # Vectors as they would be stored (float16), by encoders that may err more than the run's.
    return None, Wanted(
        clip_D=torch.from_numpy(answer.vectors["clip"]),
        dino_E=torch.from_numpy(answer.vectors["dino"]),
        deviations=(service.encoders["clip"].deviation, service.encoders["dino"].deviation),
    )


async def _sought(
    service: Service, search: PartnerSearch, query: Wanted, asked: PartnersRequest
) -> tuple[list[Partner], int]:
    """What a search finds; it ends early where this is cancelled.

    Raises:
        HttpError: too many others wait for theirs (429).
    """
    return await service.searches.run(
        lambda is_stopped: search.partners(
            query,
            clip_above=asked.clip_above,
            dino_below=asked.dino_below,
            limit=asked.limit,
            is_stopped=is_stopped,
        )
    )


def _written(lookup: SampleLookup, partners: list[Partner], said: Json) -> bytes:
    """The body of an answer, as JSON."""
    rows: dict[tuple[int, str], Json] = {}
    # In the order of the shards, each of which is then read once.
    for place in sorted((each.run, each.image_id) for each in partners):
        row = lookup.row(*place)
        assert row is not None
        rows[place] = row
    data = [_item(each, rows[each.run, each.image_id]) for each in partners]
    return to_json({**said, "data": data})


def _item(partner: Partner, row: Json) -> Json:
    return {
        "image_id": partner.image_id,
        # As they stand in `raw`.
        "clip_cos": float(np.float32(partner.clip_cos)),
        "dino_cos": float(np.float32(partner.dino_cos)),
        "gap": float(np.float32(partner.clip_cos - partner.dino_cos)),
        "borderline": partner.borderline,
        "num_duplicates": partner.num_duplicates,
        **{name: row[name] for name in METADATA},
    }
