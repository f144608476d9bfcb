"""What open_clip and timm know of an encoder: its settings, and its tower.

Both are imported where they are used: importing them takes seconds.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from miner.crops import CropSpec
from miner.registry import EncoderRecord


def open_clip_record(model: str, weights: str) -> EncoderRecord:
    """A record from open_clip's own settings for a model and its weights' tag.

    Raises:
        ValueError: open_clip has no such model or weights, they do not go together, or the
            preprocessing is none that can be done.
    """
    import open_clip

    _check_pairing(model, weights)
    config = open_clip.get_model_config(model)
    settings = open_clip.get_pretrained_cfg(model, weights)
    if not settings:
        tags = open_clip.list_pretrained_tags_by_model(model)
        raise ValueError(
            f"open_clip has no weights {weights!r} for {model}; it has {', '.join(tags) or 'none'}"
        )
    repo, _, file = settings.get("hf_hub", "").rpartition("/")
    # Only the preferred file's name is ever given, and that of a pickle.
    file = f"{Path(file).stem}.safetensors" if file else "open_clip_model.safetensors"
    return EncoderRecord(
        name=_name("open_clip", model, weights),
        library="open_clip",
        model=model,
        weights=weights,
        weights_repo=repo or None,
        weights_file=file if repo else None,
        crop=_crop(
            f"open_clip:{model}:{weights}",
            settings["resize_mode"],
            config["vision_cfg"]["image_size"],
            1.0,
            settings["interpolation"],
        ),
        mean=settings["mean"],
        std=settings["std"],
        pooling="clip_projection",
        dim=config["embed_dim"],
        activation="quick_gelu" if config.get("quick_gelu") else "gelu",
        licence=f"see {repo}" if repo else "unknown",
    )


def timm_record(model: str, weights: str) -> EncoderRecord:
    """A record from timm's own settings for a model and its weights' tag.

    Raises:
        ValueError: timm has no such model or weights, or the preprocessing is none that can be
            done.
    """
    import timm
    from timm.data.config import resolve_data_config

    if not timm.is_model(model):
        raise ValueError(f"timm has no model {model!r}; see timm.list_models()")
    tags = [name.partition(".")[2] for name in timm.list_pretrained(f"{model}.*")]
    if weights not in tags:
        raise ValueError(
            f"timm has no weights {weights!r} for {model}; it has {', '.join(tags) or 'none'}"
        )
    with torch.device("meta"):
        tower: Any = timm.create_model(f"{model}.{weights}", pretrained=False, num_classes=0)
    settings = tower.pretrained_cfg
    data = resolve_data_config(pretrained_cfg=settings)  # type: ignore[no-untyped-call]
    # These were trained for their class token, whatever timm's default head does.
    takes_cls = "dino" in model and getattr(tower, "cls_token", None) is not None
    mode = {"center": "shortest"}.get(data["crop_mode"], data["crop_mode"])
    return EncoderRecord(
        name=_name("timm", model, weights),
        library="timm",
        model=model,
        weights=weights,
        weights_repo=settings.get("hf_hub_id"),
        weights_file="model.safetensors" if settings.get("hf_hub_id") else None,
        crop=_crop(
            f"timm:{model}:{weights}",
            mode,
            data["input_size"][1:],
            data["crop_pct"],
            data["interpolation"],
        ),
        mean=data["mean"],
        std=data["std"],
        pooling="cls" if takes_cls else "library_default",
        dim=tower.num_features if takes_cls else tower.head_hidden_size,
        licence=settings.get("license") or "unknown",
    )


def _crop(
    name: str, mode: str, size: int | tuple[int, int], crop_share: float, interpolation: str
) -> CropSpec:
    """A library's resize settings as a crop, or a refusal."""
    height, width = (size, size) if isinstance(size, int) else size
    resize_to = int(height / crop_share)
    if (
        height != width
        or mode not in ("shortest", "squash")
        or interpolation not in ("bicubic", "bilinear")
        or (mode == "squash" and resize_to != height)
    ):
        raise ValueError(
            f"{name}: its library resizes by {mode}, {interpolation}, to {height}x{width} of "
            f"{resize_to}; only shortest with a central square, and squash, by bicubic or "
            "bilinear, can be done here"
        )
    return CropSpec.model_validate(
        {"mode": mode, "resize_to": resize_to, "size": height, "interpolation": interpolation}
    )


def _check_pairing(model: str, weights: str) -> None:
    """Refuse weights whose activation is not the model's: open_clip only warns there."""
    import open_clip

    config = open_clip.get_model_config(model)
    if config is None:
        raise ValueError(f"open_clip has no model {model!r}; see open_clip.list_models()")
    other = model.removesuffix("-quickgelu")
    other = f"{model}-quickgelu" if other == model else other
    settings = open_clip.get_pretrained_cfg(model, weights)
    quick = bool(config.get("quick_gelu"))
    fits = settings and bool(settings.get("quick_gelu")) == quick
    if not fits and open_clip.get_pretrained_cfg(other, weights):
        raise ValueError(
            f"the weights {weights!r} were trained {'without' if quick else 'with'} QuickGELU, but "
            f"{model} computes {'with' if quick else 'without'} it; use {other}"
        )


def check_activation(record: EncoderRecord) -> None:
    """Refuse an open_clip record whose activation is not that of its model and weights.

    Raises:
        ValueError: they differ; open_clip itself would only warn.
    """
    if record.library != "open_clip":
        return
    if record.config is None:
        _check_pairing(record.model, record.weights)
    activation = "quick_gelu" if clip_config(record).get("quick_gelu") else "gelu"
    if activation != record.activation:
        raise ValueError(
            f"{record.name}: the record says {record.activation}, {record.model} computes with "
            f"{activation}; correct the record, or take the model that fits the weights"
        )


def build_tower(record: EncoderRecord) -> Any:
    """The image tower alone, with initial values; text towers are as large, and not needed."""
    if record.library == "open_clip":
        from open_clip.model import _build_vision_tower

        config = clip_config(record)
        # CoCa's towers would return their tokens too.
        vision = {**config["vision_cfg"], "output_tokens": False}
        return _build_vision_tower(config["embed_dim"], vision, config.get("quick_gelu", False))
    if record.config is not None:
        from timm.models.vision_transformer import VisionTransformer

        return VisionTransformer(**record.config)
    import timm

    changes: dict[str, Any] = {"num_classes": 0}
    if record.position_embedding != "native":
        changes["img_size"] = record.image_size
    return timm.create_model(f"{record.model}.{record.weights}", pretrained=False, **changes)


def build_text_tower(record: EncoderRecord) -> Any:
    """The text tower alone of an open_clip record, with initial values."""
    from open_clip.model import _build_text_tower

    config = clip_config(record)
    # CoCa's towers would return their tokens too.
    text = {**config["text_cfg"], "output_tokens": False}
    return _build_text_tower(config["embed_dim"], text, config.get("quick_gelu", False))


def clip_config(record: EncoderRecord) -> dict[str, Any]:
    """The settings from which open_clip builds both towers of a record."""
    import open_clip

    config: dict[str, Any] = record.config or open_clip.get_model_config(record.model)
    return config


def _name(library: str, model: str, weights: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "-", f"{library}-{model}-{weights}")
