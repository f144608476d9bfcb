"""The steps of a selection, in their order, and what they counted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from miner.config import SelectSettings
from miner.records import Json
from miner.selecting.decontaminate import NOT_IN
from miner.selecting.image_filters import RATINGS, SIZES
from miner.selecting.likeness import CAPTIONS, LOOKS
from miner.selecting.pair_filters import BLIND, CLIP_BELOW, LABELS, SOURCES
from miner.selecting.ranked_steps import ABOUT, MOST, NEAR_COPIES, PER_IMAGE
from miner.selecting.verdicts import KEPT, Step, Verdict

STEPS: tuple[Step, ...] = (
    *(BLIND, CLIP_BELOW, LABELS, SOURCES, SIZES, RATINGS, CAPTIONS, LOOKS, NOT_IN),
    *(NEAR_COPIES, ABOUT, PER_IMAGE, MOST),
)
"""In the order in which they look; a pair is counted at the first step that drops it."""

STEP_OF: Mapping[str, Step] = {word: step for step in STEPS for word in step.verdicts}
"""The step that drops pairs by a word."""

VERDICTS: Mapping[str, Verdict] = {
    word: verdict for step in STEPS for word, verdict in step.verdicts.items()
}
"""The sentences of every word but `kept`."""


PATHS = ("not_in", "clip_weights")
"""Settings whose folders are nobody else's business."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCount:
    """What a step did.

    Attributes:
        step: its name.
        left: how many pairs came through.
        dropped: how many did not, by word.
    """

    step: str
    left: int
    dropped: Mapping[str, int]


def step_counts(counts: Mapping[str, int], settings: SelectSettings) -> list[StepCount]:
    """What every step that was asked for did.

    Args:
        counts: pairs by the word that was said of them, kept ones too.
        settings: of the selection.
    """
    left = sum(counts.values())
    found = []
    for step in STEPS:
        if step.is_asked(settings):
            dropped = {word: counts[word] for word in step.verdicts if counts.get(word)}
            left -= sum(dropped.values())
            found.append(StepCount(step=step.name, left=left, dropped=dropped))
    assert left == counts.get(KEPT, 0), counts
    return found


def columns_of(settings: SelectSettings) -> set[str]:
    """Columns of `samples` that the steps read."""
    return {name for step in STEPS if step.is_asked(settings) for name in step.columns}


def asked_for(settings: SelectSettings) -> str:
    """The settings that are not the default, as options; of a path or URL its last part alone.

    It is plain ASCII on one line: what is said in it comes from a user.

    Args:
        settings: of a selection.
    """
    said = []
    for name, value in settings.model_dump(mode="json", exclude_defaults=True).items():
        option = f"--{name.replace('_', '-')}"
        if name in PATHS:
            value = str(value).partition("?")[0].partition("#")[0].rstrip("/").rpartition("/")[2]
        said.append(option if value is True else f"{option} {json.dumps(value)}")
    return " ".join(said)


def settings_of(selection: Json) -> SelectSettings:
    """The settings of a selection, by join.json; what came later has its default."""
    return SelectSettings(**selection["settings"])
