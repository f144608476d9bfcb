"""The app: its routes, its limits, and its life from loading to the end."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from pipelines.serving import corpus, embeddings, encoder_list, errors, pages, partners
from pipelines.serving.callers import Callers
from pipelines.serving.limits import Limits
from pipelines.serving.models import StateResponse
from pipelines.serving.openapi import errors_of
from pipelines.serving.service import Service
from pipelines.serving.settings import ServeSettings

router = APIRouter()

REFUSALS = errors_of(400, 401, 408, 413, 429, 503, 504)


SWITCH_S = 5e-4
"""How long a thread may keep the interpreter where another one waits for it, in seconds."""


def build_app(settings: ServeSettings, *, owns_process: bool = False) -> FastAPI:
    """The app; its encoders are loaded when it is started.

    Args:
        settings: how it runs.
        owns_process: whether this process does nothing else.

    Raises:
        ValueError: it would listen to others without a token.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service = app.state.service
        try:
            await asyncio.to_thread(service.load)
            await service.start()
            if owns_process:
                _settle_down()
            yield
        except Exception as error:
            service.failure = error
            raise
        finally:
            # Else libraries take for leaked, at the end, what was never looked at.
            gc.unfreeze()
            await service.close()

    callers = Callers(settings)
    app = FastAPI(
        title="blindpairs",
        version=version("blindpairs"),
        description="Embeddings and CLIP-blind partners of images.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        # What we count is at /metrics; no exporter is added because a variable is set.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    app.state.service = Service(settings)
    errors.install(app)
    app.add_middleware(Limits, service=app.state.service, callers=callers)
    app.include_router(router)
    for part in (embeddings, encoder_list, partners, corpus, pages):
        app.include_router(part.router)
    return app


def _settle_down() -> None:
    """Tune Python for a process that has loaded all that it will, and answers from now on."""
    # What is here stays: a full collection would look at all of it, and stop everything meanwhile.
    gc.collect()
    gc.freeze()
    # The encode thread asks for the interpreter at every operation, beside a busy event loop.
    sys.setswitchinterval(SWITCH_S)


@router.get(
    "/healthz",
    response_model=StateResponse,
    responses={503: {"model": StateResponse, "description": "Only a restart helps."}},
    summary="Whether the process is alive",
)
async def healthz(request: Request) -> JSONResponse:
    """Answers at once, however much there is to do; 503 where only a restart would help."""
    status = request.app.state.service.status
    return JSONResponse({"status": status}, 503 if status == "broken" else 200)


@router.get(
    "/readyz",
    response_model=StateResponse,
    responses={503: {"model": StateResponse, "description": "Requests should go elsewhere."}},
    summary="Whether requests should come here",
)
async def readyz(request: Request) -> JSONResponse:
    """503 from the moment that it is told to stop; while it loads, nobody listens."""
    status = request.app.state.service.status
    return JSONResponse({"status": status}, 200 if status == "ok" else 503)


@router.get(
    "/metrics",
    summary="Figures for Prometheus",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **REFUSALS},
)
async def metrics(request: Request) -> Response:
    """Requests, batches, queue, images by outcome, seconds of decoding and encoding."""
    data = generate_latest(request.app.state.service.metrics.registry)
    return Response(data, media_type=CONTENT_TYPE_LATEST)
