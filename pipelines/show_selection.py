"""What the commands print of a selection: its steps, and the list that pairs are kept clear of."""

from __future__ import annotations

from collections.abc import Iterator

from miner.records import Json
from miner.selecting.ranked_steps import ABOUT
from miner.selecting.steps import VERDICTS, asked_for, settings_of, step_counts
from miner.selecting.verdicts import KEPT


def selection_facts(selection: Json) -> Iterator[tuple[str, str]]:
    """What each step of a selection dropped, by what was said of the pairs, and what is left."""
    settings = settings_of(selection)
    if asked := asked_for(settings):
        yield "asked for", asked
    if "not_in" in selection:
        yield "not in", _known_by(selection["not_in"])
    about_left: int | None = None
    for each in step_counts(selection["counts"], settings):
        if each.step == ABOUT.name:
            about_left = each.left
        if each.dropped:
            reasons = [f"{number} {VERDICTS[w].counted}" for w, number in each.dropped.items()]
            yield f"  {each.step}", f"{each.left} left; dropped {', '.join(reasons)}"
    kept = selection["counts"].get(KEPT, 0)
    yield "selected", f"{kept}"
    if about_left is not None and settings.max_pairs is not None and kept < settings.max_pairs:
        yield (
            "fewer",
            f"than --max-pairs {settings.max_pairs}: --about-share {settings.about_share:g} left "
            f"{about_left}; give a larger one",
        )


def _known_by(listed: Json) -> str:
    """By what the images of a list can be known."""
    ways = [f"{number} by {way}" for way, number in listed["known_by"].items() if number]
    lacking = [f"none by {way}" for way, number in listed["known_by"].items() if not number]
    notes = [
        *([f"{listed['unread']} cannot be decoded"] if listed["unread"] else []),
        *(
            [f"the bytes of {listed['without_bytes']} are unknown"]
            if listed["without_bytes"]
            else []
        ),
    ]
    return f"{listed['images']} images: {', '.join([*ways, *lacking, *notes])}"
