"""Scenes with known answers: the corpus of the demo.

A scene is a creature beside a sign, somewhere, at some time of the day. Its *captioned* attributes
are named in its caption, its *hidden* ones never are, and *nuisance* is what nobody would call a
difference: a shift by a few pixels, a shade, the grain. Twins differ in exactly one of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

TwinKind = Literal["hidden", "captioned", "nuisance"]

CAPTIONED: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "shape": ("circle", "square", "triangle", "star", "heart", "cross"),
        "colour": ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white"),
        "place": ("meadow", "desert", "snow", "beach", "city", "mars"),
        "time": ("day", "dusk", "night"),
    }
)
"""Attributes that the caption names, and their values."""

HIDDEN: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "direction": ("left", "right"),
        "count": ("one", "two", "three", "four"),
        "position": ("left", "right"),
        "mouth": ("open", "closed"),
        "flag": ("raised", "missing"),
        "camera": ("high", "low"),
        "letter": ("k", "o", "t", "x"),
    }
)
"""Attributes that no caption names, after MMVP's patterns: orientation and direction, quantity
and count, positional context, state and condition, presence of a feature, viewpoint, text."""

PHRASES: Mapping[str, str] = MappingProxyType(
    {
        "direction": "facing {}",
        "count": "with {} balloons",
        "position": "standing {}",
        "mouth": "mouth {}",
        "flag": "flag {}",
        "camera": "horizon {}",
        "letter": "reading {}",
    }
)
"""How one would put a hidden attribute into words; no caption does."""

TEMPLATES = (
    "a {colour} {shape} {where} {when}",
    "a picture of a {colour} {shape} {where} {when}",
    "{when} {where} a {colour} {shape}",
    "{where} there is a {colour} {shape} {when}",
)
"""Wordings of a caption; shards have the first."""

WHERE = {
    "meadow": "on the meadow",
    "desert": "in the desert",
    "snow": "in the snow",
    "beach": "on the beach",
    "city": "in the city",
    "mars": "on mars",
}
WHEN = {"day": "by day", "dusk": "at dusk", "night": "at night"}


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Everything that decides the pixels of one picture."""

    shape: str
    colour: str
    place: str
    time: str
    direction: str
    count: str
    position: str
    mouth: str
    flag: str
    camera: str
    letter: str
    nuisance: int
    """Seed of the shift, the shade and the grain."""

    def __post_init__(self) -> None:
        for attribute, values in {**CAPTIONED, **HIDDEN}.items():
            if getattr(self, attribute) not in values:
                raise ValueError(
                    f"{attribute} is {getattr(self, attribute)!r}; a scene has one of {values}"
                )


@dataclass(frozen=True, kw_only=True)
class Planted:
    """A scene of a corpus, and the twin it was planted with."""

    number: int
    scene: Scene
    twin: int | None = None
    """Number of the other scene of the pair; none for a scene without twin."""
    twin_kind: TwinKind | None = None
    twin_attribute: str | None = None
    """The one attribute in which the twins differ; `nuisance` for nuisance twins."""


def caption(scene: Scene, template: int = 0) -> str:
    """Put the captioned attributes of a scene into words, and nothing else."""
    return TEMPLATES[template].format(
        colour=scene.colour, shape=scene.shape, where=WHERE[scene.place], when=WHEN[scene.time]
    )


def draw_scene(rng: np.random.Generator) -> Scene:
    """Draw every attribute of a scene, each value equally often."""
    values = {name: str(rng.choice(of)) for name, of in {**CAPTIONED, **HIDDEN}.items()}
    return Scene(**values, nuisance=int(rng.integers(2**31)))


def draw_twin(scene: Scene, attribute: str, rng: np.random.Generator) -> Scene:
    """Draw another value for one attribute, or for `nuisance`, and keep all else."""
    if attribute == "nuisance":
        return replace(scene, nuisance=int(rng.integers(2**31)))
    values = {**CAPTIONED, **HIDDEN}[attribute]
    others = [value for value in values if value != getattr(scene, attribute)]
    change: dict[str, Any] = {attribute: str(rng.choice(others))}
    return replace(scene, **change)


def make_scenes(num_scenes: int, seed: int, *, twin_share: float = 0.6) -> list[Planted]:
    """Draw a corpus of scenes, some of them planted as twins.

    Twins take turns: one pair for each hidden attribute, each captioned one and nuisance, then
    again. The order of the corpus says nothing about who is whose twin.

    Args:
        num_scenes: how many scenes.
        seed: of all of them; equal seeds give equal corpora.
        twin_share: share of the scenes that have a twin, from 0 to 1.
    """
    if not 0 <= twin_share <= 1:
        raise ValueError(f"twin_share is {twin_share}; a share lies between 0 and 1")
    rng = np.random.default_rng(seed)
    kinds: dict[str, TwinKind] = {
        **dict.fromkeys(HIDDEN, "hidden"),
        **dict.fromkeys(CAPTIONED, "captioned"),
        "nuisance": "nuisance",
    }
    turns = list(kinds.items())
    num_pairs = int(num_scenes * twin_share) // 2
    numbers = [int(number) for number in rng.permutation(num_scenes)]
    planted = [Planted(number=n, scene=draw_scene(rng)) for n in numbers[2 * num_pairs :]]
    for pair in range(num_pairs):
        attribute, kind = turns[pair % len(turns)]
        one, other = numbers[2 * pair : 2 * pair + 2]
        scene = draw_scene(rng)
        scenes = ((one, scene, other), (other, draw_twin(scene, attribute, rng), one))
        planted += [
            Planted(number=number, scene=of, twin=twin, twin_kind=kind, twin_attribute=attribute)
            for number, of, twin in scenes
        ]
    return sorted(planted, key=lambda entry: entry.number)
