"""Filters by how alike the images of a pair are otherwise: in their captions, in their looks."""

from __future__ import annotations

import re
import unicodedata

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from miner.config import SelectSettings
from miner.selecting.hamming import differing_bits
from miner.selecting.raw_pairs import Mask, RawPairs, Rows
from miner.selecting.verdicts import Step, Verdict, Words, first_of

_UNSPACED = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")


def words_of(caption: str | None) -> frozenset[str]:
    """The words of a caption: runs of letters, digits and underscores, without case.

    Of scripts without spaces (Chinese, Japanese), each character.
    """
    text = unicodedata.normalize("NFKC", caption or "").casefold()
    return frozenset(_WORD.findall(text))


def caption_similarity(one: frozenset[str], other: frozenset[str]) -> float:
    """Words in both captions, as a share of the words in either (Jaccard); NaN without words."""
    if not one or not other:
        return float("nan")
    return len(one & other) / len(one | other)


def _similarities(pairs: RawPairs, rows: Rows) -> npt.NDArray[np.float64]:
    """[R] float64: how similar the captions of each pair are; NaN where one has no words."""
    images = pairs.images(rows)
    captions = pairs.samples["caption"].take(pa.array(images)).to_pylist()
    words = {image: words_of(text) for image, text in zip(images, captions, strict=True)}
    both = zip(pairs.first[rows], pairs.second[rows], strict=True)
    found = [caption_similarity(words[one], words[other]) for one, other in both]
    return np.array(found, np.float64)


def _captions(pairs: RawPairs, settings: SelectSettings, rows: Rows) -> Words:
    found = _similarities(pairs, rows)
    least, most = settings.min_caption_similarity, settings.max_caption_similarity
    return first_of(
        (np.isnan(found), "no_caption"),
        (found < (0 if least is None else least), "captions_unlike"),
        (found > (1 if most is None else most), "captions_alike"),
    )


CAPTIONS = Step(
    name="captions",
    verdicts={
        "no_caption": Verdict(
            counted="an image without a caption", told="an image has no caption with words"
        ),
        "captions_unlike": Verdict(
            counted="of captions that share few words",
            told="the captions share {similarity:.3f} of their words, less than "
            "{settings.min_caption_similarity:g}",
        ),
        "captions_alike": Verdict(
            counted="of captions that share many words",
            told="the captions share {similarity:.3f} of their words, more than "
            "{settings.max_caption_similarity:g}",
        ),
    },
    is_asked=lambda settings: (
        (settings.min_caption_similarity, settings.max_caption_similarity) != (None, None)
    ),
    decide=_captions,
    columns=("caption",),
    values=lambda pairs, settings, row: {"similarity": _similarities(pairs, np.array([row]))[0]},
)


def _bits(pairs: RawPairs, rows: Rows) -> tuple[npt.NDArray[np.int64], Mask]:
    """[R]: in how many bits both phash differ, and whether one is unknown."""
    one, other = (each.to_numpy() for each in pairs.both("phash", rows))
    return differing_bits(one, other), (one == 0) | (other == 0)


def _looks(pairs: RawPairs, settings: SelectSettings, rows: Rows) -> Words:
    bits, unknown = _bits(pairs, rows)
    least, most = settings.min_phash_bits, settings.max_phash_bits
    return first_of(
        (unknown, "no_phash"),
        (bits < (0 if least is None else least), "looks_alike"),
        (bits > (64 if most is None else most), "looks_unlike"),
    )


LOOKS = Step(
    name="looks",
    verdicts={
        "no_phash": Verdict(
            counted="an image without a phash", told="the phash of an image is unknown"
        ),
        "looks_alike": Verdict(
            counted="of images that look alike",
            told="the images' phash differ in {bits} bits, fewer than {settings.min_phash_bits}",
        ),
        "looks_unlike": Verdict(
            counted="of images that look unlike",
            told="the images' phash differ in {bits} bits, more than {settings.max_phash_bits}",
        ),
    },
    is_asked=lambda settings: (settings.min_phash_bits, settings.max_phash_bits) != (None, None),
    decide=_looks,
    columns=("phash",),
    values=lambda pairs, settings, row: {"bits": _bits(pairs, np.array([row]))[0][0]},
)
