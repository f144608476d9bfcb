"""The knobs of the selection: which of a join's pairs are left out, and which of the rest shown."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from miner.settings import FileOrUrl, RatingSettings, RunOrUrl


class SelectSettings(RatingSettings):
    """Which blind pairs a person should look at, and in what order."""

    near_clip: float = Field(default=0.99, ge=-1, le=1)
    """Near-copies have a CLIP cosine strictly above this ..."""

    near_dino: float = Field(default=0.95, ge=-1, le=1)
    """... and a DINO cosine strictly above this."""

    max_per_image: int | None = Field(default=2, gt=0)
    """Selected pairs in which one image, with its near-copies, may occur; 0: any number."""

    labels: Literal["any", "same", "different"] = "any"
    """Select pairs whose images have the same label, or different ones; else of any."""

    rank_by: Literal["clip", "gap", "mix"] = "clip"
    """Order: CLIP cosine, CLIP minus DINO cosine, or the sum of a pair's places in both orders."""

    clip_below: float | None = Field(default=None, ge=-1, le=1)
    """Select pairs whose CLIP cosine is strictly below this."""

    sources: Literal["any", "within", "across"] = "any"
    """Select pairs whose images are of one source, or of two; else of any."""

    source_is: Literal["dataset", "host"] = "dataset"
    """What --sources calls a source: the dataset, or the host in the image's url."""

    min_side: int | None = Field(default=None, gt=0)
    """Drop pairs with an image whose shorter side has fewer pixels than this."""

    max_elongation: float | None = Field(default=None, ge=1)
    """Drop pairs with an image whose longer side is more than this many times its shorter."""

    min_caption_similarity: float | None = Field(default=None, ge=0, le=1)
    """Drop pairs whose captions share less: words in both, as a share of the words in either."""

    max_caption_similarity: float | None = Field(default=None, ge=0, le=1)
    """Drop pairs whose captions share more than this."""

    min_phash_bits: int | None = Field(default=None, ge=0, le=64)
    """Drop pairs whose images look more alike: whose phash differs in fewer of its 64 bits."""

    max_phash_bits: int | None = Field(default=None, ge=0, le=64)
    """Drop pairs whose images look less alike: whose phash differs in more bits."""

    not_in: RunOrUrl = None
    """Drop pairs with an image of these: a folder of images, a list of hashes, or a run."""

    not_in_phash: int = Field(default=4, ge=0, le=16)
    """An image whose phash differs from a listed one in so many bits, or fewer, is that one."""

    about: str | None = Field(default=None, min_length=1, max_length=1000)
    """Select pairs that CLIP finds closest to this text, of those that no filter drops."""

    about_share: float = Field(default=0.1, gt=0, le=1)
    """Share of the pairs that --about keeps."""

    clip_weights: FileOrUrl = None
    """safetensors file of --clip, or URL#sha256=HEX; default: the hub's local cache."""

    max_pairs: int | None = Field(default=None, gt=0)
    """Select so many pairs at most: the best ranks, or those of --diverse."""

    diverse: bool = False
    """Choose the --max-pairs pairs by k-center, so that each is unlike all the others."""

    @field_validator("max_per_image", mode="before")
    @classmethod
    def _zero_is_any_number(cls, value: object) -> object:
        return None if value == 0 and not isinstance(value, bool) else value

    @model_validator(mode="after")
    def _has_an_effect(self) -> Self:
        needed = (
            ("diverse", "max_pairs", self.max_pairs is None),
            ("about_share", "about", self.about is None),
            ("not_in_phash", "not_in", self.not_in is None),
            ("source_is", "sources", self.sources == "any"),
        )
        for name, other, is_missing in needed:
            if is_missing and getattr(self, name) != SelectSettings.model_fields[name].default:
                raise ValueError(
                    f"{_flag(name)} has no effect without {_flag(other)}; give that too, or leave "
                    "it out"
                )
        return self

    @model_validator(mode="after")
    def _leaves_something(self) -> Self:
        for what in ("caption_similarity", "phash_bits"):
            least, most = getattr(self, f"min_{what}"), getattr(self, f"max_{what}")
            if least is not None and most is not None and least > most:
                raise ValueError(
                    f"{_flag(f'min_{what}')} {least} is above {_flag(f'max_{what}')} {most}, which "
                    "leaves no pair; turn them round, or leave one out"
                )
        return self


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
