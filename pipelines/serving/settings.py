"""What the service may be told: which index and encoders, who may call it, and its limits."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from miner.config import EmbedSettings, ImageLimits, Settings
from miner.settings import FileOrUrl, Folder, RunOrUrl

LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")
"""What a browser on this machine may call it, and no page from elsewhere."""


class ServeSettings(Settings):
    """How the service runs."""

    index: RunOrUrl = None
    """A run (folder, s3:// or gs://) whose pairs and partners are served; default: none."""

    name: str | None = None
    """The join of --index; default: the one that was made last."""

    clip: str | None = None
    """Encoder served as clip; default: that of the index, else clip-vit-l-14."""

    dino: str | None = None
    """Encoder served as dino; default: that of the index, else dinov2-vit-l-14."""

    clip_weights: FileOrUrl = None
    """safetensors file of --clip, or URL#sha256=HEX; default: the hub's local cache."""

    dino_weights: FileOrUrl = None
    """safetensors file of --dino, or URL#sha256=HEX; default: the hub's local cache."""

    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    """auto, cpu, cuda or cuda:N."""

    backend: Literal["torch", "compile", "onnx", "tensorrt", "tensorrt-rtx"] = "torch"
    """What computes the encoders; all but torch in fp32 have to prove themselves equal to it."""

    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Number format in which the encoders compute."""

    engines: FileOrUrl = None
    """Engines that `export-engine --pack` wrote, or URL#sha256=HEX; proven here before use."""

    scratch: Folder = None
    """A local folder for the index's vectors, mapped into memory; default: the system's."""

    host: str = Field(default="127.0.0.1", min_length=1)
    """Address to listen on; any but this machine's own asks for a token."""

    port: int = Field(default=8000, ge=0, le=65535)
    """Port to listen on; 0 takes a free one, and says which."""

    token_file: Path | None = None
    """File with the bearer token that callers have to send; default: BLINDPAIRS_TOKEN, if set."""

    allowed_hosts: str | None = None
    """Names in Host that are answered, with commas; default: local ones, or * with a token."""

    max_batch: int = Field(default=64, gt=0, le=4096)
    """Images that are encoded together at most, and images of one request."""

    max_wait_ms: float = Field(default=5.0, ge=0, le=10_000)
    """How long a decoded image waits for others to fill its batch, in milliseconds."""

    max_queue: int = Field(default=1024, gt=0)
    """Images in the service at a time; of more, requests get 429 and Retry-After."""

    max_requests: int = Field(default=512, gt=0)
    """Requests that are worked on at a time; further ones get 429 and Retry-After."""

    max_body_bytes: int = Field(default=32 * 2**20, gt=0)
    """Largest body of a request, in bytes."""

    max_held_bytes: int = Field(default=512 * 2**20, gt=0)
    """Bodies held in memory at a time, in bytes; of more, requests get 429 and Retry-After."""

    max_pixels: int = Field(default=100_000_000, gt=0)
    """Largest width x height that is decoded, in pixels, read from the header."""

    max_aspect_ratio: float = Field(default=100.0, ge=1)
    """Largest ratio of the longer side to the shorter."""

    body_timeout_s: float = Field(default=20.0, gt=0)
    """How long a client may take to send a request, in seconds; then 408. Also to read a part of
    its answer; then it is hung up on."""

    request_timeout_s: float = Field(default=60.0, gt=0)
    """How long a request may take once it was read, in seconds; then 504."""

    drain_s: float = Field(default=30.0, ge=0)
    """After SIGTERM, how long requests in flight may take to end, in seconds."""

    decoders: Literal["process", "thread"] = "process"
    """What decodes; a process that dies costs the image that killed it, a thread the service."""

    num_decoders: int | None = Field(default=None, gt=0)
    """Decode workers; default: from the cores."""

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.max_queue < self.max_batch:
            raise ValueError(
                f"max_queue is {self.max_queue} and max_batch {self.max_batch}: no batch could "
                "become full; give a --max-queue of at least --max-batch"
            )
        if self.max_held_bytes < self.max_body_bytes:
            raise ValueError(
                f"max_held_bytes is {self.max_held_bytes} and max_body_bytes "
                f"{self.max_body_bytes}: a body of that size could never be held; raise "
                "--max-held-bytes"
            )
        if self.index is None and (self.name is not None or self.scratch is not None):
            raise ValueError("--name and --scratch have no effect without --index; leave them out")
        return self

    @property
    def is_local(self) -> bool:
        """Whether nobody but this machine can reach the service."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return False

    @property
    def image_limits(self) -> ImageLimits:
        """What an image may be."""
        return ImageLimits(
            max_pixels=self.max_pixels,
            max_aspect_ratio=self.max_aspect_ratio,
            max_member_bytes=self.max_body_bytes,
        )

    def embedding(self, clip: str, dino: str) -> EmbedSettings:
        """The settings by which encoders are loaded."""
        return EmbedSettings(
            clip=clip,
            dino=dino,
            clip_weights=self.clip_weights,
            dino_weights=self.dino_weights,
            device=self.device,
            backend=self.backend,
            precision=self.precision,
            engines=self.engines,
            batch_size=self.max_batch,
        )
