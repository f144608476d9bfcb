"""The encoders that blindpairs knows, as data: what has to be fixed for vectors to be comparable.

A line of REGISTRY is one `EncoderRecord`; another encoder is another line. Encoders without a
line go by `library:model:weights` (`miner.encoders.find_record`).
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from miner.config import Settings
from miner.crops import CropSpec

Triple = tuple[float, float, float]

CLIP_MEAN: Triple = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD: Triple = (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)
HALF: Triple = (0.5, 0.5, 0.5)

BUNDLED = Path(__file__).parent / "bundled"
"""Encoders that come with the package: a JSON with the record, and the weights."""

_NOT_IN_ID = {
    "name",
    "weights",
    "weights_repo",
    "weights_file",
    "bundled",
    "licence",
    "clip_above",
    "dino_below",
}


class EncoderRecord(Settings):
    """Everything that decides what vector an image gets."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """What the encoder is called in commands and folder names."""

    library: Literal["open_clip", "timm"]
    """The package that has the architecture."""

    model: str
    """The architecture's name in its library; with `config`, only a description."""

    weights: str
    """The weights' tag in its library."""

    config: dict[str, Any] | None = None
    """Arguments of `open_clip.CLIP` or timm's `VisionTransformer`, instead of a known `model`."""

    weights_repo: str | None = None
    """Repository of the Hugging Face hub that has the weights."""

    weights_file: str | None = None
    """Name of the safetensors file in that repository."""

    bundled: str | None = None
    """Name of the safetensors file in `miner/bundled/`, for weights that come with the package."""

    weights_sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    """Checksum of the weights file; None until the file is known."""

    crop: CropSpec
    """How an image of any size becomes a square of pixels."""

    mean: Triple
    """Subtracted from the pixels of each channel, in units of 0..1."""

    std: Triple
    """Divides the pixels of each channel, in units of 0..1."""

    pooling: Literal["clip_projection", "cls", "mean_patch", "cls+mean", "library_default"]
    """How tokens become one vector. `clip_projection` is open_clip's `encode_image`; `cls`,
    `mean_patch` and `cls+mean` take timm's tokens after the final norm."""

    dim: int = Field(gt=0)
    """Length of the vector."""

    activation: Literal["quick_gelu", "gelu", "library_default"] = "library_default"
    """Activation of open_clip's blocks, held against the library's own settings when loading."""

    position_embedding: Literal["native", "hub", "hub-antialias"] = "native"
    """How the position embedding comes to the size: `native`, stored so; `hub`, as DINOv2's hub
    models do it (bicubic, offset 0.1); `hub-antialias`, as those with registers (no offset)."""

    licence: str
    """Licence of the weights."""

    clip_above: float | None = Field(default=None, ge=-1, le=1)
    """This encoder's own threshold as `--clip`; None: the command's default."""

    dino_below: float | None = Field(default=None, ge=-1, le=1)
    """This encoder's own threshold as `--dino`; None: the command's default."""

    @model_validator(mode="after")
    def _library_has_these(self) -> Self:
        is_clip = self.library == "open_clip"
        if is_clip != (self.pooling == "clip_projection"):
            raise ValueError(
                f"{self.name}: {self.library} has no pooling {self.pooling}; open_clip's is "
                "clip_projection, timm has all others"
            )
        if is_clip == (self.activation == "library_default"):
            raise ValueError(
                f"{self.name}: activation is {self.activation} for {self.library}; name it for "
                "open_clip models and leave it out for timm's"
            )
        if is_clip and self.position_embedding != "native":
            raise ValueError(
                f"{self.name}: position_embedding is {self.position_embedding}, which only timm's "
                "models have; leave it out"
            )
        return self

    @property
    def image_size(self) -> int:
        """Side of the square that the encoder looks at, in pixels."""
        return self.crop.size

    @property
    def encoder_id(self) -> str:
        """`<name>-<8 hex>`: the hash covers weights, preprocess and pooling, not descriptions."""
        if self.weights_sha256 is None:
            raise ValueError(
                f"{self.name}: no encoder_id before the weights are known; take the record that "
                "miner.encoders.locate returns"
            )
        fields = self.model_dump(mode="json", exclude=_NOT_IN_ID)
        canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"))
        return f"{self.name}-{hashlib.sha256(canonical.encode()).hexdigest()[:8]}"


