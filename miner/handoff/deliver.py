"""A run's pairs, handed off: read, written, and said what became of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from miner.handoff.folder import Written, check_settings, write_handoff
from miner.handoff.originals import Originals
from miner.handoff.registry import FORMATS
from miner.handoff.settings import HandoffSettings
from miner.handoff.source import Source, read_source
from miner.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """A hand-off, and what it was made of."""

    source: Source
    written: Written


def hand_off(
    store: Store,
    name: str,
    format_name: str,
    settings: HandoffSettings,
    out: Path,
    *,
    overwrite: bool = False,
) -> Delivery:
    """Hand off pairs of a join.

    Args:
        store: the run directory.
        name: the join's.
        format_name: a name in `FORMATS`.
        settings: which pairs, and how.
        out: the folder to make.
        overwrite: replace another hand-off that lies there.

    Raises:
        ValueError: a setting has no effect, or pairs lack what the format needs.
        StoreError: the run has no such pairs, or something else lies at `out`.
        ShardError: an image cannot be had; there is no folder then.
    """
    format = FORMATS[format_name]
    check_settings(format, settings)
    source = read_source(store, name, settings)
    settings = settings.model_copy(update={"reviewed": source.reviewed})
    limits = source.handoff.facts.limits
    with Originals(source.places, limits, bake=settings.bake_orientation) as originals:
        written = write_handoff(
            format,
            source.handoff,
            settings,
            originals,
            out,
            runs=source.runs,
            overwrite=overwrite,
        )
    return Delivery(source=source, written=written)
