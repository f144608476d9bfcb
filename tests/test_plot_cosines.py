from xml.etree import ElementTree

import numpy as np

from miner.reporting.cosine_plot import draw_cosines
from miner.reporting.plot_style import DARK, LIGHT, Palette
from tests.cosine_tables import histogram_of, random_cosines

FILLED = histogram_of(
    random=random_cosines(2000, low=-0.2, high=0.9), candidates=random_cosines(400, high=0.9)
)


def drawn(palette: Palette = LIGHT, **wishes: float) -> str:
    return draw_cosines(
        FILLED, **{"clip_above": 0.95, "dino_below": 0.6, **wishes}, palette=palette
    )


def texts(svg: str) -> set[str]:
    return {each.text or "" for each in ElementTree.fromstring(svg).findall(".//{*}text")}


def test_it_says_the_thresholds_and_both_sources() -> None:
    said = texts(drawn(clip_above=0.953, dino_below=0.58))
    assert "blind: CLIP > 0.953 and DINO < 0.58" in said
    assert {"CLIP cosine", "DINO cosine", "blind", "not blind"} < said
    assert {"random pairs to a hexagon", "all candidates to a hexagon"} < said


def test_it_is_the_same_every_time_and_runs_nothing() -> None:
    svg = drawn()
    assert svg == drawn()
    assert "<script" not in svg
    assert "http://www.w3.org" in svg
    assert "Date" not in svg


def test_palettes_differ_in_colour_alone() -> None:
    light, dark = drawn(LIGHT), drawn(DARK)
    assert texts(light) == texts(dark)
    assert LIGHT.accent in light
    assert LIGHT.accent not in dark
    assert DARK.accent in dark


def test_a_histogram_without_pairs_is_drawn() -> None:
    empty = histogram_of()
    said = texts(draw_cosines(empty, clip_above=0.95, dino_below=0.6, palette=LIGHT))
    assert "blind: CLIP > 0.95 and DINO < 0.6" in said
    assert "random pairs to a hexagon" not in said


def test_one_source_alone_is_drawn() -> None:
    alone = histogram_of(candidates=(np.array([0.97]), np.array([0.1])))
    said = texts(draw_cosines(alone, clip_above=0.95, dino_below=0.6, palette=DARK))
    assert "all candidates to a hexagon" in said
    assert "random pairs to a hexagon" not in said
