"""Rendered scenes with known answers: the corpus of the demo.

A scene is a creature beside a sign, somewhere, at some time of the day. Its *captioned* attributes
are named in its caption, its *hidden* ones never are, and *nuisance* is what nobody would call a
difference: a shift by a few pixels, a shade, the grain. Twins differ in exactly one of them.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import webdataset
from PIL import Image, ImageDraw

Point = tuple[float, float]
RGB = tuple[int, int, int]
TwinKind = Literal["hidden", "captioned", "nuisance"]

SIZE = 256
"""Side of a rendered scene, in pixels."""

SUPERSAMPLING = 3
"""Pixels drawn for each one kept, along a side."""

JPEG_QUALITY = 95

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

BODY: Mapping[str, RGB] = {
    "red": (214, 40, 40),
    "orange": (247, 136, 20),
    "yellow": (252, 216, 44),
    "green": (38, 158, 74),
    "blue": (36, 98, 216),
    "purple": (120, 52, 168),
    "pink": (250, 150, 190),
    "white": (246, 246, 242),
}
GROUND: Mapping[str, RGB] = {
    "meadow": (136, 186, 92),
    "desert": (226, 192, 130),
    "snow": (238, 246, 255),
    "beach": (240, 222, 176),
    "city": (120, 120, 128),
    "mars": (178, 96, 70),
}
BACKDROP: Mapping[str, RGB] = {
    "meadow": (66, 120, 62),
    "desert": (186, 142, 84),
    "snow": (84, 124, 150),
    "beach": (40, 140, 176),
    "city": (86, 90, 108),
    "mars": (124, 58, 48),
}
SKY: Mapping[str, tuple[RGB, RGB]] = {
    "day": ((104, 178, 240), (206, 232, 250)),
    "dusk": ((110, 74, 140), (252, 176, 120)),
    "night": ((14, 18, 48), (48, 60, 110)),
}
LIGHT = {"day": 1.0, "dusk": 0.86, "night": 0.62}
"""How much of its colour the ground keeps."""

INK: RGB = (38, 34, 44)
PAPER: RGB = (250, 246, 232)

STROKES: Mapping[str, tuple[tuple[Point, ...], ...]] = {
    "k": (((-0.6, -1), (-0.6, 1)), ((0.65, -1), (-0.6, 0.1)), ((-0.25, -0.2), (0.7, 1))),
    "t": (((-0.8, -0.9), (0.8, -0.9)), ((0, -0.9), (0, 1))),
    "x": (((-0.75, -1), (0.75, 1)), ((0.75, -1), (-0.75, 1))),
}
"""Letters as lines in a box from -1 to 1; the o is a ring."""


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


def _draw_scene(rng: np.random.Generator) -> Scene:
    values = {name: str(rng.choice(of)) for name, of in {**CAPTIONED, **HIDDEN}.items()}
    return Scene(**values, nuisance=int(rng.integers(2**31)))


def _draw_twin(scene: Scene, attribute: str, rng: np.random.Generator) -> Scene:
    if attribute == "nuisance":
        return replace(scene, nuisance=int(rng.integers(2**31)))
    values = {**CAPTIONED, **HIDDEN}[attribute]
    others = [value for value in values if value != getattr(scene, attribute)]
    return replace(scene, **{attribute: str(rng.choice(others))})


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
    attributes = (*HIDDEN, *CAPTIONED, "nuisance")
    num_pairs = int(num_scenes * twin_share) // 2
    numbers = [int(number) for number in rng.permutation(num_scenes)]
    planted = []
    for pair in range(num_pairs):
        attribute = attributes[pair % len(attributes)]
        kind: TwinKind = (
            "hidden"
            if attribute in HIDDEN
            else "captioned"
            if attribute in CAPTIONED
            else "nuisance"
        )
        one, other = numbers[2 * pair], numbers[2 * pair + 1]
        scene = _draw_scene(rng)
        twin = _draw_twin(scene, attribute, rng)
        fields = {"twin_kind": kind, "twin_attribute": attribute}
        planted.append(Planted(number=one, scene=scene, twin=other, **fields))
        planted.append(Planted(number=other, scene=twin, twin=one, **fields))
    planted += [Planted(number=number, scene=_draw_scene(rng)) for number in numbers[2 * num_pairs:]]
    return sorted(planted, key=lambda entry: entry.number)


class _Pen:
    """Draws in units of the picture's side on a supersampled canvas."""

    def __init__(self, canvas: Image.Image, shift: Point) -> None:
        self._draw = ImageDraw.Draw(canvas)
        self._scale = canvas.width
        self._shift = shift

    def _at(self, point: Point) -> Point:
        return (
            (point[0] + self._shift[0]) * self._scale,
            (point[1] + self._shift[1]) * self._scale,
        )

    def polygon(self, points: Sequence[Point], fill: RGB, outline: float = 0) -> None:
        """Fill a polygon; a width of `outline` draws its edge in ink."""
        corners = [self._at(point) for point in points]
        self._draw.polygon(corners, fill=fill)
        if outline:
            self.line([*points, points[0], points[1]], outline, INK)

    def ellipse(
        self, centre: Point, rx: float, ry: float, fill: RGB, outline: float = 0
    ) -> None:
        """Fill an ellipse given its centre and half axes."""
        low, high = (
            self._at((centre[0] - rx, centre[1] - ry)),
            self._at((centre[0] + rx, centre[1] + ry)),
        )
        ink = INK if outline else None
        self._draw.ellipse((*low, *high), fill=fill, outline=ink, width=round(outline * self._scale))

    def line(self, points: Sequence[Point], width: float, fill: RGB) -> None:
        """Draw a line with round corners and ends."""
        corners = [self._at(point) for point in points]
        self._draw.line(corners, fill=fill, width=round(width * self._scale), joint="curve")
        for end in (points[0], points[-1]):
            self.ellipse(end, width / 2, width / 2, fill)


