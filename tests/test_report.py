import dataclasses
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from miner.config import SelectSettings
from miner.errors import StoreError
from miner.records import Json
from miner.report import DEFAULT_LIMIT
from miner.reporting.page import ReportTable, content_security_policy
from miner.select import select
from miner.store import Store
from tests.commands import Commands
from tests.report_runs import Shot, encoded, make_large_run, make_run, report_of, turned
from tests.runs import make_store
from tests.small import write_corpus

HOSTILE = (
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(1)>",
    "<!-- <script> a \u2028 b \u2029 c",
    "NUL \x00 and \u202e right to left",
    "&quot; ' \" {{ 7*7 }} &lt;",
    "x" * 10_000,
)


class Page(HTMLParser):
    """The elements of a page with their attributes, and the text of its script elements."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.inside: dict[str, str] = {}
        self.open = ""
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.open = dict(attrs).get("id") or tag

    def handle_endtag(self, tag: str) -> None:
        self.open = ""

    def handle_data(self, data: str) -> None:
        self.inside[self.open] = self.inside.get(self.open, "") + data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def rows(self, name: str) -> list[Json]:
        table = json.loads(self.inside["data"])[name]
        return [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]


SHOTS = (
    *(Shot(data=encoded(n), caption=text) for n, text in enumerate(HOSTILE)),
    Shot(data=encoded(10, "PNG"), extension="png", format="PNG", label="7", caption=None),
    Shot(data=encoded(11, "TIFF"), extension="tif", format="TIFF"),
    Shot(data=turned(12), exif_orientation=6),
    Shot(data=encoded(13, size=(900, 700)), url="https://example.org/a.jpg"),
    Shot(data=encoded(14, "WEBP"), url="javascript:alert(1)", format="WEBP"),
    Shot(data=encoded(15), url="HTTPS://example.org/ <b>"),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Path]:
    """A run with every kind of shot, and the folder of its join."""
    return make_run(tmp_path_factory.mktemp("report"), SHOTS)


@pytest.fixture(scope="module")
def page(run: tuple[Store, Path]) -> Page:
    """Its page, to be looked at only."""
    return page_of(*run)


def page_of(store: Store, folder: Path, **wishes: object) -> Page:
    return Page(report_of(store, folder, **wishes))  # type: ignore[arg-type]


def tree(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_a_mined_run_becomes_a_page(commands: Commands, tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus", num_shards=2)
    assert commands.mine(*corpus, "--out", tmp_path / "run").code == 0
    store = Store(tmp_path / "run")
    page = page_of(store, store.root / "pairs" / store.joins()[0])
    samples = {
        r["image_id"]: r for s in store.committed("samples") for r in store.samples(s).to_pylist()
    }
    assert page.rows("images")
    for image in page.rows("images"):
        recorded = samples[image["image_id"]]
        file = page.path.parent / "images" / f"{image['sha256']}.jpg"
        start = recorded["offset"]
        in_shard = Path(recorded["shard"]).read_bytes()[start : start + recorded["num_bytes"]]
        assert file.read_bytes() == in_shard


def test_pairs_come_by_rank_with_their_numbers(run: tuple[Store, Path], page: Page) -> None:
    _, folder = run
    selected = pq.ParquetFile(folder / "selected.parquet").read().to_pylist()
    images = page.rows("images")
    assert len(page.rows("pairs")) == len(selected) == 66
    for shown, row in zip(page.rows("pairs"), selected, strict=True):
        for name in ("rank", "pair_id", "borderline", "duplicates_1", "duplicates_2"):
            assert shown[name] == row[name]
        for name in ("clip_cos", "dino_cos", "gap"):
            assert shown[name] == pytest.approx(row[name], abs=1e-6)
        for name in ("image_1", "image_2"):
            assert images[shown[name]]["image_id"] == row[name]


def test_every_image_can_be_traced(run: tuple[Store, Path], page: Page) -> None:
    store, _ = run
    shards = json.loads(page.inside["data"])["shards"]
    by_id = {row["image_id"]: row for row in store.samples("set.00000").to_pylist()}
    assert len(page.rows("images")) == len(SHOTS)
    for image, shot in zip(page.rows("images"), SHOTS, strict=True):
        row = by_id[image["image_id"]]
        assert shards[image["shard"]] == row["shard"]
        for name in ("sha256", "member", "offset", "num_bytes", "format", "url", "label"):
            assert image[name] == row[name]
        original = page.path.parent / "images" / f"{image['sha256']}.{image['extension']}"
        assert original.read_bytes() == shot.data


def test_captions_stay_data(page: Page) -> None:
    text = page.path.read_text("utf-8")
    assert [image["caption"] for image in page.rows("images")][: len(HOSTILE)] == list(HOSTILE)
    assert [a.get("id") for a in page.named("script")] == [None, "plots-data", "data"]
    assert not [a for a in page.named("img") if a["src"] == "x"]
    for raw in ("<script>alert", "</script><img", "<!-- <script", "\x00", "49 &"):
        assert raw not in text


def test_nothing_on_the_page_acts_by_attribute(page: Page) -> None:
    for tag, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on") or name == "style"], tag
        for name in ("src", "href"):
            address = attributes.get(name) or ""
            assert not re.match(r"[a-z]+:", address) or address.startswith("data:image/svg"), (
                address
            )


def test_only_web_addresses_become_links(page: Page) -> None:
    links = {image["url"]: image["is_link"] for image in page.rows("images")}
    assert links == {
        None: False,
        "https://example.org/a.jpg": True,
        "javascript:alert(1)": False,
        "HTTPS://example.org/ <b>": False,
    }


def test_the_policy_names_the_hashes_of_style_and_script(page: Page) -> None:
    first = page.named("meta")[1]
    assert first["http-equiv"] == "Content-Security-Policy"
    policy = first["content"]
    assert policy == content_security_policy(page.inside["style"], page.inside["script"])
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    assert "http" not in policy


def test_what_browsers_do_not_show_is_copied_and_said(page: Page) -> None:
    report = page.path.parent
    notes = {image["note"]: image for image in page.rows("images") if image["note"]}
    tiff, turned = (next(i for n, i in notes.items() if word in n) for word in ("TIFF", "EXIF"))
    assert len(notes) == 2
    for image in (tiff, turned):
        assert image["has_view"]
        assert (report / f"images/{image['sha256']}.view.png").read_bytes()[:4] == b"\x89PNG"
        assert (report / f"thumbs/{image['sha256']}.jpg").exists()
    assert (report / f"images/{tiff['sha256']}.tiff").exists()


def test_large_images_have_thumbnails_and_small_ones_are_their_own(page: Page) -> None:
    has_thumb = [image["has_thumb"] for image in page.rows("images")]
    assert has_thumb == [False] * 7 + [True, True, True, False, False]


def test_a_missing_shard_leaves_its_reason(tmp_path: Path) -> None:
    store, folder = make_run(tmp_path, SHOTS)
    (tmp_path / "corpus" / "00000.tar").unlink()
    page = page_of(store, folder)
    assert len(page.rows("pairs")) == 66
    for image in page.rows("images"):
        assert image["extension"] is None
        assert "00000.tar" in image["note"]
    assert not list((page.path.parent / "images").iterdir())


def test_a_shard_with_other_bytes_is_not_shown(tmp_path: Path) -> None:
    store, folder = make_run(tmp_path, [Shot(data=encoded(n)) for n in range(3)])
    tar = tmp_path / "corpus" / "00000.tar"
    row = store.samples("set.00000").to_pylist()[1]
    data = bytearray(tar.read_bytes())
    data[row["offset"] + 100] ^= 1
    tar.write_bytes(data)
    images = page_of(store, folder).rows("images")
    assert [image["extension"] for image in images] == ["jpg", None, "jpg"]
    assert "the shard was changed" in images[1]["note"]


def test_a_cut_shard_shows_what_is_left(tmp_path: Path) -> None:
    store, folder = make_run(tmp_path, [Shot(data=encoded(n)) for n in range(4)])
    tar = tmp_path / "corpus" / "00000.tar"
    offset = store.samples("set.00000")["offset"].to_pylist()[2]
    tar.write_bytes(tar.read_bytes()[: offset + 10])
    images = page_of(store, folder).rows("images")
    assert [image["extension"] for image in images] == ["jpg", "jpg", None, None]


def test_a_moved_shard_is_read_where_it_is_now(tmp_path: Path) -> None:
    store, folder = make_run(tmp_path, [Shot(data=encoded(n)) for n in range(3)])
    moved = (tmp_path / "corpus" / "00000.tar").rename(tmp_path / "elsewhere.tar")
    places = {"set.00000": {"url": str(moved), "num_bytes": 0, "modified": "1"}}
    store.update_run(store.run()["reading"], places, {"command": "test"})
    assert all(image["extension"] for image in page_of(store, folder).rows("images"))


def test_bytes_that_are_no_image_leave_a_reason(tmp_path: Path) -> None:
    shots = [Shot(data=encoded(0)), Shot(data=b"<svg onload=alert(1)>" + b" " * 60)]
    images = page_of(*make_run(tmp_path, shots)).rows("images")
    assert [image["extension"] for image in images] == ["jpg", None]
    assert "cannot be decoded" in images[1]["note"]


def test_equal_runs_give_equal_bytes(run: tuple[Store, Path], page: Page) -> None:
    store, folder = run
    first = tree(page.path.parent)
    shutil.rmtree(folder / "report")
    assert tree(report_of(store, folder).parent) == first
    assert {"index.html", "cosines.csv", "cosines-light.svg", "cosines-dark.svg"} < first.keys()


def test_a_whole_report_is_left_alone_and_another_one_replaced(tmp_path: Path) -> None:
    store, folder = make_run(tmp_path, [Shot(data=encoded(n)) for n in range(4)])
    index = report_of(store, folder)
    made = index.stat().st_ino
    assert report_of(store, folder).stat().st_ino == made
    assert report_of(store, folder, limit=2).stat().st_ino != made
    index.write_text("edited")
    assert "edited" not in report_of(store, folder, limit=2).read_text("utf-8")
    stray = folder / "report" / "images" / "stray"
    stray.touch()
    assert report_of(store, folder, limit=2)
    assert not stray.exists()
    (folder / "report" / "report.json").write_text("{}")
    made = index.stat().st_ino
    assert report_of(store, folder, limit=2).stat().st_ino != made
    assert [path.name for path in folder.glob("report*")] == ["report"]


def test_a_report_with_missing_images_is_tried_again(tmp_path: Path) -> None:
    store, folder = make_run(tmp_path, [Shot(data=encoded(n)) for n in range(3)])
    tar = tmp_path / "corpus" / "00000.tar"
    hidden = tar.rename(tmp_path / "hidden.tar")
    assert not any(image["extension"] for image in page_of(store, folder).rows("images"))
    hidden.rename(tar)
    assert all(image["extension"] for image in page_of(store, folder).rows("images"))


def test_a_failure_leaves_the_old_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, folder = make_run(tmp_path, [Shot(data=encoded(n)) for n in range(3)])
    before = tree(report_of(store, folder).parent)

    def fail(*_: object, **__: object) -> str:
        raise OSError("disk full")

    monkeypatch.setattr("miner.reporting.plots.draw_cosines", fail)
    with pytest.raises(OSError, match="disk full"):
        report_of(store, folder, limit=1)
    assert tree(folder / "report") == before
    assert [path.name for path in folder.glob("report*")] == ["report"]


def test_the_limit_cuts_and_says_so(tmp_path: Path) -> None:
    store, folder = make_run(tmp_path, [Shot(data=encoded(n)) for n in range(5)])
    page = page_of(store, folder, limit=3)
    assert [pair["rank"] for pair in page.rows("pairs")] == [1, 2, 3]
    assert "best 3 of 10 selected pairs" in page.path.read_text("utf-8")
    assert "selected pairs. <code>" not in page_of(store, folder).path.read_text("utf-8")


def test_the_default_limit_holds(tmp_path: Path) -> None:
    store, folder = make_large_run(tmp_path, DEFAULT_LIMIT + 1)
    assert len(page_of(store, folder).rows("pairs")) == DEFAULT_LIMIT
    assert len(page_of(store, folder, limit=None).rows("pairs")) == DEFAULT_LIMIT + 1


def test_a_limit_below_one_is_refused(tmp_path: Path) -> None:
    store, folder = make_run(tmp_path, [Shot(data=encoded(n)) for n in range(2)])
    with pytest.raises(ValueError, match="limit is 0; give at least 1"):
        report_of(store, folder, limit=0)


def test_no_selected_pair_is_a_page_too(tmp_path: Path) -> None:
    store, folder = make_run(tmp_path, [Shot(data=encoded(0))])
    page = page_of(store, folder)
    assert page.rows("pairs") == []
    assert (page.path.parent / "cosines-light.svg").exists()
    assert "source,clip_from" in (page.path.parent / "cosines.csv").read_text()


def test_steps_are_counted(tmp_path: Path) -> None:
    refused = ["empty", "empty", "unknown_format"]
    twice = [*SHOTS, dataclasses.replace(SHOTS[0], caption="a copy")]
    store, folder = make_run(tmp_path, twice, refused)
    select(store, folder.name, SelectSettings(max_per_image=1))
    text = page_of(store, folder).path.read_text("utf-8")
    steps = {
        name: int(count.replace(",", ""))
        for count, name in re.findall(
            r"<strong>([\d,]+)</strong>\s*<span class=\"step-name\">(\w+)", text
        )
    }
    assert steps == {
        "shards": 1,
        "samples": 16,
        "decodable": 13,
        "images": 13,
        "distinct": 12,
        "pairs": 66,
        "candidates": 66,
        "blind": 66,
        "selected": 6,
    }
    for dropped in ("2 empty", "1 unknown_format", "1 copies with equal", "60 an image has better"):
        assert f"&minus;{dropped}" in text


def test_the_plot_has_its_numbers_beside_it(page: Page) -> None:
    report = page.path.parent
    lines = (report / "cosines.csv").read_text().splitlines()
    counts = {"candidates": 0, "random": 0}
    for line in lines[1:]:
        source, clip_from, clip_to, *_, count = line.split(",")
        assert float(clip_to) - float(clip_from) == pytest.approx(0.01)
        counts[source] += int(count)
    assert lines[0] == "source,clip_from,clip_to,dino_from,dino_to,count"
    assert counts == {"candidates": 66, "random": 66}
    for name in ("light", "dark"):
        svg = (report / f"cosines-{name}.svg").read_text()
        assert "blind: CLIP &gt; 0.95 and DINO &lt; 0.6" in svg
        assert "<script" not in svg


def test_tables_of_the_caller_are_shown_and_escaped(tmp_path: Path) -> None:
    table = ReportTable(
        title="Found <b>",
        columns=("attribute", "planted", "share"),
        rows=[("<script>alert(1)</script>", 1200, "80.0 %"), ("count", 0.5, "0.953")],
        note="A & B",
    )
    shots = [Shot(data=encoded(n)) for n in range(2)]
    text = page_of(*make_run(tmp_path, shots), tables=[table]).path.read_text("utf-8")
    assert "Found &lt;b&gt;" in text
    assert "<td>&lt;script&gt;alert(1)&lt;/script&gt;</td>" in text
    for said in ("1,200", "0.5", "0.953"):
        assert f'<td class="figure">{said}</td>' in text
    assert '<th scope="col">attribute</th><th scope="col" class="figure">planted</th>' in text
    assert '<rect class="fill" width="80.0" height="6"/>' in text
    assert "A &amp; B" in text


def test_a_table_with_ragged_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="a row has 1 cells, there are 2 columns"):
        ReportTable(title="t", columns=("a", "b"), rows=[("x",)])


def test_a_join_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    store, folder = make_run(tmp_path, [Shot(data=encoded(n)) for n in range(2)])
    (folder / "selected.parquet").unlink()
    with pytest.raises(StoreError, match="no whole selection; run `blindpairs select"):
        report_of(store, folder)
    (folder / "histogram.parquet").unlink()
    with pytest.raises(StoreError, match="no whole join; run `blindpairs join"):
        report_of(store, folder)


def test_pairs_of_unknown_images_are_refused(tmp_path: Path) -> None:
    store, folder = make_run(tmp_path, [Shot(data=encoded(n)) for n in range(2)])
    other = make_store(tmp_path / "other", num_shards=1, rows=2)
    shutil.copytree(other.root / "commits", store.root / "commits", dirs_exist_ok=True)
    (store.root / store.commit_path("samples", "set.00000")).unlink()
    with pytest.raises(StoreError, match="name 2 images that are no samples"):
        report_of(store, folder)
