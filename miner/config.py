"""Every knob of blindpairs: frozen models, checked on creation.

A command's flags, a YAML file's keys and these fields are the same names (`clip_above` is
`--clip-above`). The sentence under a field is its help text.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from miner.config_select import SelectSettings
from miner.settings import FileOrUrl, Folder, RatingSettings, RunOrUrl, Settings, SettingsT

__all__ = [
    "EmbedSettings",
    "ExcludeSettings",
    "ExecutorSettings",
    "FeedSettings",
    "ImageLimits",
    "JoinSettings",
    "MineSettings",
    "ReadSettings",
    "SelectSettings",
    "Settings",
    "SettingsT",
]


class ImageLimits(Settings):
    """What an untrusted image may be."""

    max_pixels: int = Field(default=100_000_000, gt=0)
    """Largest width x height that is decoded, in pixels, read from the header."""

    max_aspect_ratio: float = Field(default=100.0, ge=1)
    """Largest ratio of the longer side to the shorter."""

    max_member_bytes: int = Field(default=256 * 2**20, gt=0)
    """Largest member of a shard that is read, in bytes."""


class ExcludeSettings(RatingSettings):
    """Which samples are left out before their image is decoded; they are quarantined."""

    exclude_ids: FileOrUrl = None
    """Exclude samples named here by key, image_id, url or sha256: one a line, or Parquet."""


class ReadSettings(ImageLimits, ExcludeSettings):
    """How shards are read."""

    dataset: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the corpus, first part of every image_id; default: the shards' folder."""

    limit: int | None = Field(default=None, gt=0)
    """Read at most this many samples, over all shards in their order."""

    stem_depth: int = Field(default=1, ge=1, le=4)
    """How many trailing parts of a shard's path name it; 2 takes the parent folder in."""

    max_bad_fraction: float = Field(default=0.01, ge=0, le=1)
    """Share of refused images above which a finished run counts as partial (exit code 3)."""


class FeedSettings(Settings):
    """How images come to the encoders."""

    batch_size: int = Field(default=64, gt=0)
    """Images to a batch; a batch never crosses shards."""

    decoders: Literal["process", "thread"] = "process"
    """What decodes; a process that dies costs the image that killed it, a thread the whole run."""

    num_decoders: int | None = Field(default=None, gt=0)
    """Decode workers; default: from the cores."""

    profile: Path | None = None
    """Write a Chrome trace of the first pass's first batches to this file (for Perfetto)."""


class EmbedSettings(FeedSettings):
    """Which encoders look at the images, and on what."""

    clip: str = "clip-vit-l-14"
    """The encoder that is to be found blind: a registry name or library:name:weights."""

    dino: str = "dinov2-vit-l-14"
    """The encoder that sees the difference: a registry name or library:name:weights."""

    clip_weights: FileOrUrl = None
    """safetensors file of --clip, or URL#sha256=HEX; default: the hub's local cache."""

    dino_weights: FileOrUrl = None
    """safetensors file of --dino, or URL#sha256=HEX; default: the hub's local cache."""

    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    """auto, cpu, cuda or cuda:N; auto takes the GPU where there is one and says so."""

    backend: Literal["torch", "compile", "onnx", "tensorrt", "tensorrt-rtx"] = "torch"
    """What computes the encoders; all but torch in fp32 have to prove themselves equal to it."""

    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Number format in which the encoders compute; vectors are always stored as float16."""

    engines: FileOrUrl = None
    """Engines that `export-engine --pack` wrote, or URL#sha256=HEX; proven here before use."""

    dino_mode: Literal["eager", "lazy", "auto"] = "eager"
    """DINO sees every image, or those in a CLIP candidate pair alone, or whichever costs less."""

    @model_validator(mode="after")
    def _engines_are_loaded(self) -> Self:
        if self.engines is not None and self.backend in ("torch", "compile"):
            raise ValueError(
                f"--engines has no effect with --backend {self.backend}, which loads none; give "
                "--backend onnx, tensorrt or tensorrt-rtx, or leave it out"
            )
        return self