def shortest(resize_to: int, size: int) -> CropSpec:
    """Short side to `resize_to` pixels by bicubic, then the central square of `size`."""
    return CropSpec(mode="shortest", resize_to=resize_to, size=size, interpolation="bicubic")


def _openai_clip(name: str, model: str, repo: str, size: int, dim: int) -> EncoderRecord:
    return EncoderRecord(
        name=name,
        library="open_clip",
        model=model,
        weights="openai",
        weights_repo=f"timm/{repo}.openai",
        weights_file="open_clip_model.safetensors",
        crop=shortest(size, size),
        mean=CLIP_MEAN,
        std=CLIP_STD,
        pooling="clip_projection",
        dim=dim,
        activation="quick_gelu",
        licence="MIT",
    )


def _dino(name: str, model: str, dim: int, weights: str = "lvd142m", **more: Any) -> EncoderRecord:
    fields: dict[str, Any] = {
        "crop": shortest(256, 224),
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
        "pooling": "cls",
        "position_embedding": "hub",
        "licence": "Apache-2.0",
    }
    return EncoderRecord(
        name=name,
        library="timm",
        model=model,
        weights=weights,
        weights_repo=f"timm/{model}.{weights}",
        weights_file="model.safetensors",
        dim=dim,
        **fields | more,
    )


def _bundled(name: str) -> EncoderRecord:
    return EncoderRecord(**json.loads((BUNDLED / f"{name}.json").read_text("utf-8"))["record"])


_SIGLIP = EncoderRecord(
    name="siglip-vit-b-16",
    library="open_clip",
    model="ViT-B-16-SigLIP",
    weights="webli",
    weights_repo="timm/ViT-B-16-SigLIP",
    weights_file="open_clip_model.safetensors",
    crop=CropSpec(mode="squash", resize_to=224, size=224, interpolation="bicubic"),
    mean=HALF,
    std=HALF,
    pooling="clip_projection",
    dim=768,
    activation="gelu",
    licence="Apache-2.0",
)

_L14 = "vit_large_patch14_dinov2"
_CLIP_PIXELS: dict[str, Any] = {"crop": shortest(224, 224), "mean": CLIP_MEAN, "std": CLIP_STD}

REGISTRY: dict[str, EncoderRecord] = {
    record.name: record
    for record in (
        _openai_clip("clip-vit-l-14", "ViT-L-14-quickgelu", "vit_large_patch14_clip_224", 224, 768),
        _openai_clip(
            "clip-vit-l-14-336", "ViT-L-14-336-quickgelu", "vit_large_patch14_clip_336", 336, 768
        ),
        _openai_clip("clip-vit-b-16", "ViT-B-16-quickgelu", "vit_base_patch16_clip_224", 224, 512),
        _openai_clip("clip-vit-b-32", "ViT-B-32-quickgelu", "vit_base_patch32_clip_224", 224, 512),
        _SIGLIP,
        _dino("dinov2-vit-l-14", _L14, 1024),
        _dino("dinov2-vit-b-14", "vit_base_patch14_dinov2", 768),
        _dino("dinov2-vit-s-14", "vit_small_patch14_dinov2", 384),
        _dino(
            "dinov2-vit-l-14-reg",
            "vit_large_patch14_reg4_dinov2",
            1024,
            position_embedding="hub-antialias",
        ),
        # Sees exactly the square that CLIP sees, so that no difference lies outside its view.
        _dino("dinov2-vit-l-14-shared-crop", _L14, 1024, crop=shortest(224, 224)),
        # The very tensor that goes into CLIP: one preprocessing for both.
        _dino("dinov2-vit-l-14-clip-pixels", _L14, 1024, **_CLIP_PIXELS),
        # timm pools DINOv3 by averaging; its authors take the class token.
        _dino(
            "dinov3-vit-l-16",
            "vit_large_patch16_dinov3",
            1024,
            "lvd1689m",
            position_embedding="native",
            licence="DINOv3 License",
        ),
        # Small, trained on rendered scenes, known to nobody else: see the model card.
        _bundled("demo-clip"),
        _bundled("demo-dino"),
    )
}
