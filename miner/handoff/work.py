"""What a format is, and what it is given to write."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from miner.handoff.originals import Originals
from miner.handoff.pairs import Handoff
from miner.handoff.settings import HandoffSettings
from miner.store import Store

Files = dict[str, tuple[str, str]]
"""Where both images of a pair lie in the hand-off's folder, by pair_id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What is to be written.

    Attributes:
        handoff: the pairs and images.
        settings: how.
        originals: reads the images.
        folder: to write into; it is empty.
        runs: whose pairs these are; none where a folder of ids is hydrated.
    """

    handoff: Handoff
    settings: HandoffSettings
    originals: Originals
    folder: Path
    runs: Sequence[Store] = ()


def _all_of_it(handoff: Handoff, settings: HandoffSettings) -> Handoff:
    return handoff


def _nothing(work: Work) -> object:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """A format of hand-offs: a line of `miner.handoff.registry.FORMATS`.

    Attributes:
        name: on the command line.
        summary: what it is, in a few words.
        usage: Markdown for the hand-off's README: what lies where, and how it is opened.
        write: writes it, and tells where the images are (nothing where it holds none).
        options: settings that have an effect, besides those that say which pairs are meant.
        choose: the pairs that it takes; it raises ValueError where they lack something.
        inputs: what it reads besides pairs and images, as JSON; what is equal is the same hand-off.
        front_matter: YAML at the head of the README.
    """

    name: str
    summary: str
    usage: str
    write: Callable[[Work], Files]
    options: frozenset[str] = frozenset({"images", "bake_orientation"})
    choose: Callable[[Handoff, HandoffSettings], Handoff] = _all_of_it
    inputs: Callable[[Work], object] = _nothing
    front_matter: Callable[[Handoff], str] = lambda handoff: ""

    @property
    def has_images(self) -> bool:
        """Whether it holds the images' bytes."""
        return "images" in self.options
