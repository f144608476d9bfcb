"""A run's pairs, handed off: read, written, and said what became of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from miner.handoff.folder import Written, check_settings, write_handoff
from miner.handoff.originals import Originals
from miner.handoff.pairs import Handoff
from miner.handoff.registry import FORMATS
from miner.handoff.settings import HandoffSettings
from miner.handoff.source import Source, read_source
from miner.records import Json
from miner.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """A hand-off, and what it was made of.

    Attributes:
        source: what the run has.
        written: what was handed off of it.
        missing: rows of IMAGES that could not be had, for which pairs were left out.
        num_left_out: these pairs.
    """

    source: Source
    written: Written
    missing: Sequence[Json] = ()
    num_left_out: int = 0


def hand_off(
    store: Store,
    name: str,
    format_name: str,
    settings: HandoffSettings,
    out: Path,
    *,
    overwrite: bool = False,
    skip_missing: bool = False,
) -> Delivery:
    """Hand off pairs of a join.

    Args:
        store: the run directory.
        name: the join's.
        format_name: a name in `FORMATS`.
        settings: which pairs, and how.
        out: the folder to make.
        overwrite: replace another hand-off that lies there.
        skip_missing: leave out pairs with an image that cannot be had, instead of an error.

    Raises:
        ValueError: a setting has no effect, or pairs lack what the format needs.
        StoreError: the run has no such pairs, or something else lies at `out`.
        ShardError: an image cannot be had; there is no folder then.
    """
    format = FORMATS[format_name]
    check_settings(format, settings)
    if skip_missing and (settings.images == "none" or not format.has_images):
        raise ValueError("--skip-missing has no effect where no images are written; leave it out")
    source = read_source(store, name, settings)
    settings = settings.model_copy(update={"reviewed": source.reviewed})
    handoff, limits = source.handoff, source.handoff.facts.limits
    missing: list[Json] = []
    with Originals(source.places, limits, bake=settings.bake_orientation) as originals:
        if skip_missing and (lost := originals.lost(handoff.images.values())):
            missing = [image for image, _ in lost]
            handoff = _without(handoff, missing)
            if not handoff.pairs:
                raise lost[0][1]
        written = write_handoff(
            format,
            handoff,
            settings,
            originals,
            out,
            runs=source.runs,
            missing=missing,
            overwrite=overwrite,
        )
    num_left_out = len(source.handoff.pairs) - len(handoff.pairs)
    return Delivery(source=source, written=written, missing=missing, num_left_out=num_left_out)


def _without(handoff: Handoff, missing: Sequence[Json]) -> Handoff:
    names = {image["sha256"] for image in missing}
    return handoff.only([p for p in handoff.pairs if not names & {p["sha256_1"], p["sha256_2"]}])
