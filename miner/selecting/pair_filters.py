"""Filters by what a pair is: its cosines, its labels, its sources."""

from __future__ import annotations

from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from miner.config import SelectSettings
from miner.selecting.ranking import blind_rows
from miner.selecting.raw_pairs import RawPairs, Rows, either_missing, flags
from miner.selecting.verdicts import Step, Values, Verdict, Words, first_of


def _blindness(pairs: RawPairs, settings: SelectSettings, rows: Rows) -> Words:
    return first_of((~blind_rows(pairs.raw)[rows], "not_blind"))


BLIND = Step(
    name="blind",
    verdicts={
        "not_blind": Verdict(
            counted="kept beyond the thresholds only", told="kept beyond the thresholds only"
        )
    },
    is_asked=lambda settings: True,
    decide=_blindness,
)


def _below(pairs: RawPairs, settings: SelectSettings, rows: Rows) -> Words:
    clip_cos = pairs.raw["clip_cos"].to_numpy()[rows].astype(np.float64)
    return first_of((clip_cos >= settings.clip_below, "clip_not_below"))


CLIP_BELOW = Step(
    name="CLIP below",
    verdicts={
        "clip_not_below": Verdict(
            counted="of a CLIP cosine that is not below the upper bound",
            told="its CLIP cosine {clip_cos:.6f} is not below {settings.clip_below:g}",
        )
    },
    is_asked=lambda settings: settings.clip_below is not None,
    decide=_below,
    values=lambda pairs, settings, row: {"clip_cos": pairs.raw["clip_cos"][row].as_py()},
)


# -- labels and sources -------------------------------------------------------------------------


def _labels(pairs: RawPairs, settings: SelectSettings, rows: Rows) -> Words:
    one, other = pairs.both("label", rows)
    same = flags(pc.equal(one, other))
    wrong = (~same, "different_labels") if settings.labels == "same" else (same, "same_label")
    return first_of((either_missing(one, other), "no_label"), wrong)


LABELS = Step(
    name="labels",
    verdicts={
        "no_label": Verdict(
            counted="an image without a label",
            told="labels {settings.labels}, and an image has no label",
        ),
        "same_label": Verdict(counted="of the same label", told="both images have the same label"),
        "different_labels": Verdict(
            counted="of different labels", told="the images have different labels"
        ),
    },
    is_asked=lambda settings: settings.labels != "any",
    decide=_labels,
    columns=("label",),
)


def host_of(url: str | None) -> str | None:
    """The host in a URL, in lower case, without a leading `www.`; None where there is none."""
    try:
        host = urlsplit(url or "").hostname
    except ValueError:
        return None
    return (host or "").removeprefix("www.") or None


def _sources_of(
    pairs: RawPairs, settings: SelectSettings, rows: Rows
) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
    if settings.source_is == "dataset":
        return pairs.both("dataset", rows)
    one, other = pairs.both("url", rows)
    hosts = [pa.array(map(host_of, each.to_pylist()), pa.string()) for each in (one, other)]
    return pa.chunked_array([hosts[0]]), pa.chunked_array([hosts[1]])


def _sources(pairs: RawPairs, settings: SelectSettings, rows: Rows) -> Words:
    one, other = _sources_of(pairs, settings, rows)
    same = flags(pc.equal(one, other))
    wrong = (~same, "other_source") if settings.sources == "within" else (same, "same_source")
    return first_of((either_missing(one, other), "no_source"), wrong)


def _source_values(pairs: RawPairs, settings: SelectSettings, row: int) -> Values:
    one, other = _sources_of(pairs, settings, np.array([row]))
    return {"one": one[0].as_py(), "other": other[0].as_py()}


SOURCES = Step(
    name="sources",
    verdicts={
        "no_source": Verdict(
            counted="an image without a host in its url", told="an image has no host in its url"
        ),
        "same_source": Verdict(
            counted="of one source", told="both images are of the {settings.source_is} {one}"
        ),
        "other_source": Verdict(
            counted="of two sources",
            told="the images are of two sources, {settings.source_is} {one} and {other}",
        ),
    },
    is_asked=lambda settings: settings.sources != "any",
    decide=_sources,
    columns=("dataset", "url"),
    values=_source_values,
)
