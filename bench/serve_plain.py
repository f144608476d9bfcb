"""The plainest service that gives the same answers: each request decodes and encodes its one image.

    python -m bench.serve_plain --clip demo-clip --dino demo-dino --device cpu

A peer of the service, as one writes it in an hour: FastAPI and uvicorn as they come, no decode
workers, no queue, no batches. The handler computes on the event loop, so that requests are answered
strictly one after the other; decoding and encoders are the fast ones of this house.
"""

from __future__ import annotations

from typing import Any

import click
import numpy as np
import uvicorn
from fastapi import FastAPI, Request, Response
from pydantic_core import to_json

from bench.serve_raw import load
from miner import crops
from miner.config import EmbedSettings, ImageLimits
from miner.encoders import Encoder
from miner.images import decode


def plain_app(encoders: list[Encoder]) -> FastAPI:
    """An app that embeds the image of a request, and knows nothing else."""
    app = FastAPI()
    wanted = dict.fromkeys(encoder.record.crop for encoder in encoders)

    @app.post("/v1/embeddings")
    async def embeddings(request: Request) -> Response:
        pixels_HWC = decode(await request.body(), ImageLimits()).pixels_HWC
        pixels = {crop: crops.cut(pixels_HWC, crop)[None] for crop in wanted}
        items = [item(encoder, encoder(pixels[encoder.record.crop])) for encoder in encoders]
        return Response(to_json({"object": "list", "data": items}), media_type="application/json")

    return app


def item(encoder: Encoder, vectors_BD: Any) -> dict[str, Any]:
    """A vector as the service writes it, rounded to float16."""
    vector_D: np.ndarray = vectors_BD[0].cpu().numpy().astype(np.float16).astype(np.float32)
    return {
        "object": "embedding",
        "index": 0,
        "model": encoder.encoder_id,
        "embedding": vector_D.tolist(),
    }


class SayingServer(uvicorn.Server):
    """Says where it listens, in the words of the service."""

    async def startup(self, sockets: Any = None) -> None:
        """Listen."""
        await super().startup(sockets=sockets)
        port = self.servers[0].sockets[0].getsockname()[1]
        click.echo(f"serving at http://127.0.0.1:{port}", err=True)


@click.command()
@click.option("--port", default=0)
@click.option("--clip", required=True)
@click.option("--dino", required=True)
@click.option("--clip-weights")
@click.option("--dino-weights")
@click.option("--device", default="cpu")
@click.option("--precision", type=click.Choice(["fp32", "bf16"]), default="fp32")
def main(port: int, **settings: Any) -> None:
    """Serve until told to stop."""
    app = plain_app(load(EmbedSettings.model_validate(settings)))
    SayingServer(uvicorn.Config(app, port=port, log_level="error", access_log=False)).run()


if __name__ == "__main__":
    main()