class JoinSettings(Settings):
    """Which pairs are blind, and how they are found."""

    clip_above: float = Field(default=0.95, ge=-1, le=1)
    """A candidate's CLIP cosine is strictly above this; an encoder may have its own default."""

    dino_below: float = Field(default=0.6, ge=-1, le=1)
    """A blind pair's DINO cosine is strictly below this; an encoder may have its own default."""

    keep_clip: float | None = Field(default=None, ge=-1, le=1)
    """Also keep pairs whose CLIP cosine is above this; lower than --clip-above."""

    keep_dino: float | None = Field(default=None, ge=-1, le=1)
    """Also keep pairs whose DINO cosine is below this; higher than --dino-below."""

    join: Literal["auto", "cpu", "triton", "knn", "reference"] = "auto"
    """Implementation of the join; all are exact but knn, which reports its recall."""

    collapse: Literal["exact", "near", "none"] = "exact"
    """Copies collapsed before the join: equal bytes, near-copies too, or none."""

    max_partners: int = Field(default=1000, gt=0)
    """Partners that an image keeps in `raw`, of the highest CLIP cosine; the rest are counted."""

    recheck: bool = False
    """Encode the images of borderline pairs anew in float32, and decide these pairs by that."""

    against: RunOrUrl = None
    """Another run: its images are sought as partners of this run's, and no others."""

    scratch: Folder = None
    """A local folder for what a join maps into memory; default: in the run, or ~/.cache."""

    @property
    def keep_clip_above(self) -> float:
        """Pairs are kept whose CLIP cosine is strictly above this."""
        return self.clip_above if self.keep_clip is None else self.keep_clip

    @property
    def keep_dino_below(self) -> float:
        """Pairs are kept whose DINO cosine is strictly below this."""
        return self.dino_below if self.keep_dino is None else self.keep_dino

    @property
    def keeps_more(self) -> bool:
        """Whether pairs beyond the thresholds are kept too."""
        return self.keep_clip is not None or self.keep_dino is not None

    @model_validator(mode="after")
    def _keeps_lie_beyond_thresholds(self) -> Self:
        if self.keep_clip is not None and self.keep_clip > self.clip_above:
            raise ValueError(
                f"keep_clip is {self.keep_clip}, above clip_above ({self.clip_above}), so it would "
                "drop blind pairs; give a lower one or leave it out"
            )
        if self.keep_dino is not None and self.keep_dino < self.dino_below:
            raise ValueError(
                f"keep_dino is {self.keep_dino}, below dino_below ({self.dino_below}), so it would "
                "drop blind pairs; give a higher one or leave it out"
            )
        return self


class ExecutorSettings(Settings):
    """Who does the work."""

    executor: Literal["inline", "ray"] = "inline"
    """This process, or workers on a Ray cluster: the one that is there, else one started here."""

    num_workers: int | None = Field(default=None, gt=0)
    """Ray workers at most; default: one for each GPU of the cluster, or for so many cores."""

    cores_per_worker: int | None = Field(default=None, gt=0)
    """Cores that a Ray worker uses; default: a GPU's share of its node's, or up to 8 on CPUs."""

    worker_start_s: float = Field(default=900.0, gt=0)
    """Longest wait for a first Ray worker, in seconds: nodes that start, weights that load."""

    worker_silence_s: float = Field(default=900.0, gt=0)
    """A Ray worker that shows no progress for so many seconds hangs, and is replaced."""

    @model_validator(mode="after")
    def _only_ray_has_workers(self) -> Self:
        idle = self.model_fields_set & _OF_RAY
        if self.executor == "inline" and idle:
            names = ", ".join("--" + name.replace("_", "-") for name in sorted(idle))
            raise ValueError(
                f"{names}: no effect with --executor inline, which has no workers; leave it out, "
                "or give --executor ray"
            )
        return self


_OF_RAY = ExecutorSettings.model_fields.keys() - {"executor"}


class MineSettings(ReadSettings, EmbedSettings, ExecutorSettings, JoinSettings, SelectSettings):
    """The whole run: embed, join, select."""
