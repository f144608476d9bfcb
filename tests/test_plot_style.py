import matplotlib as mpl
import pytest
from matplotlib.figure import Figure

from miner.reporting.plot_style import (
    DARK,
    LIGHT,
    Palette,
    annotate,
    in_page_type,
    keep_plain,
    plot_style,
)


@pytest.mark.parametrize("palette", [LIGHT, DARK])
def test_a_style_holds_within_its_block_alone(palette: Palette) -> None:
    before = dict(mpl.rcParams)
    with plot_style(palette):
        assert mpl.rcParams["text.color"] == palette.ink
        assert mpl.rcParams["svg.fonttype"] == "none"
    assert dict(mpl.rcParams) == before


def test_letters_are_the_pages() -> None:
    assert in_page_type("font: 10px 'DejaVu Sans'") == "font: 10px system-ui, 'DejaVu Sans'"


def test_axes_have_no_box_and_words_lie_at_their_place() -> None:
    axes = Figure().subplots()
    keep_plain(axes)
    assert not axes.spines["top"].get_visible()
    assert not axes.spines["right"].get_visible()
    annotate(axes, "blind", (0.5, 0.5), (-8, 9), LIGHT.accent)
    [word] = axes.texts
    assert (word.get_text(), word.get_color()) == ("blind", LIGHT.accent)