def _mix(one: RGB, other: RGB, share: float) -> RGB:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(one, other, strict=True))
    return red, green, blue


def _outline_of(shape: str, centre: Point, radius: float) -> list[Point]:
    """Corners of a body, by angle or as a closed curve, about its centre."""
    x, y = centre
    if shape == "circle":
        turns = [2 * math.pi * k / 48 for k in range(48)]
        return [(x + radius * math.cos(t), y + radius * math.sin(t)) for t in turns]
    if shape == "square":
        r = 0.88 * radius
        return [(x - r, y - r), (x + r, y - r), (x + r, y + r), (x - r, y + r)]
    if shape == "triangle":
        r = radius
        return [(x, y - 1.15 * r), (x + 1.2 * r, y + 0.92 * r), (x - 1.2 * r, y + 0.92 * r)]
    if shape == "star":
        points = []
        for k in range(10):
            r = radius * (1.24 if k % 2 == 0 else 0.66)
            turn = math.pi * k / 5 - math.pi / 2
            points.append((x + r * math.cos(turn), y + r * math.sin(turn)))
        return points
    if shape == "heart":
        points = []
        for k in range(48):
            t = 2 * math.pi * k / 48
            u = 16 * math.sin(t) ** 3
            v = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
            points.append((x + radius * u / 14.5, y - radius * (v + 2) / 14.5))
        return points
    a, b = 0.42 * radius, 1.1 * radius
    quarter = [(a, -b), (a, -a), (b, -a), (b, a)]
    return [
        (x + c * u - s * v, y + s * u + c * v)
        for c, s in ((1, 0), (0, 1), (-1, 0), (0, -1))
        for u, v in quarter[:3]
    ]


