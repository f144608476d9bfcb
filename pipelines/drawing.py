"""How a scene becomes a picture: equal scenes give equal pixels, and equal bytes of their JPEG."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw

from pipelines.scenes import HIDDEN, Scene

Point = tuple[float, float]
RGB = tuple[int, int, int]

SIZE = 256
"""Side of a rendered scene, in pixels."""

SUPERSAMPLING = 3
"""Pixels drawn for each one kept, along a side."""

JPEG_QUALITY = 95

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
LAMP: RGB = (250, 222, 130)
DARK: RGB = (16, 18, 40)

STROKES: Mapping[str, tuple[tuple[Point, ...], ...]] = {
    "k": (((-0.6, -1), (-0.6, 1)), ((0.65, -1), (-0.6, 0.1)), ((-0.25, -0.2), (0.7, 1))),
    "t": (((-0.8, -0.9), (0.8, -0.9)), ((0, -0.9), (0, 1))),
    "x": (((-0.75, -1), (0.75, 1)), ((0.75, -1), (-0.75, 1))),
}
"""Letters as lines in a box from -1 to 1; the o is a ring."""


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

    def box(self, left: float, top: float, right: float, bottom: float, fill: RGB) -> None:
        """Fill a rectangle."""
        self._draw.rectangle((*self._at((left, top)), *self._at((right, bottom))), fill=fill)

    def ellipse(self, centre: Point, rx: float, ry: float, fill: RGB, outline: float = 0) -> None:
        """Fill an ellipse given its centre and half axes."""
        low, high = (
            self._at((centre[0] - rx, centre[1] - ry)),
            self._at((centre[0] + rx, centre[1] + ry)),
        )
        ink = INK if outline else None
        self._draw.ellipse(
            (*low, *high), fill=fill, outline=ink, width=round(outline * self._scale)
        )

    def line(self, points: Sequence[Point], width: float, fill: RGB) -> None:
        """Draw a line with round corners and ends."""
        corners = [self._at(point) for point in points]
        self._draw.line(corners, fill=fill, width=round(width * self._scale), joint="curve")
        for end in (points[0], points[-1]):
            self.ellipse(end, width / 2, width / 2, fill)


def _mix(one: RGB, other: RGB, share: float) -> RGB:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(one, other, strict=True))
    return red, green, blue


def _bodies() -> Mapping[str, tuple[Point, ...]]:
    """Corners of every shape about the origin, for a body of radius 1."""
    turns = [2 * math.pi * k / 48 for k in range(48)]
    heart = []
    for t in turns:
        v = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        heart.append((16 * math.sin(t) ** 3 / 14.5, -(v + 2) / 14.5))
    tips = [(1.24 if k % 2 == 0 else 0.66, math.pi * k / 5) for k in range(10)]
    arm = ((0.42, -1.1), (0.42, -0.42), (1.1, -0.42))
    quarters = ((1, 0), (0, 1), (-1, 0), (0, -1))
    return {
        "circle": tuple((math.cos(t), math.sin(t)) for t in turns),
        "square": ((-0.88, -0.88), (0.88, -0.88), (0.88, 0.88), (-0.88, 0.88)),
        "triangle": ((0, -1.15), (1.2, 0.92), (-1.2, 0.92)),
        "star": tuple((r * math.sin(t), -r * math.cos(t)) for r, t in tips),
        "heart": tuple(heart),
        "cross": tuple((c * u - s * v, s * u + c * v) for c, s in quarters for u, v in arm),
    }


BODIES = _bodies()


def _draw_place(pen: _Pen, scene: Scene, horizon: float) -> None:
    light = LIGHT[scene.time]
    ground = _mix(DARK, GROUND[scene.place], light)
    back = _mix(DARK, BACKDROP[scene.place], light)
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
            pen.box(x - 0.08, top, x + 0.08, horizon, back)
            for w in (-0.04, 0.02):
                pen.box(x + w, top + 0.02, x + w + 0.025, top + 0.05, LAMP)
        elif scene.place == "mars":
            mesa = ((-0.14, 0), (-0.07, -0.09), (0.05, -0.09), (0.1, 0))
            pen.polygon([(x + u, horizon + v) for u, v in mesa], back)
    pen.box(-0.1, horizon, 1.1, 1.1, ground)
    if scene.place == "beach":
        pen.box(-0.1, horizon, 1.1, horizon + 0.07, back)
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
    corners = ((-half, -half), (half, -half), (half, half), (-half, half))
    pen.polygon([(x + u, y + v) for u, v in corners], PAPER, 0.018)
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
        top = y - 0.43
        pen.line([(x, y - 0.1), (x, top)], 0.02, INK)
        pen.polygon([(x, top), (x + 0.24, top + 0.09), (x, top + 0.18)], (222, 46, 62), 0.016)
    tail = [(x - ahead * (0.14 + 0.03 * k), y + 0.1 - 0.06 * k - 0.02 * (k % 2)) for k in range(5)]
    pen.line(tail, 0.05, INK)
    pen.line(tail, 0.03, body)
    pen.polygon([(x + radius * u, y + radius * v) for u, v in BODIES[scene.shape]], body, 0.016)
    nose = ((0.08, -0.085), (0.3, -0.01), (0.08, 0.06))
    pen.polygon([(x + ahead * u, y + v) for u, v in nose], (252, 158, 60), 0.014)
    for eye in (-0.03, 0.07):
        centre = (x + ahead * eye, y - 0.085)
        pen.ellipse(centre, 0.042, 0.046, (255, 255, 255), 0.01)
        pen.ellipse((centre[0] + ahead * 0.016, centre[1]), 0.02, 0.024, INK)
    lips = x - ahead * 0.01
    if scene.mouth == "open":
        pen.ellipse((lips, y + 0.09), 0.1, 0.085, INK)
        pen.ellipse((lips, y + 0.13), 0.062, 0.034, (232, 92, 104))
    else:
        smile = ((-0.07, 0.078), (0, 0.09), (0.07, 0.078))
        pen.line([(lips + u, y + v) for u, v in smile], 0.018, INK)


def render(scene: Scene) -> Image.Image:
    """Draw a scene as an RGB image of SIZE x SIZE pixels; equal scenes give equal pixels."""
    rng = np.random.default_rng(scene.nuisance)
    shift_x, shift_y = rng.uniform(-0.006, 0.006, size=2)
    gain = rng.uniform(0.96, 1.04) * rng.uniform(0.99, 1.01, size=3)
    grain = rng.uniform(0.5, 3.0)
    side = SIZE * SUPERSAMPLING
    horizon = 0.46 if scene.camera == "high" else 0.78
    top, bottom = SKY[scene.time]
    ramp = np.linspace(0, 1 / horizon, side).clip(0, 1)[:, None]
    sky = np.array(top) + (np.array(bottom) - np.array(top)) * ramp
    column = Image.fromarray(sky.round().astype(np.uint8)[:, None, :])
    canvas = column.resize((side, side), Image.Resampling.NEAREST)
    pen = _Pen(canvas, (float(shift_x), float(shift_y)))
    _draw_place(pen, scene, horizon)
    _draw_balloons(pen, scene)
    creature, sign = (0.32, 0.8) if scene.position == "left" else (0.68, 0.2)
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
