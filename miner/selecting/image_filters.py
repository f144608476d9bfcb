"""Filters by what either image of a pair is: its size, its ratings."""

from __future__ import annotations

import json

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from miner.config import SelectSettings
from miner.exclude import Ratings
from miner.selecting.raw_pairs import RawPairs, Rows
from miner.selecting.verdicts import Step, Values, Verdict, Words, first_of


def _extremes(pairs: RawPairs, rows: Rows) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """[R] each: the shortest side of both images, and the largest ratio of their sides."""
    columns = [pairs.both(name, rows) for name in ("width", "height")]
    sizes = np.array([[side.to_numpy() for side in both] for both in columns], np.int64)
    short, long = sizes.min(axis=0), sizes.max(axis=0)
    return short.min(axis=0), (long / np.maximum(short, 1)).max(axis=0)


def _sizes(pairs: RawPairs, settings: SelectSettings, rows: Rows) -> Words:
    side, elongation = _extremes(pairs, rows)
    least, most = settings.min_side or 0, settings.max_elongation or np.inf
    return first_of(
        (side < 1, "no_size"), (side < least, "too_small"), (elongation > most, "too_elongated")
    )


def _size_values(pairs: RawPairs, settings: SelectSettings, row: int) -> Values:
    side, elongation = _extremes(pairs, np.array([row]))
    return {"side": side[0], "elongation": elongation[0]}


SIZES = Step(
    name="sizes",
    verdicts={
        "no_size": Verdict(
            counted="an image of unknown size", told="the size of an image is unknown"
        ),
        "too_small": Verdict(
            counted="a small image",
            told="an image's shorter side has {side} pixels, fewer than {settings.min_side}",
        ),
        "too_elongated": Verdict(
            counted="an elongated image",
            told="an image's longer side is {elongation:.2f} times its shorter, more than "
            "{settings.max_elongation:g}",
        ),
    },
    is_asked=lambda settings: (settings.min_side, settings.max_elongation) != (None, None),
    decide=_sizes,
    columns=("width", "height"),
    values=_size_values,
)


def _fault(pairs: RawPairs, settings: SelectSettings, row: int) -> str:
    """What a rating says against the images of a pair, `<word>: <explanation>`; else empty."""
    ratings = Ratings(settings)
    for meta in pairs.both("meta", np.array([row])):
        said = ratings.opinion(json.loads(meta[0].as_py())).excluded
        if said is not None:
            return said
    return ""


def _ratings(pairs: RawPairs, settings: SelectSettings, rows: Rows) -> Words:
    ratings = Ratings(settings)
    images = pairs.images(rows)
    said = np.full(len(pairs.image_ids), "", dtype=object)
    texts = pairs.samples["meta"].take(pa.array(images)).to_pylist()
    for image, text in zip(images, texts, strict=True):
        said[image] = (ratings.opinion(json.loads(text)).excluded or "").partition(":")[0]
    one, other = said[pairs.first[rows]], said[pairs.second[rows]]
    return np.where(one != "", one, other).astype(np.str_)


RATINGS = Step(
    name="ratings",
    verdicts={
        "punsafe": Verdict(counted="an image that may be unsafe", told="an image has {fault}"),
        "pwatermark": Verdict(
            counted="an image that may have a watermark", told="an image has {fault}"
        ),
        "nsfw": Verdict(counted="an image of another NSFW", told="an image has {fault}"),
        "unrated": Verdict(counted="an image without a rating", told="an image is {fault}"),
    },
    is_asked=lambda settings: settings.asks_for_ratings,
    decide=_ratings,
    columns=("meta",),
    values=lambda pairs, settings, row: {"fault": _fault(pairs, settings, row)},
)