def _draw_place(pen: _Pen, scene: Scene, horizon: float) -> None:
    light = LIGHT[scene.time]
    ground = _mix((16, 18, 40), GROUND[scene.place], light)
    back = _mix((16, 18, 40), BACKDROP[scene.place], light)
    if scene.time == "night":
        for k in range(14):
            star = ((0.07 + 0.618 * k) % 1, (0.03 + 0.137 * k) % 0.36)
            pen.ellipse(star, 0.005, 0.005, (240, 238, 210))
    for k in range(-1, 6):
        x = 0.2 * k + 0.1
        if scene.place == "meadow":
            pen.ellipse((x, horizon + 0.02), 0.13, 0.075 + 0.02 * (k % 2), back)
        elif scene.place == "desert":
            pen.polygon([(x - 0.16, horizon), (x, horizon - 0.1), (x + 0.16, horizon)], back)
        elif scene.place == "snow":
            for rise in (0.0, 0.05):
                top = horizon - 0.08 - rise
                pen.polygon([(x - 0.06, top + 0.08), (x, top), (x + 0.06, top + 0.08)], back)
        elif scene.place == "city":
            top = horizon - 0.08 - 0.06 * (k % 3)
            pen.polygon([(x - 0.08, horizon), (x - 0.08, top), (x + 0.08, top), (x + 0.08, horizon)], back)
            for w in (-0.04, 0.02):
                pen.polygon([(x + w, top + 0.02), (x + w + 0.025, top + 0.02), (x + w + 0.025, top + 0.05), (x + w, top + 0.05)], (250, 222, 130))
        elif scene.place == "mars":
            pen.polygon([(x - 0.14, horizon), (x - 0.07, horizon - 0.09), (x + 0.05, horizon - 0.09), (x + 0.1, horizon)], back)
    pen.polygon([(-0.1, horizon), (1.1, horizon), (1.1, 1.1), (-0.1, 1.1)], ground)
    if scene.place == "beach":
        pen.polygon([(-0.1, horizon), (1.1, horizon), (1.1, horizon + 0.07), (-0.1, horizon + 0.07)], back)
    if scene.place == "mars":
        for k in range(4):
            crater = (0.12 + 0.27 * k, horizon + 0.09 + 0.05 * (k % 2))
            pen.ellipse(crater, 0.06, 0.02, back)


def _draw_balloons(pen: _Pen, scene: Scene) -> None:
    number = 1 + HIDDEN["count"].index(scene.count)
    for k in range(number):
        x = 0.5 + 0.22 * (k - (number - 1) / 2)
        pen.line([(x, 0.17), (x, 0.25)], 0.008, INK)
        pen.ellipse((x, 0.115), 0.062, 0.07, PAPER, 0.014)


def _draw_sign(pen: _Pen, scene: Scene, x: float) -> None:
    y, half = 0.6, 0.16
    pen.line([(x, y), (x, 0.93)], 0.04, (116, 78, 48))
    pen.polygon([(x - half, y - half), (x + half, y - half), (x + half, y + half), (x - half, y + half)], PAPER, 0.018)
    r = 0.1
    if scene.letter == "o":
        pen.ellipse((x, y), r, r, PAPER, 0.05)
        return
    for stroke in STROKES[scene.letter]:
        pen.line([(x + r * u, y + r * v) for u, v in stroke], 0.05, INK)


def _draw_creature(pen: _Pen, scene: Scene, x: float) -> None:
    y, radius = 0.68, 0.185
    ahead = -1 if scene.direction == "left" else 1
    body = BODY[scene.colour]
    pen.ellipse((x, y + 0.21), 0.2, 0.035, _mix(GROUND[scene.place], INK, 0.6))
    if scene.flag == "raised":
        top = y - 0.41
        pen.line([(x, y - 0.1), (x, top)], 0.02, INK)
        pen.polygon([(x, top), (x + 0.2, top + 0.08), (x, top + 0.16)], (222, 46, 62), 0.014)
    tail = [(x - ahead * (0.14 + 0.03 * k), y + 0.1 - 0.06 * k - 0.02 * (k % 2)) for k in range(5)]
    pen.line(tail, 0.04, INK)
    pen.line(tail, 0.02, body)
    pen.polygon(_outline_of(scene.shape, (x, y), radius), body, 0.016)
    nose = [(x + ahead * 0.08, y - 0.075), (x + ahead * 0.29, y - 0.01), (x + ahead * 0.08, y + 0.045)]
    pen.polygon(nose, (252, 158, 60), 0.014)
    for eye in (-0.04, 0.06):
        centre = (x + ahead * eye, y - 0.085)
        pen.ellipse(centre, 0.042, 0.046, (255, 255, 255), 0.01)
        pen.ellipse((centre[0] + ahead * 0.016, centre[1]), 0.02, 0.024, INK)
    lips = (x - ahead * 0.01, y + 0.09)
    if scene.mouth == "open":
        pen.ellipse(lips, 0.1, 0.085, INK)
        pen.ellipse((lips[0], lips[1] + 0.04), 0.062, 0.034, (232, 92, 104))
    else:
        pen.line([(lips[0] - 0.07, lips[1] - 0.012), lips, (lips[0] + 0.07, lips[1] - 0.012)], 0.018, INK)


