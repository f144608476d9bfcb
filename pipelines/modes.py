"""Whether DINO sees every image or only those with a CLIP candidate: what each costs, and which.

Both are counted in floating-point operations, which tell before anything was timed, and the same
whenever they are counted. What lazy mode needs besides (reading and decoding images once more,
batches that are not full) is not counted; `MARGIN` is kept for it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from miner.config import EmbedSettings, JoinSettings, ReadSettings, SettingsT
from miner.copies import equal_bytes, stand_for
from miner.implementations import candidates
from miner.rows import joined_shards, load_rows, vectors_of
from miner.store import Store

Mode = Literal["eager", "lazy"]

JOIN_SAMPLE = 20_000
"""Most distinct images that are joined to learn how many have a candidate."""

AUTO_SAMPLES = 2_000
"""Samples after which `auto` chooses, or more, since it chooses between two shards."""

MARGIN = 0.1
"""Share of the eager work that lazy mode has to save, or it is not worth its second look."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """Candidates among some images of a run.

    Attributes:
        num_rows: distinct images that were joined.
        degrees: [num_rows] int64, candidates that each image is in.
    """

    num_rows: int
    degrees: np.ndarray

    def share(self, num_images: int) -> float:
        """Expected share of images with a candidate among so many images.

        An image's candidates come at a rate of its own, in proportion to the images there are;
        the rates are taken as gamma-distributed, which the mean degree and the share of images
        without any determine (a negative binomial).
        """
        if self.num_rows < 2:
            return 1.0
        growth = max(num_images - 1, 1) / (self.num_rows - 1)
        # None among the sample is not none at all: at most one pair was missed, say.
        mean = max(float(self.degrees.mean()), 2 / self.num_rows)
        none = min(float((self.degrees == 0).mean()), 1 - 2 / self.num_rows)
        if none <= 0:
            return 1.0
        shape = _shape(mean, none)
        if math.isinf(shape):
            return -math.expm1(-mean * growth)
        return -math.expm1(-shape * math.log1p(mean * growth / shape))


def _shape(mean: float, none: float) -> float:
    """Solve (1 + mean / r) ** -r == none for r; infinite where the rates do not differ."""
    wanted = -math.log(none)
    if wanted >= mean:
        return math.inf
    low, high = -30.0, 30.0
    for _ in range(200):
        middle = (low + high) / 2
        r = math.exp(middle)
        low, high = (middle, high) if r * math.log1p(mean / r) < wanted else (low, middle)
    return math.exp(high)


def sample_candidates(store: Store, clip: str, clip_above: float) -> Sampled:
    """Join some of a run's distinct images by CLIP alone.

    Args:
        store: a run with vectors of CLIP.
        clip: encoder_id.
        clip_above: a candidate's cosine is strictly above this.
    """
    rows = load_rows(store, clip)
    distinct, _ = stand_for(equal_bytes(rows.sha256), rows.duplicates)
    picked = np.sort(np.random.default_rng(0).permutation(distinct)[:JOIN_SAMPLE])
    names = [rows.image_ids[place] for place in picked]
    degrees = np.zeros(len(names), np.int64)
    if names:
        vectors = vectors_of([store], clip, set(names))
        clip_ND = torch.from_numpy(np.stack([vectors[name] for name in names]))
        # DINO has no say in what a candidate is.
        dino_N1 = torch.ones(len(names), 1)
        for found in candidates("cpu", (clip_ND, None), (dino_N1, None), clip_above=clip_above):
            for side in (found.i, found.j):
                np.add.at(degrees, side.numpy(), 1)
    return Sampled(num_rows=len(names), degrees=degrees)


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Floating-point operations for an image in either mode.

    Attributes:
        eager: both encoders.
        lazy: CLIP, DINO for the share that has a candidate, and the screening, which compares it
            with half of all other images at full width.
    """

    eager: float
    lazy: float

    @property
    def mode(self) -> Mode:
        """The mode that costs less."""
        return "lazy" if self.lazy < (1 - MARGIN) * self.eager else "eager"

    @property
    def because(self) -> str:
        """Why, in a few words."""
        return (
            f"lazy mode takes {self.lazy / self.eager:.0%} of the eager mode's operations, and has "
            f"to save {MARGIN:.0%}"
        )


def costs(clip_flops: float, dino_flops: float, width: int, num_images: int, share: float) -> Costs:
    """What either mode costs.

    Args:
        clip_flops: floating-point operations of CLIP for an image.
        dino_flops: likewise of DINO.
        width: of a CLIP vector.
        num_images: of the whole run.
        share: of them that have a candidate.
    """
    return Costs(
        eager=clip_flops + dino_flops, lazy=clip_flops + share * dino_flops + num_images * width
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What `auto` chose, and why."""

    mode: Mode
    because: str


def choice_made(store: Store, clip: str, dino: str) -> Choice | None:
    """What `auto` chose for two encoders in an earlier command on the run, if it did."""
    for command in reversed(store.run()["commands"]):
        chosen = command.get("chosen")
        if chosen is not None and command["encoders"] == [clip, dino]:
            return Choice(mode=chosen["dino_mode"], because=chosen["because"])
    return None


def choose(
    store: Store,
    encoder_ids: tuple[str, str],
    flops: tuple[float, float],
    num_images: int,
    how: JoinSettings,
) -> Choice:
    """Choose by what the images that CLIP has seen so far say.

    Args:
        store: the run directory.
        encoder_ids: CLIP's and DINO's.
        flops: of both, for an image.
        num_images: of the whole run, about.
        how: thresholds.
    """
    clip, _ = encoder_ids
    if not joined_shards(store, clip):
        return Choice(mode="eager", because="no shard could be read to learn from")
    sampled = sample_candidates(store, clip, how.keep_clip_above)
    share = sampled.share(num_images)
    width = int(store.vectors(clip, joined_shards(store, clip)[0])[1].shape[1])
    found = costs(*flops, width, num_images, share)
    return Choice(
        mode=found.mode,
        because=f"{(sampled.degrees > 0).mean():.1%} of {sampled.num_rows:,} images have a "
        f"candidate with CLIP cosine > {how.keep_clip_above}, {share:.1%} of about "
        f"{num_images:,} are expected to; {found.because}",
    )


def embedding_of(store: Store, clip: str, dino: str) -> tuple[EmbedSettings, Mode] | None:
    """How the last command embedded for two encoders; None where no command did for both."""
    settings = _settings_of(store, clip, dino, EmbedSettings)
    if settings is None:
        return None
    if settings.dino_mode != "auto":
        return settings, settings.dino_mode
    chosen = choice_made(store, clip, dino)
    return settings, "eager" if chosen is None else chosen.mode


def reading_of(store: Store, clip: str, dino: str) -> ReadSettings:
    """How the last command that embedded for two encoders read its shards."""
    return _settings_of(store, clip, dino, ReadSettings) or ReadSettings()


def _settings_of(store: Store, clip: str, dino: str, of: type[SettingsT]) -> SettingsT | None:
    for command in reversed(store.run()["commands"]):
        if command.get("encoders") == [clip, dino] and command["command"] in ("embed", "mine"):
            given = {k: v for k, v in command["settings"].items() if k in of.model_fields}
            return of.model_validate(given)
    return None
