"""A report in a real browser: what it shows, what it asks for, how it is moved through."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.browsing import PAINTED, Opened, browser, open_report, pytestmark
from tests.report_runs import Shot, encoded, make_large_run, make_run, report_of, turned

__all__ = ["browser", "pytestmark"]

HOSTILE = "<script>document.title = 'owned'</script>"
SHOTS = (
    Shot(data=encoded(0), caption=HOSTILE),
    Shot(data=encoded(1), caption="</script><img src=x onerror=\"document.title = 'owned'\">"),
    Shot(data=encoded(2), caption="left \u202e right \x00 end", url="javascript:alert(1)"),
    Shot(data=encoded(3, size=(800, 600)), caption="word " * 2000, url="https://example.org/3"),
    Shot(data=turned(4), caption=None, label="tench", exif_orientation=6),
    Shot(data=encoded(5, "TIFF"), extension="tif", format="TIFF", caption="a scan"),
)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report_of(*make_run(tmp_path_factory.mktemp("browser"), SHOTS))


@pytest.fixture
def opened(browser: Browser, index: Path) -> Iterator[Opened]:
    # High enough for every card of the run to be in the page.
    report = open_report(browser, index, height=2600)
    yield report
    report.page.context.close()
    assert report.errors == []
    inside = report.folder.as_uri() + "/"
    assert [url for url in report.requests if not url.startswith((inside, "data:"))] == []


def test_it_shows_pairs_and_the_plot(opened: Opened) -> None:
    page = opened.page
    expect(page.locator(".card")).to_have_count(15)
    assert page.locator("#found").inner_text() == "15"
    expect(page.locator(".plot img.light")).to_be_visible()
    expect(page.locator(".plot img.dark")).to_be_hidden()
    seen = page.locator(".plot img.light, .card img").all()
    assert len(seen) == 31
    for image in seen:
        image.scroll_into_view_if_needed()
        image.evaluate("(image) => image.decode()")
        assert image.evaluate("(image) => image.naturalWidth") > 0
    assert any("/images/" in url for url in opened.requests)
    assert any("/thumbs/" in url for url in opened.requests)


def test_captions_stay_text(opened: Opened) -> None:
    page = opened.page
    shown = page.locator(".caption").all_text_contents()
    assert HOSTILE in shown
    assert "left ⟨U+202E⟩ right ⟨U+0000⟩ end" in shown
    assert "tench" in shown
    expect(page.get_by_text(HOSTILE).first).to_be_visible()
    assert page.locator("script").count() == 3
    assert page.title().startswith("15 CLIP-blind pairs")
    for _ in range(15):
        page.keyboard.press("j")
        page.keyboard.press("Enter")
        expect(page.locator("#viewer")).to_be_visible()
        page.keyboard.press("Escape")
    assert page.locator("script").count() == 3
    assert page.title().startswith("15 CLIP-blind pairs")


def test_the_policy_is_in_force(browser: Browser, index: Path) -> None:
    page = open_report(browser, index).page
    refused = page.evaluate("""async () => {
      const attempts = {
        markup: () => { document.body.innerHTML = "<b>"; },
        script: () => { document.createElement("script").text = "1"; },
        network: () => fetch("https://127.0.0.1:1/"),
      };
      const said = {};
      for (const [name, attempt] of Object.entries(attempts)) {
        try { await attempt(); } catch (error) { said[name] = error.name; }
      }
      return said;
    }""")
    assert refused == {"markup": "TypeError", "script": "TypeError", "network": "TypeError"}
    page.context.close()


def test_only_web_addresses_are_links(opened: Opened) -> None:
    page = opened.page
    page.keyboard.press("Enter")
    addresses = set()
    for _ in range(15):
        for link in page.locator("#facts a").all():
            addresses.add(str(link.get_attribute("href")))
            assert link.get_attribute("rel") == "noopener noreferrer"
        page.keyboard.press("j")
    assert {address for address in addresses if ":" in address} == {"https://example.org/3"}
    assert len([address for address in addresses if address.startswith("images/")]) == len(SHOTS)


def test_keys_move_zoom_and_return(opened: Opened) -> None:
    page = opened.page
    at = "() => document.activeElement.getAttribute('aria-label').split(',')[0]"
    page.keyboard.press("j")
    assert page.evaluate(at) == "Pair 2"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("k")
    assert page.evaluate(at) == "Pair 2"
    page.keyboard.press("ArrowDown")
    assert page.evaluate(at) == "Pair 5"
    page.keyboard.press("ArrowUp")
    page.keyboard.press(" ")
    expect(page.locator("#place")).to_have_text("2 of 15")
    page.keyboard.press("j")
    expect(page.locator("#place")).to_have_text("3 of 15")
    page.keyboard.press("b")
    expect(page.locator(".frame.behind")).to_be_hidden()
    expect(page.locator("#stage .frame:not(.behind)")).to_be_visible()
    page.keyboard.press("Enter")
    expect(page.locator("#viewer")).to_be_hidden()
    assert page.evaluate(at) == "Pair 3"
    page.keyboard.press("?")
    expect(page.locator("#keys")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#keys")).to_be_hidden()


def test_the_viewer_shows_numbers_and_where_the_bytes_are(opened: Opened) -> None:
    page = opened.page
    page.locator("#search").fill("scan tench")
    expect(page.locator("#found")).to_have_text("1 of 15")
    page.locator(".card").click()
    facts = page.locator("#facts").inner_text()
    for said in ("CLIP", "DINO", "gap", "tench", "a scan", "set/00000/000005", "00000.tar"):
        assert said in facts
    assert "browsers do not show TIFF" in facts
    assert "EXIF orientation 6" in facts
    for image in page.locator("#stage img").all():
        assert str(image.get_attribute("src")).endswith(".view.png")
        image.evaluate("(image) => image.decode()")
        assert image.evaluate("(image) => [image.naturalWidth, image.naturalHeight]") == [96, 80]


def test_pairs_are_searched_and_ordered(opened: Opened) -> None:
    page = opened.page
    page.locator("#order").select_option("dino_cos")
    values = [float(text) for text in page.locator(".meter-dino b").all_text_contents()]
    assert values == sorted(values)
    page.locator("#search").fill("no such words")
    expect(page.locator("#nothing")).to_be_visible()
    expect(page.locator(".card")).to_have_count(0)
    page.keyboard.press("Escape")
    expect(page.locator(".card")).to_have_count(15)
    page.keyboard.press("/")
    page.keyboard.type("tench")
    page.keyboard.press("Enter")
    expect(page.locator("#found")).to_have_text("5 of 15")
    expect(page.locator(".card").first).to_be_focused()
    page.locator("#borderline").check()
    expect(page.locator("#found")).to_have_text("0 of 15")


def test_dark_by_the_system_and_by_hand(browser: Browser, index: Path) -> None:
    page = open_report(browser, index, scheme="dark").page
    lightness = "() => parseInt(getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0])"
    assert page.evaluate(lightness) < 40
    expect(page.locator(".plot img.dark")).to_be_visible()
    expect(page.locator(".plot img.light")).to_be_hidden()
    page.keyboard.press("t")
    assert page.evaluate(lightness) > 230
    expect(page.locator(".plot img.light")).to_be_visible()
    page.reload()
    page.evaluate(PAINTED)
    assert page.evaluate(lightness) > 230
    page.locator("#theme").click()
    assert page.evaluate(lightness) < 40
    page.context.close()


def test_a_pair_has_an_address(browser: Browser, index: Path) -> None:
    first = open_report(browser, index)
    first.page.keyboard.press("j")
    first.page.keyboard.press("Enter")
    fragment = "#" + first.page.url.split("#")[1]
    first.page.context.close()
    page = open_report(browser, index, fragment=fragment).page
    expect(page.locator("#place")).to_have_text("2 of 15")
    page.context.close()


def test_images_that_are_gone_say_so(browser: Browser, tmp_path: Path) -> None:
    store, folder = make_run(tmp_path, SHOTS[:2])
    (tmp_path / "corpus" / "00000.tar").unlink()
    report = open_report(browser, report_of(store, folder))
    expect(report.page.locator(".card .missing")).to_have_count(2)
    report.page.locator(".card").click()
    expect(report.page.locator("#stage .missing").first).to_contain_text("00000.tar")
    assert report.errors == []
    report.page.context.close()


def test_no_pair_leaves_a_sentence(browser: Browser, tmp_path: Path) -> None:
    report = open_report(browser, report_of(*make_run(tmp_path, SHOTS[:1])))
    expect(report.page.locator("#nothing")).to_contain_text("No pair has a CLIP cosine > 0.95")
    report.page.keyboard.press("j")
    report.page.keyboard.press("Enter")
    expect(report.page.locator("#viewer")).to_be_hidden()
    assert report.errors == []
    report.page.context.close()


def test_ten_thousand_pairs_open_in_two_seconds(browser: Browser, tmp_path: Path) -> None:
    index = report_of(*make_large_run(tmp_path, 10_000), limit=None)
    times_ms = []
    # The best of three: what else the machine does is not the page's doing.
    for _ in range(3):
        report = open_report(browser, index)
        times_ms.append(report.painted_ms)
        expect(report.page.locator("#found")).to_have_text("10,000")
        assert report.page.locator(".card").count() < 100
        report.page.evaluate("() => scrollTo(0, document.body.scrollHeight)")
        expect(report.page.get_by_role("button", name="Pair 10000,")).to_be_visible()
        report.page.locator("#search").fill("caption 15554:")
        expect(report.page.locator("#found")).to_have_text("1 of 10,000")
        report.page.locator("#plots summary").click()
        expect(report.page.locator("#corner-area svg")).to_be_visible()
        report.page.context.close()
        assert report.errors == []
    assert min(times_ms) < 2000, times_ms
