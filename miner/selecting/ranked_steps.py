"""Steps that weigh pairs against one another: near-copies, shares of images, subject, number.

Shape suffixes: R rows, U images, D width of a CLIP vector.
"""

from __future__ import annotations

import math
from collections import Counter
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from miner.config import SelectSettings
from miner.selecting.diversity import Features, farthest_first, pair_features
from miner.selecting.raw_pairs import RawPairs, Rows
from miner.selecting.verdicts import Step, Verdict, Words, first_of

CHUNK_ROWS = 16_384
"""Vectors that are widened to float64 at once."""


def _near_copies(pairs: RawPairs, settings: SelectSettings, rows: Rows) -> Words:
    group = pairs.groups(settings)
    return first_of((group[pairs.first[rows]] == group[pairs.second[rows]], "near_copies"))


NEAR_COPIES = Step(
    name="near-copies",
    verdicts={
        "near_copies": Verdict(
            counted="near-copies of each other", told="the images are near-copies of each other"
        )
    },
    is_asked=lambda settings: True,
    decide=_near_copies,
)


def about_cosines(pairs: RawPairs, rows: Rows) -> npt.NDArray[np.float64]:
    """[R] float64: the mean CLIP cosine of both images of a pair with the text of `--about`."""
    assert pairs.text_D is not None
    images = pairs.images(rows)
    cosines, text_D = np.zeros(len(pairs.image_ids)), pairs.text_D.astype(np.float64)
    for start in range(0, len(images), CHUNK_ROWS):
        some = images[start : start + CHUNK_ROWS]
        clip_RD = pairs.vectors("clip")[some].astype(np.float64)
        cosines[some] = (clip_RD * text_D).sum(axis=1) / np.linalg.norm(clip_RD, axis=1)
    found: npt.NDArray[np.float64] = (cosines[pairs.first[rows]] + cosines[pairs.second[rows]]) / 2
    return found


def num_of_share(share: float, num_rows: int) -> int:
    """At least so many rows are a share of them: 7 of 100 at 0.07, which is more in binary."""
    return math.ceil(Fraction(str(share)) * num_rows)


def _about(pairs: RawPairs, settings: SelectSettings, rows: Rows) -> Words:
    num_kept = num_of_share(settings.about_share, len(rows))
    # Stable, so that of equally close pairs the better rank is kept.
    closest = np.argsort(-about_cosines(pairs, rows), kind="stable")[:num_kept]
    is_about = np.zeros(len(rows), np.bool_)
    is_about[closest] = True
    return first_of((~is_about, "not_about"))


ABOUT = Step(
    name="about",
    verdicts={
        "not_about": Verdict(
            counted="less about the text",
            told="its mean CLIP cosine with the text is {about_cos:.4f}, which is not among the "
            "highest {settings.about_share:.0%}",
        )
    },
    is_asked=lambda settings: settings.about is not None,
    decide=_about,
    values=lambda pairs, settings, row: {"about_cos": about_cosines(pairs, np.array([row]))[0]},
)


def _shares(pairs: RawPairs, settings: SelectSettings, rows: Rows) -> Words:
    """An image and its near-copies count as one image."""
    group = pairs.groups(settings)
    both = np.sort(np.stack([group[pairs.first[rows]], group[pairs.second[rows]]], axis=1), axis=1)
    said = np.full(len(rows), "", dtype="<U32")
    most = settings.max_per_image or len(rows)
    pairs_of: Counter[int] = Counter()
    seen: set[tuple[int, int]] = set()
    for place, (a, b) in enumerate(both.tolist()):
        if (a, b) in seen:
            said[place] = "near_copy_of_kept"
        elif max(pairs_of[a], pairs_of[b]) >= most:
            said[place] = "cap"
        else:
            seen.add((a, b))
            pairs_of.update((a, b))
    return said


PER_IMAGE = Step(
    name="per image",
    verdicts={
        "near_copy_of_kept": Verdict(
            counted="near-copies of a better pair",
            told="near-copies of both were selected at a better rank",
        ),
        "cap": Verdict(
            counted="an image has better pairs already",
            told="an image has {settings.max_per_image} better pairs already",
        ),
    },
    is_asked=lambda settings: True,
    decide=_shares,
)


def _most(pairs: RawPairs, settings: SelectSettings, rows: Rows) -> Words:
    assert settings.max_pairs is not None
    is_kept = np.zeros(len(rows), np.bool_)
    if not settings.diverse or len(rows) <= settings.max_pairs:
        is_kept[: settings.max_pairs] = True
        return first_of((~is_kept, "beyond_max_pairs"))
    clip_UD, dino_UE = pairs.vectors("clip"), pairs.vectors("dino")

    def features(places: Rows) -> Features:
        some = rows[places]
        return pair_features(clip_UD, dino_UE, pairs.first[some], pairs.second[some])

    is_kept[farthest_first(features, len(rows), settings.max_pairs)] = True
    return first_of((~is_kept, "less_diverse"))


MOST = Step(
    name="max pairs",
    verdicts={
        "beyond_max_pairs": Verdict(
            counted="beyond the number asked for",
            told="{settings.max_pairs} pairs have a better rank",
        ),
        "less_diverse": Verdict(
            counted="like a pair that was chosen",
            told="the {settings.max_pairs} pairs that were chosen are more unlike one another",
        ),
    },
    is_asked=lambda settings: settings.max_pairs is not None,
    decide=_most,
)