def render(scene: Scene) -> Image.Image:
    """Draw a scene as an RGB image of SIZE x SIZE pixels; equal scenes give equal pixels."""
    rng = np.random.default_rng(scene.nuisance)
    shift_x, shift_y = rng.uniform(-0.006, 0.006, size=2)
    gain = rng.uniform(0.96, 1.04) * rng.uniform(0.99, 1.01, size=3)
    grain = rng.uniform(0.5, 3.0)
    side = SIZE * SUPERSAMPLING
    horizon = 0.46 if scene.camera == "high" else 0.78
    top, bottom = SKY[scene.time]
    ramp = np.clip(np.linspace(0, 1 / horizon, SIZE)[:, None], 0, 1)
    sky = np.array(top) + (np.array(bottom) - np.array(top)) * ramp
    column = Image.fromarray(sky.round().astype(np.uint8)[:, None, :])
    canvas = column.resize((side, side), Image.Resampling.BILINEAR)
    pen = _Pen(canvas, (float(shift_x), float(shift_y)))
    _draw_place(pen, scene, horizon)
    _draw_balloons(pen, scene)
    creature, sign = (0.3, 0.79) if scene.position == "left" else (0.7, 0.21)
    _draw_sign(pen, scene, sign)
    _draw_creature(pen, scene, creature)
    pixels = np.asarray(canvas.reduce(SUPERSAMPLING), dtype=np.float32) * gain.astype(np.float32)
    pixels += grain * rng.standard_normal((SIZE, SIZE, 1), dtype=np.float32)
    return Image.fromarray(pixels.clip(0, 255).round().astype(np.uint8))


def encode(image: Image.Image) -> bytes:
    """The bytes of a scene's JPEG file."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()


def _sample(entry: Planted, seed: int, key: str) -> tuple[dict[str, str], bytes]:
    """The fields of one sample in img2dataset's order, its truth besides, and its JPEG."""
    jpeg = encode(render(entry.scene))
    truth = asdict(entry)
    fields = {
        "caption": caption(entry.scene),
        "url": f"scene://{seed}/{entry.number}",
        "key": key,
        "status": "success",
        "error_message": None,
        "width": SIZE,
        "height": SIZE,
        "original_width": SIZE,
        "original_height": SIZE,
        "exif": "{}",
        "sha256": hashlib.sha256(jpeg).hexdigest(),
        **truth.pop("scene"),
        **truth,
    }
    return fields, jpeg


def write_shards(
    folder: Path, *, num_scenes: int, seed: int, shard_size: int = 500, twin_share: float = 0.6
) -> list[Path]:
    """Render a corpus into webdataset shards in img2dataset's layout.

    Shard k is `0000k.tar` with a `.jpg`, `.json` and `.txt` for each scene, `0000k.parquet` with a
    row for each, and `0000k_stats.json`. The json holds the truth: every attribute, the nuisance
    seed and the twin. Equal arguments give equal bytes.

    Returns:
        The paths of the tars, in order.
    """
    folder.mkdir(parents=True, exist_ok=True)
    corpus = make_scenes(num_scenes, seed, twin_share=twin_share)
    tars = []
    for shard, start in enumerate(range(0, num_scenes, shard_size)):
        tar = folder / f"{shard:05d}.tar"
        rows = []
        with webdataset.TarWriter(str(tar), mtime=0, user="", group="") as writer:
            for index, entry in enumerate(corpus[start : start + shard_size]):
                fields, jpeg = _sample(entry, seed, f"{shard:05d}{index:04d}")
                rows.append(fields)
                writer.write(
                    {
                        "__key__": fields["key"],
                        "jpg": jpeg,
                        "json": json.dumps(fields, indent=4).encode(),
                        "txt": fields["caption"].encode(),
                    }
                )
        _write_sidecars(tar, rows)
        tars.append(tar)
    return tars


def _write_sidecars(tar: Path, rows: list[dict[str, object]]) -> None:
    pq.write_table(pa.Table.from_pylist(rows), tar.with_suffix(".parquet"))
    stats = {
        "count": len(rows),
        "successes": len(rows),
        "failed_to_download": 0,
        "failed_to_resize": 0,
        "status_dict": {"success": len(rows)},
    }
    tar.with_name(f"{tar.stem}_stats.json").write_text(json.dumps(stats, indent=4))
