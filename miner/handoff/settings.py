"""What a hand-off may be told, and what it says of where its pairs come from."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from miner.config import ImageLimits, Settings

Line = Annotated[str, Field(pattern=r"^[ -~]{0,1000}$")]
"""Plain characters on one line: facts go into cards, and may come from another's folder."""


class HandoffSettings(Settings):
    """How pairs are handed off."""

    images: Literal["original", "none"] = "original"
    """`original`: the images' own bytes; `none`: ids alone, which `hydrate` fills later."""

    reviewed: Literal["accepted", "all"] | None = None
    """`accepted`: pairs that reviewers accepted; `all`: every selected pair. Without it: the
    accepted ones where the run has reviews, else all."""

    bake_orientation: bool = False
    """Turn images as their EXIF says; these are encoded anew, as PNG, and marked as altered."""

    limit: int | None = Field(default=None, ge=1)
    """Pairs to hand off, the best ranks first."""

    skip_incomplete: bool = False
    """Leave out pairs that lack what the format needs, in the place of an error (mmvp)."""

    all_images: bool = False
    """Hand off every image of the run, not only those of pairs (clip-retrieval)."""


class EncoderFacts(Settings):
    """Which encoder gave a cosine; None where the run does not say."""

    encoder_id: Line
    """Its id in the run."""

    name: Line | None
    """Its name in the registry."""

    weights: Line | None
    """Library, model and weights."""

    weights_sha256: Line | None
    """Hex sha256 of its weights file."""

    licence: Line | None
    """Licence of its weights."""


class Facts(Settings):
    """Where the pairs of a hand-off come from."""

    join: Line
    """The join's name."""

    clip: EncoderFacts
    """The encoder that calls both images the same."""

    dino: EncoderFacts
    """The encoder that calls them different."""

    clip_above: float
    """Threshold of the first cosine."""

    dino_below: float
    """Threshold of the second."""

    datasets: tuple[Line, ...]
    """The corpora."""

    num_selected: int
    """Pairs that were selected."""

    num_accepted: int | None
    """Of these, those that reviewers accepted; None where nobody reviewed."""

    asked_for: Annotated[str, Field(pattern=r"^[ -~]{0,8000}$")] = ""
    """Settings of the selection that are not the default, as options."""

    limits: ImageLimits
    """Under which the images were decoded."""

    version: Line
    """Of blindpairs, when the pairs were read from the run."""
