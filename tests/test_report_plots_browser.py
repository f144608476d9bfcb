"""The plots of a report's page, in a browser."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect

from miner.config import SelectSettings
from miner.publish import publish
from miner.select import select
from miner.store import Store
from tests.browsing import Opened, browser, open_report, pytestmark
from tests.cosine_tables import histogram_of, raw_table
from tests.report_runs import Shot, encoded, make_run, report_of

__all__ = ["browser", "pytestmark"]

NUM_PAIRS = 400
HOST = "<script>document.title='owned'"


def cosines_of(num: int, low: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return 1 - (1 - low) * random.random(num), random.uniform(-0.3, 0.99, num)


CANDIDATES = cosines_of(NUM_PAIRS, 0.95, 1)
RANDOM = cosines_of(2000, 0.9, 2)


def known_run(root: Path) -> tuple[Store, Path]:
    """A run whose join has known cosines, and reaches to DINO < 0.7."""
    shots = [Shot(data=encoded(n), url=f"https://{HOST}/") for n in range(12)]
    store, folder = make_run(root, shots)
    name, settings = folder.name, SelectSettings(max_per_image=None)
    record = store.read_record(f"pairs/{name}/join.json")
    record |= {"keep_dino": 0.7}
    clip, dino = CANDIDATES
    kept = dino < 0.7
    raw = raw_table(clip[kept], dino[kept], record)
    ids = [row["image_id"] for row in store.samples("set.00000").to_pylist()]
    for side in (1, 2):
        column = raw.schema.get_field_index(f"image_{side}")
        images = [ids[(place * side) % 6 + 6 * (side - 1)] for place in range(len(raw))]
        raw = raw.set_column(column, raw.schema.field(column), [images])
    is_blind = raw["blind"].to_numpy()
    record["counts"] |= {"candidates": NUM_PAIRS, "pairs": 20_000, "kept": len(raw)}
    record["counts"] |= {"blind": int(is_blind.sum())}
    for stale in ("selection", "files"):
        record.pop(stale)
    publish(store, name, [raw], histogram_of(candidates=CANDIDATES, random=RANDOM), record)
    select(store, name, settings)
    return store, folder


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report_of(*known_run(tmp_path_factory.mktemp("plots")))


@pytest.fixture
def opened(browser: Browser, index: Path) -> Iterator[Opened]:
    report = open_report(browser, index)
    report.page.locator("#plots summary").click()
    expect(report.page.locator("#corner-area svg")).to_be_visible()
    yield report
    report.page.context.close()
    assert report.errors == []
    inside = report.folder.as_uri() + "/"
    assert [url for url in report.requests if not url.startswith((inside, "data:"))] == []


def say(page: Page, *, clip: float, dino: float) -> str:
    """Move both sliders, and what the page says then."""
    for name, value, threshold in (("clip", clip, 0.95), ("dino", dino, 0.6)):
        place = str(round((value - threshold) / 0.001))
        page.locator(f"#corner-{name}").fill(place)
        expect(page.locator(f"#corner-{name}-value")).to_have_text(f"{value:g}")
    return page.locator("#corner-found").inner_text().replace(",", "")


def numbers(said: str) -> list[int]:
    return [int(one) for one in re.findall(r"(?<![\d.])\d+(?!\d|\.\d)", said.split("keeps", 1)[1])]


def exact(clip: float, dino: float) -> int:
    """Of the candidates, how many a pair of thresholds keeps, as `raw` has them."""
    both = [values.astype(np.float32).astype(np.float64) for values in CANDIDATES]
    return int(((both[0] > clip) & (both[1] < dino)).sum())


def test_stricter_thresholds_are_counted_exactly(opened: Opened) -> None:
    num_blind = exact(0.95, 0.6)
    assert numbers(opened.page.locator("#corner-found").inner_text()) == [num_blind, num_blind]
    for clip, dino in ((0.953, 0.58), (0.975, 0.123), (0.999, 0.6), (1.0, 0.5)):
        said = say(opened.page, clip=clip, dino=dino)
        assert numbers(said) == [exact(clip, dino), num_blind], said
        assert said.startswith(f"CLIP > {clip:g} and DINO < {dino:g} keeps")
        assert "about" not in said


def test_as_far_as_raw_reaches_counts_are_exact(opened: Opened) -> None:
    said = say(opened.page, clip=0.962, dino=0.688)
    assert numbers(said) == [exact(0.962, 0.688), exact(0.95, 0.6)]
    assert "counted in raw" in said
    assert "about" not in said


def test_beyond_raw_candidates_are_counted_by_bins(opened: Opened) -> None:
    said = say(opened.page, clip=0.96, dino=0.85)
    assert said.split("keeps ")[1].startswith("about ")
    # Both are edges of the histogram's bins, so nothing is spread.
    wanted, raw = exact(0.96, 0.85), exact(0.96, 0.7)
    assert numbers(said) == [wanted, raw, wanted - raw]
    assert "more candidates by bins" in said
    between = numbers(say(opened.page, clip=0.965, dino=0.855))
    assert exact(0.97, 0.85) < between[0] < exact(0.96, 0.86)


def test_below_the_candidates_random_pairs_give_an_estimate(opened: Opened) -> None:
    said = say(opened.page, clip=0.92, dino=0.6)
    below = (RANDOM[0] > 0.92) & (RANDOM[0] <= 0.95) & (RANDOM[1] < 0.6)
    estimate = float(f"{below.sum() * 20_000 / 2000:.2g}")
    found = numbers(said)
    assert found[1:] == [exact(0.95, 0.6), pytest.approx(estimate, rel=0.05)]
    assert found[0] == found[1] + found[2]
    assert "estimated from random pairs" in said
    both = numbers(say(opened.page, clip=0.92, dino=0.8))
    assert both[0] == sum(both[1:])
    assert len(both) == 4


def test_more_is_never_less(opened: Opened) -> None:
    """A looser threshold keeps no fewer pairs, across the borders of the three ways to count."""
    for fixed, name in (({"dino": 0.58}, "clip"), ({"dino": 0.9}, "clip")):
        steps = [0.99, 0.951, 0.95, 0.949, 0.94, 0.91]
        kept = [numbers(say(opened.page, **fixed, **{name: value}))[0] for value in steps]
        assert kept == sorted(kept)
    steps = [0.0, 0.59, 0.6, 0.61, 0.699, 0.7, 0.701, 0.72, 0.9]
    kept = [numbers(say(opened.page, clip=0.96, dino=value))[0] for value in steps]
    assert kept == sorted(kept)


def test_arrow_keys_move_by_one_step_and_a_button_returns(opened: Opened) -> None:
    page = opened.page
    slider = page.get_by_label("CLIP above")
    slider.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#corner-clip-value")).to_have_text("0.952")
    assert slider.get_attribute("aria-valuetext") == "0.952"
    page.get_by_label("DINO below").focus()
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#corner-join")).to_have_text(
        "blindpairs join DIR --clip-above 0.952 --dino-below 0.599"
    )
    page.locator("#corner-reset").click()
    expect(page.locator("#corner-join")).to_contain_text("--clip-above 0.95 --dino-below 0.6")
    expect(page.locator("#corner-reset")).to_be_disabled()


def test_the_corner_is_dragged_and_stays_within_the_plot(opened: Opened) -> None:
    page = opened.page
    page.locator("#corner-area").scroll_into_view_if_needed()
    handle = page.locator("#corner-area .handle").bounding_box()
    assert handle
    page.mouse.move(handle["x"] + handle["width"] / 2, handle["y"] + handle["height"] / 2)
    page.mouse.down()
    page.mouse.move(handle["x"] + 90, handle["y"] + 60, steps=4)
    moved = [float(page.locator(f"#corner-{n}-value").inner_text()) for n in ("clip", "dino")]
    assert moved[0] > 0.955
    assert moved[1] < 0.55
    clip, dino = moved
    said = page.locator("#corner-found").inner_text().replace(",", "")
    assert numbers(said)[0] == exact(clip, dino)
    page.mouse.move(5000, -5000)
    page.mouse.up()
    expect(page.locator("#corner-clip-value")).to_have_text("1")
    expect(page.locator("#corner-dino-value")).to_have_text("1")
    page.mouse.move(0, 0)
    expect(page.locator("#corner-clip-value")).to_have_text("1")


def test_every_plot_is_drawn_and_its_numbers_are_a_link_away(opened: Opened) -> None:
    page = opened.page
    charts = page.locator(".chart").all()
    assert len(charts) == 7
    drawn = page.locator(".chart-area svg, .chart-area .bars")
    expect(drawn).to_have_count(6)
    expect(page.get_by_text("fewer than 20 selected pairs make no groups")).to_be_visible()
    for chart in charts:
        address = chart.locator("a").get_attribute("href")
        assert (opened.folder / str(address)).is_file()
    gaps = page.locator('[data-plot="gaps"] rect')
    said = [gaps.nth(place).text_content() or "" for place in range(gaps.count())]
    assert sum(int(text.split(": ")[1].split()[0]) for text in said) == exact(0.95, 0.6)
    assert page.locator('[data-plot="survival_clip"] path.curve').count() == 2
    assert page.locator("#corner-area path.hex-raw").count() > 1
    assert page.locator("#corner-area path.hex-random").count() > 0


def test_hostile_sources_stay_text(opened: Opened) -> None:
    labels = opened.page.locator('[data-plot="sources"] .bar-label').all_text_contents()
    assert HOST.split("/")[0].lower() in labels
    assert opened.page.locator('[data-plot="sources"] script').count() == 0
    assert "owned" not in opened.page.title()


def test_plots_stay_open_or_closed(browser: Browser, index: Path) -> None:
    report = open_report(browser, index)
    page = report.page
    expect(page.locator("#corner-area")).to_be_hidden()
    assert page.locator("#plots svg").count() == 0
    page.locator("#plots summary").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#corner-area svg")).to_be_visible()
    expect(page.locator("#viewer")).to_be_hidden()
    page.reload()
    expect(page.locator("#corner-area svg")).to_be_visible()
    page.locator("#plots summary").click()
    page.reload()
    expect(page.locator("#corner-area")).to_be_hidden()
    page.context.close()
    assert report.errors == []


def test_plots_fit_narrow_windows_and_are_drawn_anew(opened: Opened) -> None:
    page = opened.page
    page.set_viewport_size({"width": 380, "height": 800})
    inside = "() => document.documentElement.scrollWidth <= innerWidth"
    page.wait_for_function(
        "() => [...document.querySelectorAll('.chart svg')].every((svg) => "
        "svg.getBoundingClientRect().right <= innerWidth)"
    )
    assert page.evaluate(inside)
    assert numbers(say(page, clip=0.97, dino=0.3))[0] == exact(0.97, 0.3)
